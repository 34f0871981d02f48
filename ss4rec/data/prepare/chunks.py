"""Pieces of a source that tasks can read on their own: byte ranges, row groups, or text from a stream."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow.parquet as pq

from ss4rec.data.sources import Archive, data_stream, parse_groups, pieces
from ss4rec.data.sources.checks import Parsed, Rules
from ss4rec.data.sources.table import ParquetPlan, open_parquet
from ss4rec.data.sources.text import TextPlan, line_blocks, next_change, parse_block
from ss4rec.io.paths import AnyPath

SAMPLE_BYTES = 1 << 20
"""Text that decides whether the source looks as if it were in the order of users."""
MOST_BROKEN = 0.1
"""Share of runs of rows in the sample that may be of a user who had a run before."""
GROUP_BYTES = 64 << 20
"""Parquet row groups are joined up to this size of their columns in memory."""


@dataclass(frozen=True)
class Piece:
    """Some rows of a source, in file order after those of the piece before."""

    number: int
    """From 0."""
    start: int = 0
    """First byte (the piece begins behind it, where the next user begins), or first row group."""
    stop: int = 0
    """Byte from which the next piece takes over, or end of the row groups."""
    text: bytes | None = None
    """The lines themselves, where the source can only be read from its beginning."""


def source_pieces(
    archive: Archive, plan: TextPlan | ParquetPlan, block_bytes: int
) -> tuple[Iterator[Piece], int | None]:
    """Return the pieces of a source, and how many there are if that is known before it is read.

    A member of a zip is decompressed here, once, while tasks work on what came before.
    """
    if isinstance(plan, ParquetPlan):
        with open_parquet(archive, plan.file) as file:
            groups = _joined_groups(file)
        return (Piece(n, *group) for n, group in enumerate(groups)), len(groups)
    if archive.seekable:
        size = archive.size(plan.file)
        count = max(1, -(-(size - plan.start) // block_bytes))
        cuts = [plan.start + n * block_bytes for n in range(count)] + [size]
        return (Piece(n, cuts[n], cuts[n + 1]) for n in range(count)), count

    def stream() -> Iterator[Piece]:
        with data_stream(archive, plan) as opened:
            for number, text in enumerate(line_blocks(pieces(opened, plan), plan, block_bytes)):
                yield Piece(number, text=text)

    return stream(), None


def parse_piece(path: AnyPath, plan: TextPlan | ParquetPlan, rules: Rules, piece: Piece) -> Parsed:
    """Read and check the rows of a piece."""
    if piece.text is not None and isinstance(plan, TextPlan):
        return parse_block(piece.text, plan, rules)
    archive = Archive(path)
    if isinstance(plan, ParquetPlan):
        with open_parquet(archive, plan.file) as file:
            return parse_groups(file, range(piece.start, piece.stop), plan, rules)
    with archive.open(plan.file) as stream:
        end = archive.size(plan.file)
        start = piece.start if piece.number == 0 else next_change(stream, piece.start, plan)
        stop = end if piece.stop == end else next_change(stream, piece.stop, plan)
        stream.seek(start)
        return parse_block(stream.read(stop - start), plan, rules)


def looks_sorted(archive: Archive, plan: TextPlan | ParquetPlan) -> bool:
    """Return whether each user's rows lie together in the beginning of a source; of Parquet nothing is assumed."""
    if isinstance(plan, ParquetPlan):
        return False
    with data_stream(archive, plan) as stream:
        lines = stream.read(SAMPLE_BYTES).splitlines(keepends=True)[:-1]
    users = [plan.user_of(line) for line in lines]
    runs = [user for user, before in zip(users, [None, *users], strict=False) if user != before]
    # A bad row cuts a user's rows in two here and no longer does once it is put aside. Blocks are checked anyway.
    return len(runs) - len(set(runs)) <= MOST_BROKEN * len(runs)


def _joined_groups(file: pq.ParquetFile) -> list[tuple[int, int]]:
    """Join neighbouring row groups up to `GROUP_BYTES`."""
    groups: list[tuple[int, int]] = []
    size = 0
    for group in range(file.num_row_groups):
        here = file.metadata.row_group(group).total_byte_size
        if groups and size + here <= GROUP_BYTES:
            groups[-1] = (groups[-1][0], group + 1)
            size += here
        else:
            groups.append((group, group + 1))
            size = here
    return groups
