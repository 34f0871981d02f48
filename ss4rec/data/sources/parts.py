"""One table in several files: Spark's and Hive's folders of parts, exports cut in pieces, and what is none of it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from urllib.parse import unquote

from ss4rec.data.sources.packed import bare_name

HIVE_NULL = "__HIVE_DEFAULT_PARTITION__"
UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|[0-9a-f]{32}")
SPARK_ATTEMPT = re.compile(r"([.-]c\d+)?(\.(snappy|gz|zstd|lz4|uncompressed))?$")


@dataclass(frozen=True)
class Part:
    """One file of a table."""

    file: str
    """Relative to the source."""
    start: int = 0
    """Bytes before its first row, in text."""
    values: tuple[tuple[str, str | None], ...] = ()
    """Role and value of the columns that stand in the folder's name, as in `day=2024-01-01`."""


def is_hidden(name: str) -> bool:
    """Return whether a file is none of the user's data: `._x` and `__MACOSX` of macOS, `_SUCCESS` of Spark, `.crc`."""
    return any(
        part.startswith(".") or (part.startswith("_") and "=" not in part)
        for part in PurePosixPath(name).parts
    )


def hive_values(name: str) -> dict[str, str | None]:
    """Return the columns that stand in the names of a file's folders, as in `day=2024-01-01/part-0.parquet`."""
    pairs = [folder.partition("=") for folder in PurePosixPath(name).parts[:-1] if "=" in folder]
    return {
        unquote(column): None if value == HIVE_NULL else unquote(value)
        for column, _, value in pairs
        if column
    }


def are_one_table(names: Sequence[str]) -> bool:
    """Return whether files are parts of one table: their paths differ in numbers, identifiers or Hive values only."""
    return len({_pattern(name) for name in names}) == 1


def in_order(names: Sequence[str]) -> list[str]:
    """Return names in the order in which a person counts: `part-2` before `part-10`."""

    def key(name: str) -> list[tuple[int, int, str]]:
        return [
            (0, int(piece), "") if piece.isascii() and piece.isdigit() else (1, 0, piece)
            for piece in re.split(r"([0-9]+)", name)
        ]

    return sorted(names, key=lambda name: (key(name), name))


def _pattern(name: str) -> str:
    """Return a path without what differs between the parts of a table."""
    path = PurePosixPath(name)
    folders = [folder.partition("=")[0] + "=" if "=" in folder else folder for folder in path.parts[:-1]]
    last = bare_name(path.name)
    stem, dot, suffix = last.rpartition(".")
    stem = re.sub(r"[0-9]+", "#", UUID.sub("#", SPARK_ATTEMPT.sub("", stem)))
    return "/".join([*folders, stem + dot + suffix])
