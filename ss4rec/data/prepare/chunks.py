"""Chunks of a source that tasks can read on their own: byte ranges, row groups, or text from a stream."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow.parquet as pq

from ss4rec.data.sources import Source, data_stream, read_parts
from ss4rec.data.sources.checks import Parsed, Rules
from ss4rec.data.sources.table import ParquetPlan, open_parquet, parse_groups
from ss4rec.data.sources.text import line_blocks, next_change, parse_block

SAMPLE_BYTES = 1 << 20
"""Text that decides whether the source looks as if it were in the order of users."""
MAX_BROKEN = 0.1
"""Fraction of runs of rows in the sample that may be of a user who had a run before."""
GROUP_BYTES = 64 << 20
"""Parquet row groups are joined up to this size of their columns in memory."""


@dataclass(frozen=True)
class Chunk:
    """Some rows of a source, in file order after those of the chunk before."""

    number: int
    """From 0."""
    start: int = 0
    """First byte (the chunk begins behind it, where the next user begins), or first row group."""
    stop: int = 0
    """Byte from which the next chunk takes over, or end of the row groups."""
    text: bytes | None = None
    """The lines themselves, where the source can only be read from its beginning."""


def source_chunks(source: Source, block_bytes: int) -> tuple[Iterator[Chunk], int | None]:
    """Return the chunks of a source, and how many there are if that is known before it is read.

    A member of a zip is decompressed here, once, while tasks work on what came before.
    """
    archive, plan = source.archive, source.plan
    if isinstance(plan, ParquetPlan):
        with open_parquet(archive, plan.file) as file:
            groups = _joined_groups(file)
        return (Chunk(n, *group) for n, group in enumerate(groups)), len(groups)
    if archive.seekable:
        count = max(1, -(-(source.bytes - plan.start) // block_bytes))
        bounds = [plan.start + n * block_bytes for n in range(count)] + [source.bytes]
        return (Chunk(n, bounds[n], bounds[n + 1]) for n in range(count)), count

    def stream() -> Iterator[Chunk]:
        with data_stream(archive, plan) as opened:
            for number, text in enumerate(line_blocks(read_parts(opened, plan), plan, block_bytes)):
                yield Chunk(number, text=text)

    return stream(), None


def parse_chunk(source: Source, rules: Rules, chunk: Chunk) -> Parsed:
    """Read and check the rows of a chunk."""
    archive, plan = source.archive, source.plan
    if isinstance(plan, ParquetPlan):
        with open_parquet(archive, plan.file) as file:
            return parse_groups(file, range(chunk.start, chunk.stop), plan, rules)
    if chunk.text is not None:
        return parse_block(chunk.text, plan, rules)
    with archive.open(plan.file) as stream:
        end = source.bytes
        start = chunk.start if chunk.number == 0 else next_change(stream, chunk.start, plan)
        stop = end if chunk.stop == end else next_change(stream, chunk.stop, plan)
        stream.seek(start)
        return parse_block(stream.read(stop - start), plan, rules)


def looks_sorted(source: Source) -> bool:
    """Return whether each user's rows lie together in the beginning of a source; of Parquet nothing is assumed."""
    plan = source.plan
    if isinstance(plan, ParquetPlan):
        return False
    with data_stream(source.archive, plan) as stream:
        lines = stream.read(SAMPLE_BYTES).splitlines(keepends=True)[:-1]
    users = [plan.user_of(line) for line in lines]
    runs = [user for user, before in zip(users, [None, *users], strict=False) if user != before]
    # A bad row cuts a user's rows in two here and no longer does once it is put aside. Blocks are checked anyway.
    return len(runs) - len(set(runs)) <= MAX_BROKEN * len(runs)


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
