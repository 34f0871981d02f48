"""For sources that are not in the order of users: rows go to partitions by a hash of the user, then become blocks."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ss4rec.data.prepare.block import Block, make_block
from ss4rec.data.sources.checks import QUARANTINE_SCHEMA, Parsed
from ss4rec.data.sources.rows import CONTEXT
from ss4rec.io.atomic import write_whole
from ss4rec.io.paths import AnyPath, RemotePath


def partition_of(users: pa.Array, partitions: int) -> npt.NDArray[Any]:
    """Return the partition of each row; a user's is the same in every block and on every machine.

    Args:
        users: int64, or dictionary of strings.
        partitions: number of partitions.
    """
    import pandas as pd  # takes a third of the time in which a worker starts, and this alone needs it

    if pa.types.is_dictionary(users.type):
        names = users.dictionary.to_numpy(zero_copy_only=False)
        return np.asarray(
            (pd.util.hash_array(names, categorize=False) % partitions)[users.indices.to_numpy()]
        )
    return np.asarray(pd.util.hash_array(users.to_numpy()) % partitions)


def save_scattered(path: AnyPath, parsed: Parsed, partitions: int) -> None:
    """Write the rows of a chunk as one Arrow file with a batch for each partition, and the rows in quarantine."""
    partition_R = partition_of(parsed.users, partitions)
    # Stable, so that rows stay in file order.
    order = pa.array(np.argsort(partition_R.astype(np.uint16), kind="stable"))
    plain = {name: _plain(getattr(parsed, name)) for name in ("users", "items")}
    plain |= {role: _plain(column) for role, column in parsed.context.items()}
    columns = plain | {"times": parsed.times_R, "ratings": parsed.ratings_R, "numbers": parsed.numbers_R}
    table = pa.table(columns).take(order).combine_chunks()
    table = table.replace_schema_metadata(
        {"chunk": json.dumps({"rows": parsed.rows, "quarantine": parsed.quarantine.to_pylist()})}
    )
    sizes = np.bincount(partition_R.astype(np.int64), minlength=partitions)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        for start, size in zip(np.cumsum(sizes) - sizes, sizes, strict=True):
            batches = table.slice(int(start), int(size)).combine_chunks().to_batches()
            # An empty batch keeps the number of a batch equal to that of its partition.
            writer.write_batch(batches[0] if batches else _empty_batch(table.schema))
    write_whole(path, sink.getvalue())


def read_head(path: AnyPath) -> tuple[int, pa.Table]:
    """Return the rows that a chunk had, and those of them in quarantine."""
    with open_arrow(path) as file:
        metadata = json.loads(pa.ipc.open_file(file).schema.metadata[b"chunk"])
    return metadata["rows"], pa.Table.from_pylist(metadata["quarantine"], schema=QUARANTINE_SCHEMA)


def gather(paths: Sequence[AnyPath], firsts: Sequence[int], partition: int, *, repeats: bool) -> Block:
    """Join one partition of all chunks into a block; its rows are numbered as in the whole source.

    Args:
        paths: the scattered chunks, in file order.
        firsts: number of the first row of each chunk.
        partition: which one.
        repeats: as in `make_block`.
    """
    parts = []
    for path, first in zip(paths, firsts, strict=True):
        with open_arrow(path) as file:
            batch = pa.ipc.open_file(file).get_batch(partition)
            numbers = pa.array(batch["numbers"].to_numpy() + first)
            parts.append(pa.table({**{name: batch[name] for name in batch.schema.names}, "numbers": numbers}))
    table = pa.concat_tables(parts).combine_chunks()
    users, items = (_encoded(table[name]) for name in ("users", "items"))
    parsed = Parsed(
        users=users,
        items=items,
        times_R=table["times"].to_numpy(),
        ratings_R=table["ratings"].to_numpy(),
        numbers_R=table["numbers"].to_numpy(),
        quarantine=QUARANTINE_SCHEMA.empty_table(),
        rows=table.num_rows,
        context={name: _encoded(table[name]) for name in table.column_names if name.startswith(CONTEXT)},
    )
    return make_block(parsed, repeats=repeats, together=False)


def open_arrow(path: AnyPath) -> pa.NativeFile:
    """Open a file for reads of single batches."""
    if isinstance(path, RemotePath):
        return path.open_input()
    return pa.OSFile(str(path))


def _plain(ids: pa.Array) -> pa.Array:
    return ids.dictionary_decode() if pa.types.is_dictionary(ids.type) else ids


def _encoded(column: pa.ChunkedArray) -> pa.Array:
    """Return ids as `Parsed` holds them."""
    joined = column.combine_chunks()
    array = joined.combine_chunks() if isinstance(joined, pa.ChunkedArray) else joined
    return array if array.type == pa.int64() else array.dictionary_encode()


def _empty_batch(schema: pa.Schema) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([pa.array([], field.type) for field in schema], schema=schema)
