"""Sources of ratings: find the layout of a zip, a folder or a file, and read its rows in file order."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import IO

from ss4rec.data.sources.archive import Archive
from ss4rec.data.sources.checks import Parsed, Rules, enforce_limit
from ss4rec.data.sources.layouts import LAYOUTS, ROLES, Layout, plan_table
from ss4rec.data.sources.rows import Rows, join_blocks
from ss4rec.data.sources.table import ParquetPlan, open_parquet, parse_groups
from ss4rec.data.sources.text import TextPlan, line_blocks, parse_block
from ss4rec.errors import DataError
from ss4rec.io.paths import AnyPath, RemotePath, to_path

__all__ = ["Archive", "Rows", "Rules", "parse_blocks", "plan_source", "read_source", "resolve_source"]


def resolve_source(text: str) -> AnyPath:
    """Return the path that `text` names: itself, or `data/<text>.zip` for a bare name such as `ml-1m`.

    Raises:
        DataError: if neither exists.
    """
    path = to_path(text)
    if isinstance(path, RemotePath):
        return path
    if path.exists():
        return path
    if path.name != text or path.suffix:
        raise DataError(f"{text} does not exist; give a zip, a folder or a file of ratings")
    archive = Path("data") / f"{text}.zip"
    if not archive.exists():
        raise DataError(f"there is no {archive}; run `ss4rec data get {text}` or give a path")
    return archive


def plan_source(
    archive: Archive, columns: Mapping[str, str] | None = None
) -> tuple[TextPlan | ParquetPlan, Layout]:
    """Find the layout of a source and how its ratings lie.

    Args:
        archive: the source.
        columns: column name of `user`, `item`, `time`, `rating` in a CSV or Parquet file; what is not named is
            guessed from the common names. Given, only a CSV or Parquet file is looked for.

    Raises:
        DataError: if no layout fits.
    """
    unknown = sorted(set(columns or {}) - set(ROLES))
    if unknown:
        raise DataError(f"--columns knows {', '.join(ROLES)}, not {', '.join(unknown)}")
    for layout in LAYOUTS:
        if columns and layout.name != "table":
            continue
        name = archive.find(layout.patterns)
        if name is not None:
            plan = plan_table(archive, name, columns) if columns else layout.plan(archive, name)
            return plan, layout
    wanted = ", ".join(pattern for layout in LAYOUTS for pattern in layout.patterns)
    holds = ", ".join(archive.names[:8]) or "no files"
    raise DataError(f"{archive.path} has no known layout: looked for {wanted}; found {holds}")


def read_source(
    archive: Archive, columns: Mapping[str, str] | None = None, rules: Rules | None = None
) -> Rows:
    """Read all rows of a source.

    Args:
        archive: the source.
        columns: as in `plan_source`.
        rules: what a row must be; by default every row must have an id of a user and an item, a time and a finite
            rating, or the source is refused.

    Raises:
        DataError: if no layout fits, a file is damaged, or more rows than `rules` allow cannot be used.
    """
    rules = rules or Rules()
    plan, layout = plan_source(archive, columns)
    parts = list(parse_blocks(archive, plan, rules))
    rows = sum(part.rows for part in parts)
    if not rows:
        raise DataError(f"{plan.where} has no rows; give a file with ratings")
    catalogue = layout.catalogue(archive, plan.file)
    joined = join_blocks(parts, plan.layout, plan.file, catalogue, plan.first_row, repeats=rules.repeats)
    enforce_limit(joined.bad, rows, rules, plan.where)
    return replace(joined, profiles=layout.profiles(archive, plan.file))


def parse_blocks(archive: Archive, plan: TextPlan | ParquetPlan, rules: Rules) -> Iterator[Parsed]:
    """Parse a source from its beginning to its end, a block at a time."""
    if isinstance(plan, ParquetPlan):
        with open_parquet(archive, plan.file) as file:
            for group in range(file.num_row_groups):
                yield parse_groups(file, [group], plan, rules)
        return
    with data_stream(archive, plan) as stream:
        for block in line_blocks(pieces(stream, plan), plan):
            yield parse_block(block, plan, rules)


@contextmanager
def data_stream(archive: Archive, plan: TextPlan) -> Iterator[IO[bytes]]:
    """Open the file with the ratings behind its header."""
    with archive.open(plan.file) as stream:
        stream.read(plan.start)
        yield stream


def pieces(stream: IO[bytes], plan: TextPlan, piece_bytes: int = 4 << 20) -> Iterator[bytes]:
    """Yield a stream in pieces.

    Raises:
        DataError: if the zip behind it is damaged.
    """
    try:
        while piece := stream.read(piece_bytes):
            yield piece
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise DataError(f"{plan.where} is damaged ({error}); download the archive again") from None
