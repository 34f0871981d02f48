"""Tables in memory, or that stream into it: pandas, Polars, Arrow, Ray Data. Their columns of ratings become a file.

Only the columns that are read are written, a part at a time, as Parquet; what follows is the same as for any file.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ss4rec.data.sources.columns import choose_columns
from ss4rec.data.sources.plan_table import TableOptions
from ss4rec.errors import DataError, UsageError
from ss4rec.io.paths import AnyPath, RemotePath, remove_tree

PART_ROWS = 1 << 18
"""Rows that are converted and written at a time."""
FILE_NAME = "table.parquet"
WHERE = "the table"
"""What messages call it."""


def is_table(source: object) -> bool:
    """Return whether an object is a table that `table_file` takes."""
    return not isinstance(source, str | Path | RemotePath) and _kind(source) is not None


@contextmanager
def table_file(table: Any, folder: AnyPath, options: TableOptions) -> Iterator[AnyPath]:
    """Write the columns of ratings of a table into a file in `folder`, which is deleted at the end.

    Args:
        table: a pandas DataFrame, a Polars DataFrame or LazyFrame, an Arrow table, batch, reader or dataset, or a
            `ray.data.Dataset`, which is read as it streams.
        folder: is made; all that read the file must see it.
        options: which columns are read.

    Raises:
        UsageError: if it is no such table.
        DataError: if it has no such columns, or one cannot be kept as Parquet.
    """
    names = _names(table)
    doubled = next((name for name in names if names.count(name) > 1), None)
    if doubled is not None:
        raise DataError(f"{WHERE} has the column {doubled!r} twice; rename one")
    chosen = list(dict.fromkeys(choose_columns(names, options.columns, WHERE, options.about_events).values()))
    path = folder / FILE_NAME
    try:
        _write(path, _parts(table, chosen))
        yield path
    finally:
        remove_tree(folder)


def _write(path: AnyPath, parts: Iterator[pa.Table]) -> None:
    """Write parts as row groups; the first says the types."""
    writer = None
    try:
        if isinstance(path, Path):
            path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as sink:
            for part in parts:
                writer = writer or pq.ParquetWriter(
                    sink, part.schema, compression="zstd", compression_level=1
                )
                writer.write_table(part.cast(writer.schema))
            if writer is not None:
                writer.close()
    except OSError as error:
        raise DataError(f"cannot write {path}: {error.strerror or error}; give another --out") from None
    except (pa.ArrowException, TypeError, OverflowError) as error:
        message = str(error).splitlines()[0]
        raise DataError(f"{WHERE} cannot be read: {message}; give each column values of one type") from None
    if writer is None:
        raise DataError(f"{WHERE} has no rows; give a table with ratings")


def _kind(table: object) -> str | None:
    """Return which library a table is of, without importing any."""
    for cls in type(table).__mro__:
        module, name = cls.__module__.split(".")[0], cls.__name__
        if module == "pandas" and name == "DataFrame":
            return "pandas"
        if module == "polars" and name in ("DataFrame", "LazyFrame"):
            return name
        if module == "ray" and name == "Dataset":
            return "ray"
        if module == "pyarrow" and name in ("Table", "RecordBatch", "RecordBatchReader", "Dataset"):
            return name.lower()
    return None


def _names(table: Any) -> list[str]:
    """Return the names of the columns."""
    kind = _kind(table)
    if kind is None:
        raise UsageError(
            f"source is a {type(table).__name__}; give a path, or a pandas, Polars, Arrow or Ray Data table"
        )
    if kind == "pandas":
        return [str(name) for name in table.columns]
    if kind == "LazyFrame":
        return list(table.collect_schema().names())
    if kind == "DataFrame":
        return list(table.columns)
    return list(table.schema().names if kind == "ray" else table.schema.names)


def _parts(table: Any, columns: Sequence[str]) -> Iterator[pa.Table]:
    """Yield some columns as Arrow tables of at most PART_ROWS rows, but for streams, whose batches decide."""
    kind = _kind(table)
    if kind == "pandas":
        yield from _pandas_parts(table, columns)
    elif kind == "DataFrame":
        yield from (part.to_arrow() for part in table.select(columns).iter_slices(PART_ROWS))
    elif kind == "LazyFrame":
        batches = table.select(columns).collect_batches(chunk_size=PART_ROWS, maintain_order=True)
        yield from (part.to_arrow() for part in batches if part.height)
    elif kind == "ray":
        yield from _ray_parts(table, columns)
    elif kind == "dataset":
        batches = table.scanner(columns=list(columns)).to_reader()
        yield from (pa.Table.from_batches([batch]) for batch in batches if batch.num_rows)
    else:
        whole = kind != "recordbatchreader"
        batches = (pa.table(table).select(columns)).to_reader(PART_ROWS) if whole else table
        yield from (pa.Table.from_batches([batch]).select(columns) for batch in batches if batch.num_rows)


def _pandas_parts(frame: Any, columns: Sequence[str]) -> Iterator[pa.Table]:
    """Yield parts of a pandas table, all with the types of the first; ids of mixed types become texts."""
    import pandas as pd

    places = [[str(name) for name in frame.columns].index(column) for column in columns]
    schema = None
    for start in range(0, len(frame), PART_ROWS):
        part = frame.iloc[start : start + PART_ROWS, places]
        part.columns = pd.Index(columns)
        arrays = {name: _pandas_column(part[name]) for name in columns}
        table = pa.table(arrays)
        schema = schema or table.schema
        yield table.cast(schema)


def _pandas_column(column: Any) -> pa.Array:
    """Return a column as Arrow; a column of objects that are texts and whole numbers becomes texts."""
    found = column
    if column.dtype == object:
        values = [None if value is None or value != value else value for value in column]
        if any(isinstance(value, str) for value in values):
            found = [
                str(value) if isinstance(value, int) and not isinstance(value, bool) else value
                for value in values
            ]
            return pa.array(found, pa.string())
    array = pa.array(found, from_pandas=True)
    return pa.concat_arrays(array.chunks) if isinstance(array, pa.ChunkedArray) else array


def _ray_parts(dataset: Any, columns: Sequence[str]) -> Iterator[pa.Table]:
    """Yield batches of a Ray dataset in its order, as they stream."""
    chosen = dataset.select_columns(list(columns))
    chosen.context.execution_options.preserve_order = True
    for batch in chosen.iter_batches(batch_size=PART_ROWS, batch_format="pyarrow"):
        if batch.num_rows:
            yield batch
