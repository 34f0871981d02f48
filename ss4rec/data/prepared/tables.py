"""The Parquet tables of a prepared folder: their schemas, and the only code that reads and writes them.

Files are written deterministically: the same rows give the same bytes (for one version of pyarrow).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from ss4rec.data.prepared.manifest import AGAIN
from ss4rec.data.sources.rows import CONTEXT, Catalogue
from ss4rec.data.sources.times import LATEST_S
from ss4rec.errors import DataError
from ss4rec.io.atomic import write_whole
from ss4rec.io.paths import AnyPath
from ss4rec.io.untrusted import refuse_bomb, unpacked_bytes

SHARDS_FOLDER = "shards"
ITEMS_NAME = "items.parquet"
USERS_NAME = "users.parquet"
QUARANTINE_NAME = "quarantine.parquet"
PROFILES_NAME = "profiles.parquet"
FEATURE_PREFIX = "feature."
FEATURE_TYPES = (pa.int32(), pa.float32(), pa.list_(pa.int32()), pa.list_(pa.float32()))
"""Columns of features that people brought (`ss4rec.data.prepared.features`)."""
CONTEXT_TYPES = (pa.list_(pa.int32()), pa.list_(pa.float32()))
"""Columns about the event (`ss4rec.data.prepare.context`): codes, 0 unknown, or numbers, NaN unknown."""
MAX_CONTEXT_CODE = 10_000
PROFILES_SCHEMA = pa.schema([("user", pa.int32()), ("codes", pa.list_(pa.int32()))])

SHARD_SCHEMA = pa.schema(
    [
        ("user", pa.int32()),
        ("items", pa.list_(pa.int32())),
        ("timestamps", pa.list_(pa.int64())),
        ("ratings", pa.list_(pa.float32())),
    ]
)


def items_schema(id_type: pa.DataType, features: pa.Schema | None = None) -> pa.Schema:
    """Return the schema of `items.parquet`; `id_type` is int64 or string, `features` more columns."""
    base = pa.schema(
        [
            ("item", pa.int32()),
            ("source_id", id_type),
            ("title", pa.string()),
            ("genres", pa.list_(pa.string())),
            ("count", pa.int64()),
        ]
    )
    return base if features is None else pa.schema([*base, *features])


def users_schema(id_type: pa.DataType) -> pa.Schema:
    """Return the schema of `users.parquet`; `id_type` is int64 or string."""
    return pa.schema(
        [("user", pa.int32()), ("source_id", id_type), ("count", pa.int32()), ("shard", pa.int32())]
    )


def items_table(items: Catalogue, counts_V: npt.NDArray[Any]) -> pa.Table:
    """Return `items.parquet`: items 1, 2, ..., each with its number of kept interactions."""
    features = items.features
    columns = [np.arange(1, len(counts_V) + 1), items.source_id, items.title, items.genres, counts_V]
    columns += [] if features is None else features.columns
    schema = items_schema(items.source_id.type, None if features is None else features.schema)
    return pa.table(dict(zip(schema.names, columns, strict=True)), schema=schema)


def users_table(user_ids: pa.Array, lengths_U: npt.NDArray[Any], rows_per_shard: int) -> pa.Table:
    """Return `users.parquet`: ids ascending, each with its number of kept events."""
    users_U = np.arange(len(user_ids))
    schema = users_schema(user_ids.type)
    columns = [users_U, user_ids, lengths_U, users_U // rows_per_shard]
    return pa.table(dict(zip(schema.names, columns, strict=True)), schema=schema)


def shard_table(
    first_user: int,
    items_E: npt.NDArray[Any],
    times_E: npt.NDArray[Any],
    ratings_E: npt.NDArray[Any],
    offsets_U1: npt.NDArray[Any],
    context: Mapping[str, npt.NDArray[Any]] | None = None,
) -> pa.Table:
    """Return the table of one shard.

    Args:
        first_user: index of its first user.
        items_E: int32 item index of each event, users concatenated, each in its own order.
        times_E: int64 unix seconds of each event.
        ratings_E: float32 rating of each event.
        offsets_U1: first event of each user, and at the end the number of events E.
        context: columns about the event by name, int32 codes or float32 numbers.
    """
    offsets = pa.array(offsets_U1, pa.int32())
    columns = [pa.array(np.arange(first_user, first_user + len(offsets) - 1), pa.int32())]
    for field, values_E in zip(list(SHARD_SCHEMA)[1:], (items_E, times_E, ratings_E), strict=True):
        values = pa.array(values_E, field.type.value_type)
        columns.append(pa.ListArray.from_arrays(offsets, values, type=field.type))
    table = pa.Table.from_arrays(columns, schema=SHARD_SCHEMA)
    for name, values_E in (context or {}).items():
        table = table.append_column(name, pa.ListArray.from_arrays(offsets, pa.array(values_E)))
    return table


def shard_name(number: int) -> str:
    """Return the name of a shard, relative to the prepared folder."""
    return f"{SHARDS_FOLDER}/part-{number:05d}.parquet"


def write_table(table: pa.Table, path: AnyPath) -> None:
    """Write one Parquet file with one row group, whole or not at all."""
    sink = pa.BufferOutputStream()
    # Of shards only ratings have few values. Splitting numbers into streams of bytes makes writing and reading a third
    # faster than zstd alone, for a seventh more bytes.
    numbers = ["items.list.element", "timestamps.list.element"]
    special = {
        "use_dictionary": ["ratings.list.element"],
        "column_encoding": dict.fromkeys(numbers, "BYTE_STREAM_SPLIT"),
    }
    context = [name for name in table.column_names if name.startswith(CONTEXT)]
    options: dict[str, Any] = {}
    if table.column_names[: len(SHARD_SCHEMA)] == SHARD_SCHEMA.names:
        few = [f"{name}.list.element" for name in ("ratings", *context)]
        options = {**special, "use_dictionary": few}
    pq.write_table(table, sink, compression="zstd", row_group_size=max(table.num_rows, 1), **options)
    write_whole(path, sink.getvalue())


def read_shard(path: AnyPath, num_items: int | None = None) -> pa.Table:
    """Read one shard: a row a user, columns as in `SHARD_SCHEMA`, then those about the event.

    Args:
        path: the file.
        num_items: largest item index that the folder knows, if the caller indexes a table by items.

    Raises:
        DataError: naming the file, if it is missing, truncated, has other columns, or values out of range.
    """
    table = _read_parquet(path, _with_context)
    _check_events(path, table, num_items)
    return table


def _with_context(found: pa.Schema) -> pa.Schema:
    """Return the schema of a shard with the columns about the event that it has."""
    more = [field for field in found if field.name.startswith(CONTEXT) and field.type in CONTEXT_TYPES]
    return pa.schema([*SHARD_SCHEMA, *more])


def read_items(folder: AnyPath) -> pa.Table:
    """Read `items.parquet`; row i-1 is item index i.

    Raises:
        DataError: naming the file, if it is missing, truncated, or has other columns.
    """
    return _read_indexed(folder / ITEMS_NAME, items_schema)


def read_users(folder: AnyPath) -> pa.Table:
    """Read `users.parquet`; row u is user index u.

    Raises:
        DataError: naming the file, if it is missing, truncated, or has other columns.
    """
    return _read_indexed(folder / USERS_NAME, users_schema)


def read_profile_table(folder: AnyPath) -> pa.Table:
    """Read `profiles.parquet`; row u is user index u.

    Raises:
        DataError: naming the file, if it is missing, truncated, or has other columns.
    """
    path = folder / PROFILES_NAME
    table = _read_parquet(path, lambda schema: PROFILES_SCHEMA)
    codes = table["codes"].combine_chunks()
    if table["user"].null_count or codes.null_count or codes.flatten().null_count:
        raise DataError(f"{path}: a column has empty values; {AGAIN}")
    return table


def _read_indexed(path: AnyPath, schema_for: Callable[[pa.DataType], pa.Schema]) -> pa.Table:
    """Read a table that has `source_id` of one of the two id types."""

    def expected(found: pa.Schema) -> pa.Schema:
        has_strings = "source_id" in found.names and found.field("source_id").type == pa.string()
        base = schema_for(pa.string() if has_strings else pa.int64())
        features = [f for f in found if f.name.startswith(FEATURE_PREFIX) and f.type in FEATURE_TYPES]
        return pa.schema([*base, *features])

    table = _read_parquet(path, expected)
    for name in set(table.column_names) - {"title", "genres"}:
        if table[name].null_count:
            raise DataError(f"{path}: column {name} has empty values; {AGAIN}")
    return table


def read_table(path: AnyPath, schema: pa.Schema, again: str = AGAIN) -> pa.Table:
    """Read one table that has exactly these columns.

    Raises:
        DataError: naming the file, if it is missing, truncated, or has other columns, and saying what to do (`again`).
    """
    return _read_parquet(path, lambda found: schema, again)


def _read_parquet(path: AnyPath, expected: Callable[[pa.Schema], pa.Schema], again: str = AGAIN) -> pa.Table:
    """Read one Parquet file after a look at its footer; Arrow's own messages do not name it.

    Columns are compared first, so no extension type (Ray's unpickles) is ever turned into values.
    """
    try:
        with pq.ParquetFile(path if isinstance(path, Path) else path.open()) as file:
            _check_schema(path, file.schema_arrow, expected(file.schema_arrow))
            refuse_bomb(str(path), path.stat().st_size, unpacked_bytes(file.metadata))
            table = file.read()
            table.validate(full=True)
            return table
    except FileNotFoundError:
        raise DataError(f"{path} is missing; {again}") from None
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path} cannot be read, it is truncated or damaged ({str(error).splitlines()[0]}); {again}"
        ) from None


def _check_events(path: AnyPath, table: pa.Table, num_items: int | None) -> None:
    """Refuse lists that do not belong together and events that no index or gap can hold."""
    lists = {name: table[name].combine_chunks() for name in table.column_names if name != "user"}
    offsets = {name: column.offsets.to_numpy() for name, column in lists.items()}
    values = {name: column.flatten() for name, column in lists.items()}
    for name, column in {"user": table["user"], **lists, **values}.items():
        if column.null_count:
            raise DataError(f"{path}: column {name} has empty values; {AGAIN}")
    lengths = {name: np.diff(offset) for name, offset in offsets.items()}
    if any(not np.array_equal(own, lengths["items"]) for own in lengths.values()):
        raise DataError(f"{path}: a user has lists of different lengths; {AGAIN}")
    bounds: list[tuple[str, int, int | None]] = [("items", 1, num_items), ("timestamps", 0, LATEST_S - 1)]
    codes = [name for name in values if name.startswith(CONTEXT) and values[name].type == pa.int32()]
    for name, least, most in (*bounds, *((name, 0, MAX_CONTEXT_CODE) for name in codes)):
        found = values[name].to_numpy()
        low, high = (found.min(), found.max()) if len(found) else (least, least)
        if low < least or (most is not None and high > most):
            raise DataError(
                f"{path}: column {name} holds {low if low < least else high}, allowed is {least} to {most}; {AGAIN}"
            )


def _check_schema(path: AnyPath, found: pa.Schema, expected: pa.Schema) -> None:
    """Refuse a table with other columns than `expected`."""
    if found.names != expected.names or found.types != expected.types:
        raise DataError(
            f"{path} has columns {_describe(found)}, expected {_describe(expected)}; "
            "run `ss4rec data prepare` again with this version"
        )


def _describe(schema: pa.Schema) -> str:
    """Name columns and types in one line."""
    return ", ".join(f"{field.name}: {field.type}" for field in schema)
