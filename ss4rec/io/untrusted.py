"""Reading what others may have written: JSON of bounded size and depth, packed data of bounded unpacked size."""

from __future__ import annotations

import json
from typing import Any

from ss4rec.errors import DataError
from ss4rec.io.paths import AnyPath

MAX_JSON_BYTES = 64 << 20
"""Largest JSON file that is read; a manifest of 100,000 shards has about 20 MB."""
BOMB_BYTES, BOMB_RATIO = 1 << 30, 100
"""Data that unpacks to more than the one, and more than the other times its packed size, is refused. Ratings in CSV
pack about 4 to 1."""


def parse_json(text: str | bytes) -> Any:
    """Parse JSON.

    Raises:
        ValueError: if it is no JSON, no UTF-8, or nested deeper than Python's stack.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def read_json(path: AnyPath) -> Any:
    """Read a JSON file of at most MAX_JSON_BYTES.

    Raises:
        OSError: if it cannot be read.
        ValueError: if it is too large or `parse_json` refuses it.
    """
    if path.exists() and not path.is_file():  # opening a pipe would wait for ever
        raise ValueError("it is no file")
    if path.exists() and path.stat().st_size > MAX_JSON_BYTES:
        raise ValueError(f"it has more than {MAX_JSON_BYTES >> 20} MiB")
    return parse_json(path.read_bytes())


def refuse_bomb(where: str, packed_bytes: int, unpacked_bytes: int) -> None:
    """Refuse data that would unpack to far more than it says.

    Raises:
        DataError: with both sizes.
    """
    if unpacked_bytes > BOMB_BYTES and unpacked_bytes > BOMB_RATIO * packed_bytes:
        raise DataError(
            f"{where} unpacks from {packed_bytes:,} to {unpacked_bytes:,} bytes, more than {BOMB_RATIO} times; no "
            "ratings pack like this, so it was not opened. If you made it yourself, unpack it and give the folder"
        )


def unpacked_bytes(metadata: Any) -> int:
    """Return the least bytes that a Parquet file takes in memory: 4 for each value, or what its pages say if more.

    Args:
        metadata: `pyarrow.parquet.FileMetaData`.
    """
    values = pages = 0
    for group in range(metadata.num_row_groups):
        row_group = metadata.row_group(group)
        columns = [row_group.column(number) for number in range(row_group.num_columns)]
        values += sum(column.num_values for column in columns)
        pages += sum(column.total_uncompressed_size for column in columns)
    return max(4 * values, pages)
