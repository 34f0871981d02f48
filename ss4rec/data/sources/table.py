"""Parquet files of ratings, a few row groups at a time."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ss4rec.data.sources.archive import Archive
from ss4rec.data.sources.checks import QUARANTINE_SCHEMA, Parsed, Rules, check_rows
from ss4rec.errors import DataError
from ss4rec.io.untrusted import refuse_bomb, unpacked_bytes


@dataclass(frozen=True)
class ParquetPlan:
    """How to read one Parquet file."""

    layout: str
    """Name of the layout."""
    file: str
    """The file, relative to the source."""
    where: str
    """What messages call it."""
    roles: dict[str, str]
    """Column of `user`, `item`, `time` and perhaps `rating`."""
    first_row: int = 1
    """Number of the first row as a person counts."""


@contextmanager
def open_parquet(archive: Archive, name: str) -> Iterator[pq.ParquetFile]:
    """Open a Parquet file of a source.

    Raises:
        DataError: naming the file, if it is none or damaged, also while it is read.
    """
    try:
        with archive.open(name) as stream, pq.ParquetFile(stream) as file:
            refuse_bomb(archive.where(name), stream.seek(0, os.SEEK_END), unpacked_bytes(file.metadata))
            yield file
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        message = str(error).splitlines()[0]
        raise DataError(
            f"{archive.where(name)} is no complete Parquet file ({message}); write it again"
        ) from None


def parse_groups(file: pq.ParquetFile, groups: Sequence[int], plan: ParquetPlan, rules: Rules) -> Parsed:
    """Turn row groups into rows; those that break a rule go into quarantine.

    Raises:
        DataError: if a column has a type that cannot play its role.
    """
    table = file.read_row_groups(list(groups), columns=list(plan.roles.values()))
    columns = {role: _converted(table[column], role, plan) for role, column in plan.roles.items()}
    rows = table.num_rows
    return check_rows(columns, rules, np.arange(rows), QUARANTINE_SCHEMA.empty_table(), rows)


def _converted(column: pa.ChunkedArray, role: str, plan: ParquetPlan) -> pa.Array:
    """Return a column as one array of a type that `check_rows` knows."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        column, kind = column.cast(kind.value_type), kind.value_type
    number = pa.types.is_integer(kind) or pa.types.is_floating(kind)
    if role == "rating" and not number:
        raise DataError(f"{plan.where}: rating has type {kind}; ratings must be numbers")
    if role == "time" and not (number or pa.types.is_timestamp(kind) or pa.types.is_date(kind)):
        example = column[0].as_py() if len(column) else None
        raise DataError(
            f"{plan.where}: time has type {kind} (first value {example!r}); give unix seconds or ISO 8601 dates"
        )
    if role in ("user", "item"):
        if pa.types.is_integer(kind):
            column = column.cast(pa.int64())
        elif pa.types.is_string(kind) or pa.types.is_large_string(kind):
            column = column.cast(pa.string()).dictionary_encode()
        else:
            raise DataError(f"{plan.where}: {role} has type {kind}; ids must be strings or integers")
    joined = column.combine_chunks()
    return joined.combine_chunks() if isinstance(joined, pa.ChunkedArray) else joined
