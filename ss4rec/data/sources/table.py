"""Tables of Parquet files, a few row groups at a time."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ss4rec.data.sources.archive import Archive
from ss4rec.data.sources.checks import QUARANTINE_SCHEMA, Parsed, Rules, check_rows
from ss4rec.data.sources.parts import Part
from ss4rec.data.sources.plan import TablePlan
from ss4rec.data.sources.rows import CONTEXT, known_texts
from ss4rec.data.sources.text import constant_columns
from ss4rec.data.sources.times import is_bytes, is_text, plain_type, refuse_type
from ss4rec.errors import DataError
from ss4rec.io.untrusted import refuse_bomb, unpacked_bytes


@dataclass(frozen=True, kw_only=True)
class ParquetPlan(TablePlan):
    """How to read a table of Parquet files."""

    as_text: frozenset[str] = frozenset()
    """Roles whose ids do not all fit into int64, or have other types in other files."""


@contextmanager
def open_parquet(archive: Archive, name: str) -> Iterator[pq.ParquetFile]:
    """Open a Parquet file of a source.

    Raises:
        DataError: naming the file, if it is none or damaged, also while it is read.
    """
    try:
        with archive.open_packed(name) as stream, pq.ParquetFile(stream) as file:
            refuse_bomb(archive.where(name), stream.seek(0, os.SEEK_END), unpacked_bytes(file.metadata))
            yield file
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        message = str(error).splitlines()[0]
        raise DataError(
            f"{archive.where(name)} is no complete Parquet file ({message}); write it again"
        ) from None


def parse_groups(
    file: pq.ParquetFile,
    groups: Sequence[int],
    plan: ParquetPlan,
    rules: Rules,
    part: Part | None = None,
    *,
    is_first: bool = False,
) -> Parsed:
    """Turn row groups into columns; rows that break a rule go into quarantine.

    Args:
        file: one file of the table.
        groups: numbers of its row groups.
        plan: how to read it.
        rules: what a row must be.
        part: which file it is; by default the first.
        is_first: as for `text.parse_block`.

    Raises:
        DataError: if a column has a type that cannot play its role.
    """
    table = file.read_row_groups(list(groups), columns=list(dict.fromkeys(plan.roles.values())))
    try:
        columns = {role: converted(table[column], role, plan) for role, column in plan.roles.items()}
    except pa.ArrowInvalid as error:
        raise DataError(f"{plan.where}: {str(error).splitlines()[0]}; write the column anew") from None
    rows = table.num_rows
    columns |= constant_columns(part or plan.parts[0], rows)
    first_row = plan.first_row if is_first else None
    return check_rows(
        columns,
        rules,
        np.arange(rows),
        QUARANTINE_SCHEMA.empty_table(),
        rows,
        plan.times,
        plan.where,
        first_row,
    )


def check_types(schema: pa.Schema, roles: dict[str, str], where: str) -> None:
    """Refuse columns that cannot play their roles.

    Raises:
        DataError: with the type and the way out.
    """
    for role, column in roles.items():
        kind = plain_type(schema.field(column).type)
        if role == "time":
            refuse_type(kind, (), where)
        elif role == "rating":
            number = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
            if not number and not pa.types.is_null(kind):
                raise DataError(f"{where}: rating has type {kind}; ratings must be numbers")
        elif role.startswith(CONTEXT):
            if pa.types.is_nested(kind) or is_bytes(kind):
                raise DataError(
                    f"{where}: {column} has type {kind}; columns about events are texts or numbers"
                )
        elif not (pa.types.is_integer(kind) or is_text(kind) or is_bytes(kind) or pa.types.is_null(kind)):
            raise DataError(f"{where}: {role} has type {kind}; ids must be strings or integers")


def converted(column: pa.ChunkedArray, role: str, plan: ParquetPlan) -> pa.Array:
    """Return a column as one array of a type that `check_rows` knows."""
    values = decoded(column)
    kind = values.type
    if role == "rating":
        return values.cast(pa.float64(), safe=False) if pa.types.is_decimal(kind) else values
    if role == "time":
        return values.cast(pa.string()) if is_text(kind) or is_bytes(kind) else values
    if pa.types.is_integer(kind) and role in ("user", "item") and role not in plan.as_text:
        return values.cast(pa.int64())
    return known_texts(values).dictionary_encode()


def decoded(column: pa.ChunkedArray) -> pa.Array:
    """Return a column as one array of its values, without dictionaries, runs and types of extensions."""
    values = _one(column)
    if isinstance(values, pa.ExtensionArray):
        values = values.storage
    while plain_type(values.type) != values.type:
        encoded = pa.types.is_dictionary(values.type)
        values = values.dictionary_decode() if encoded else pc.run_end_decode(values)
    return values


def _one(column: pa.ChunkedArray) -> pa.Array:
    joined = column.combine_chunks()
    return pa.concat_arrays(joined.chunks) if isinstance(joined, pa.ChunkedArray) else joined
