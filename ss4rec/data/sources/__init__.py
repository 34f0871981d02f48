"""Sources of ratings: find the layout of a zip, a folder or a file, and read its rows in file order."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from ss4rec.data.sources.archive import Archive
from ss4rec.data.sources.checks import Parsed, Rules, concatenated
from ss4rec.data.sources.layouts import LAYOUTS, ROLES, Layout, plan_table
from ss4rec.data.sources.rows import Catalogue, Profiles
from ss4rec.data.sources.table import ParquetPlan, open_parquet, parse_groups
from ss4rec.data.sources.text import TextPlan, line_blocks, parse_block
from ss4rec.errors import DataError
from ss4rec.io.paths import AnyPath, RemotePath, to_path

__all__ = ["Archive", "Rules", "Source", "resolve_source"]


@dataclass(frozen=True)
class Source:
    """A source that is open, its layout found and its reading planned: once, for everything that follows."""

    archive: Archive
    """Its files."""
    plan: TextPlan | ParquetPlan
    """How its ratings lie."""
    layout: Layout
    """What else it may say, and where."""

    @classmethod
    def open(cls, path: AnyPath, columns: Mapping[str, str] | None = None) -> Source:
        """Find the layout of a source and how its ratings lie.

        Args:
            path: a zip, a folder or a file.
            columns: column name of `user`, `item`, `time`, `rating` in a CSV or Parquet file; what is not named is
                guessed from the common names. Given, only a CSV or Parquet file is looked for.

        Raises:
            DataError: if no layout fits.
        """
        archive = Archive(path)
        unknown = sorted(set(columns or {}) - set(ROLES))
        if unknown:
            raise DataError(f"--columns knows {', '.join(ROLES)}, not {', '.join(unknown)}")
        for layout in LAYOUTS:
            if columns and layout.name != "table":
                continue
            name = archive.find(layout.patterns)
            if name is not None:
                plan = plan_table(archive, name, columns) if columns else layout.plan(archive, name)
                return cls(archive, plan, layout)
        wanted = ", ".join(pattern for layout in LAYOUTS for pattern in layout.patterns)
        holds = ", ".join(archive.names[:8]) or "no files"
        raise DataError(f"{archive.path} has no known layout: looked for {wanted}; found {holds}")

    @property
    def path(self) -> AnyPath:
        """Where it lies."""
        return self.archive.path

    @property
    def bytes(self) -> int:
        """Size of the file with the ratings, unpacked."""
        return self.archive.size(self.plan.file)

    def catalogue(self) -> Catalogue | None:
        """Return what it says about items."""
        return self.layout.catalogue(self.archive, self.plan.file)

    def profiles(self) -> Profiles | None:
        """Return what it says about users."""
        return self.layout.profiles(self.archive, self.plan.file)

    def read(self, rules: Rules | None = None) -> Parsed:
        """Read all rows, numbered as a person counts them in the file.

        Args:
            rules: what a row must be; by default it needs an id of a user and an item, a time and a finite rating.

        Raises:
            DataError: if a file is damaged or has no rows.
        """
        parts = list(_parse_parts(self.archive, self.plan, rules or Rules()))
        if not sum(part.rows for part in parts):
            raise DataError(f"{self.plan.where} has no rows; give a file with ratings")
        return concatenated(parts, self.plan.first_row)


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


def _parse_parts(archive: Archive, plan: TextPlan | ParquetPlan, rules: Rules) -> Iterator[Parsed]:
    """Parse a source from its beginning to its end, a part at a time."""
    if isinstance(plan, ParquetPlan):
        with open_parquet(archive, plan.file) as file:
            for group in range(file.num_row_groups):
                yield parse_groups(file, [group], plan, rules)
        return
    with data_stream(archive, plan) as stream:
        for block in line_blocks(read_parts(stream, plan), plan):
            yield parse_block(block, plan, rules)


@contextmanager
def data_stream(archive: Archive, plan: TextPlan) -> Iterator[IO[bytes]]:
    """Open the file with the ratings behind its header."""
    with archive.open(plan.file) as stream:
        stream.read(plan.start)
        yield stream


def read_parts(stream: IO[bytes], plan: TextPlan, part_bytes: int = 4 << 20) -> Iterator[bytes]:
    """Yield a stream in parts.

    Raises:
        DataError: if the zip behind it is damaged.
    """
    try:
        while part := stream.read(part_bytes):
            yield part
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise DataError(f"{plan.where} is damaged ({error}); download the archive again") from None
