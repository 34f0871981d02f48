"""Sources of ratings: find the layout of a zip, a folder or a file, and read its rows in file order."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ss4rec.data.sources.archive import Archive
from ss4rec.data.sources.layouts import LAYOUTS, ROLES, read_table
from ss4rec.data.sources.rows import Rows
from ss4rec.errors import DataError

__all__ = ["Archive", "Rows", "read_source", "resolve_source"]


def resolve_source(text: str) -> Path:
    """Return the path that `text` names: itself, or `data/<text>.zip` for a bare name such as `ml-1m`.

    Raises:
        DataError: if neither exists.
    """
    path = Path(text)
    if path.exists():
        return path
    if path.name != text or path.suffix:
        raise DataError(f"{text} does not exist; give a zip, a folder or a file of ratings")
    archive = Path("data") / f"{text}.zip"
    if not archive.exists():
        raise DataError(f"there is no {archive}; run `ss4rec data get {text}` or give a path")
    return archive


def read_source(archive: Archive, columns: Mapping[str, str] | None = None) -> Rows:
    """Read all rows of a source.

    Args:
        archive: the source.
        columns: column name of `user`, `item`, `time`, `rating` in a CSV or Parquet file; what is not named is
            guessed from the common names. Given, only a CSV or Parquet file is looked for.

    Raises:
        DataError: if no layout fits, or a file is damaged, or a row cannot be used.
    """
    unknown = sorted(set(columns or {}) - set(ROLES))
    if unknown:
        raise DataError(f"--columns knows {', '.join(ROLES)}, not {', '.join(unknown)}")
    for layout in LAYOUTS:
        if columns and layout.name != "table":
            continue
        name = archive.find(layout.patterns)
        if name is not None:
            return read_table(archive, name, columns) if columns else layout.read(archive, name)
    wanted = ", ".join(pattern for layout in LAYOUTS for pattern in layout.patterns)
    holds = ", ".join(archive.names[:8]) or "no files"
    raise DataError(f"{archive.path} has no known layout: looked for {wanted}; found {holds}")
