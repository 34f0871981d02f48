"""Chunks of a source that tasks can read on their own: byte ranges, row groups, or text from a stream."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import pyarrow.parquet as pq

from ss4rec.data.sources import Source, data_stream, parse_lines, read_stream
from ss4rec.data.sources.checks import Parsed, Rules
from ss4rec.data.sources.head import read_fully
from ss4rec.data.sources.quotes import rows_of
from ss4rec.data.sources.table import ParquetPlan, open_parquet, parse_groups
from ss4rec.data.sources.text import QuotesFoundError, line_blocks, next_change

SAMPLE_BYTES = 1 << 18
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
    part: int = 0
    """Which file of the source."""
    start: int = 0
    """First byte (the chunk begins behind it, where the next user begins), or first row group."""
    stop: int = 0
    """Byte from which the next chunk takes over, or end of the row groups."""
    text: bytes | None = None
    """The lines themselves, where the file can only be read from its beginning."""
    exact: bool = False
    """Whether `start` and `stop` are where rows begin; else the chunk begins and ends behind them."""


def source_chunks(source: Source, block_bytes: int) -> tuple[Iterator[Chunk], int | None]:
    """Return the chunks of a source, and how many there are if that is known before it is read.

    A packed file or a member of a zip is unpacked here, once, while tasks work on what came before. A file with quoted
    fields is read here too, since only that tells where its rows end; tasks then read their bytes of it.
    """
    known: int | None = 0
    parts: list[tuple[int, list[tuple[int, int]] | None]] = []
    for number, part in enumerate(source.plan.parts):
        spans: list[tuple[int, int]] | None = None
        if isinstance(source.plan, ParquetPlan):
            with open_parquet(source.archive, part.file) as file:
                spans = _joined_groups(file)
        elif not source.plan.quoted and not source.archive.is_stream(part.file):
            size = source.archive.size(part.file)
            count = max(1, -(-(size - part.start) // block_bytes))
            bounds = [part.start + n * block_bytes for n in range(count)] + [size]
            spans = list(zip(bounds[:-1], bounds[1:], strict=True))
        parts.append((number, spans))
        known = None if known is None or spans is None else known + len(spans)

    def chunks() -> Iterator[Chunk]:
        at = 0
        for part, spans in parts:
            found = (
                _read_chunks(source, part, block_bytes)
                if spans is None
                else (Chunk(0, part, *span) for span in spans)
            )
            for chunk in found:
                yield replace(chunk, number=at)
                at += 1

    return chunks(), known


def _read_chunks(source: Source, number: int, block_bytes: int) -> Iterator[Chunk]:
    """Read a file from its beginning to find out where its rows end."""
    part, plan = source.plan.parts[number], source.plan
    assert not isinstance(plan, ParquetPlan)
    is_stream, at = source.archive.is_stream(part.file), part.start
    with data_stream(source.archive, part) as opened:
        where = source.archive.where(part.file)
        for text in line_blocks(read_stream(opened, where), plan, block_bytes):
            if is_stream:
                yield Chunk(0, number, text=text)
            else:
                yield Chunk(0, number, at, at + len(text), exact=True)
            at += len(text)


def parse_chunk(source: Source, rules: Rules, chunk: Chunk) -> Parsed:
    """Read and check the rows of a chunk.

    Raises:
        QuotesFoundError: if it was cut as if it held no quoted fields, and there is one.
    """
    archive, plan, part = source.archive, source.plan, source.plan.parts[chunk.part]
    is_first = chunk.number == 0
    if isinstance(plan, ParquetPlan):
        with open_parquet(archive, part.file) as file:
            groups = range(chunk.start, chunk.stop)
            return parse_groups(file, groups, plan, rules, part, is_first=is_first)
    if chunk.text is not None:
        return parse_lines(chunk.text, plan, rules, part, is_first=is_first)
    with archive.open_packed(part.file) as stream:
        start, stop = chunk.start, chunk.stop
        if not chunk.exact:
            start = start if start == part.start else next_change(stream, start, plan)
            stop = stop if stop == archive.size(part.file) else next_change(stream, stop, plan)
        stream.seek(start)
        text = read_fully(stream, max(stop - start, 0))
    if plan.quotes and not chunk.exact and b'"' in text:
        raise QuotesFoundError
    return parse_lines(text, plan, rules, part, is_first=is_first)


def looks_sorted(source: Source) -> bool:
    """Return whether each user's rows lie together in the beginning of a source; of Parquet nothing is assumed."""
    plan = source.plan
    if isinstance(plan, ParquetPlan):
        return False
    with data_stream(source.archive, plan.parts[0]) as stream:
        data = read_fully(stream, SAMPLE_BYTES)
    quotes_Q = plan.quotes_in(data)
    lines = list(rows_of(data, quotes_Q, plan.newline)) if len(quotes_Q) else data.split(plan.newline)
    users = [plan.user_of(line) for line in lines[:-1] if line and not line.isspace()]
    runs = [user for user, before in zip(users, [None, *users], strict=False) if user != before]
    # An unusable row cuts a user's rows in two here, and no longer once it is in quarantine. Blocks are checked anyway.
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
