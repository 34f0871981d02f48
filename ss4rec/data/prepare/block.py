"""One block of the source as files: whole users, ascending, each with events ordered by (time, file order).

rows     item codes, times, ratings and codes of columns about the event, one column after the other, each in as few
         bytes as hold its values
users    Arrow table: `user` (id), `count` (rows), ascending by id
items    Arrow table: `item` (id), `count` (rows); the row is the code
context  Arrow tables, one for each column about the event: `value` (text), `count` (rows); the row + 1 is the code
done     Arrow table of rows in quarantine, written last; its metadata has the number of rows and the layout of `rows`
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ss4rec.data.ids import by_id
from ss4rec.data.sources.checks import Parsed, quarantine_table, repeat_sentence
from ss4rec.data.sources.event_order import Order, repeated, sorted_places
from ss4rec.data.sources.rows import plain_ids
from ss4rec.io.atomic import write_whole
from ss4rec.io.paths import AnyPath, read_range

BLOCK_FORMAT = 5
"""Changes when files of blocks do: what a job of another version left is not used."""

HALF_STARS = np.dtype("u1")
"""Type of ratings in a file that counts half stars."""

SPAN_PER_ROW = 4
"""Item ids that are this close together, for each row, are looked up in a table."""


class ScatteredUsersError(Exception):
    """The rows of a user do not lie together; the source must be partitioned first."""


@dataclass(frozen=True)
class Block:
    """Rows of whole users, in the order of the shards."""

    user_ids: pa.Array
    """int64 or string, ascending."""
    offsets_U1: npt.NDArray[Any]
    """int64 first row of each user, and at the end the number of rows."""
    item_ids: pa.Array
    """int64 or string; the place is the code."""
    items_E: npt.NDArray[Any]
    """int32 codes."""
    times_E: npt.NDArray[Any]
    """int64 unix seconds."""
    ratings_E: npt.NDArray[Any]
    """float32."""
    quarantine: pa.Table
    """Rows in quarantine; `row` counts from the block's first."""
    rows: int
    """Rows read, with those in quarantine."""
    context: dict[str, tuple[pa.Array, npt.NDArray[Any]]] = field(default_factory=dict)
    """Of each column about the event: its different values, and the code of each row; 0 is unknown."""

    @cached_property
    def first_s(self) -> int:
        """Earliest time; 0 if there is no row."""
        return int(self.times_E.min()) if len(self.times_E) else 0


def make_block(parsed: Parsed, *, repeats: bool, together: bool) -> Block:
    """Sort parsed rows by user, time and file order.

    Args:
        parsed: rows in file order.
        repeats: whether the same user, item and second may come twice; else the first in file order stays.
        together: whether each user's rows must lie together.

    Raises:
        ScatteredUsersError: if they should and do not.
    """
    user_ids, users_R = _ranked(parsed.users, together)
    item_ids, items_R = _coded(parsed.items)
    quarantine, times_R, ratings_R = parsed.quarantine, parsed.times_R, parsed.ratings_R
    order_R = sorted_places(users_R, times_R)
    again = np.zeros(0, np.int64) if repeats else repeated(users_R, items_R, times_R, order_R)
    if len(again):
        sentences = zip(
            parsed.numbers_R[again].tolist(),
            user_ids.take(pa.array(users_R[again])).to_pylist(),
            item_ids.take(pa.array(items_R[again])).to_pylist(),
            times_R[again].tolist(),
            strict=True,
        )
        repeated_rows = [
            (row, "repeated", repeat_sentence(user, item, time_s)) for row, user, item, time_s in sentences
        ]
        quarantine = pa.concat_tables([quarantine, quarantine_table(repeated_rows)]).sort_by("row")
        order_R = np.arange(len(users_R))[order_R]
        order_R = order_R[np.isin(order_R, again, invert=True)]
    users_E = users_R[order_R]
    return Block(
        user_ids=user_ids,
        offsets_U1=np.searchsorted(users_E, np.arange(len(user_ids) + 1, dtype=np.int32)),
        item_ids=item_ids,
        items_E=items_R[order_R],
        times_E=times_R[order_R],
        ratings_E=ratings_R[order_R],
        quarantine=quarantine,
        rows=parsed.rows,
        context={role: _valued(_ordered(column, order_R)) for role, column in parsed.context.items()},
    )


def save_block(folder: AnyPath, block: Block) -> None:
    """Write a block into `folder`."""
    context_E = [codes_E for _, codes_E in block.context.values()]
    more = tuple(
        np.min_scalar_type(int(codes_E.max(initial=0))).newbyteorder("<").str for codes_E in context_E
    )
    ratings_E = _small_ratings(block.ratings_E)
    kinds = (*_kinds(block), ratings_E.dtype.str)
    rows = RowsFile(folder / "rows", len(block.times_E), block.first_s, *kinds, more)
    columns = (block.items_E, block.times_E - rows.first_s, ratings_E, *context_E)
    parts = (values_E.astype(kind, copy=False) for values_E, kind in zip(columns, rows.kinds, strict=True))
    write_whole(rows.path, (part.data for part in parts))
    users = {"user": block.user_ids, "count": pa.array(np.diff(block.offsets_U1))}
    counts_V = np.bincount(block.items_E, minlength=len(block.item_ids))
    _write_table(folder / "users", pa.table(users))
    _write_table(folder / "items", pa.table({"item": block.item_ids, "count": pa.array(counts_V)}))
    for number, (values, codes_E) in enumerate(block.context.values()):
        counts_X = np.bincount(codes_E, minlength=len(values) + 1)[1:]
        _write_table(folder / f"context-{number}", pa.table({"value": values, "count": pa.array(counts_X)}))
    about = {
        "read": block.rows,
        "first_s": rows.first_s,
        "kinds": rows.kinds,
        "context": list(block.context),
    }
    _write_table(folder / "done", block.quarantine.replace_schema_metadata({"block": json.dumps(about)}))


def is_done(folder: AnyPath) -> bool:
    """Return whether the block in `folder` is complete."""
    return (folder / "done").is_file()


@dataclass(frozen=True)
class RowsFile:
    """The rows of a finished block, of which any part of a column can be read."""

    path: AnyPath
    total: int
    """Rows."""
    first_s: int
    """Times are counted from here."""
    items: str
    """NumPy's name of the type of the item codes in the file."""
    times: str
    """The same of the times."""
    ratings: str
    """The same of the ratings."""
    context: tuple[str, ...] = ()
    """The same of the codes of columns about the event."""

    @property
    def kinds(self) -> tuple[str, ...]:
        """Types of the columns in the order of the file."""
        return self.items, self.times, self.ratings, *self.context

    def read_items(self, start: int, stop: int) -> npt.NDArray[Any]:
        """Return the item codes of rows `start` to `stop`, an unsigned type."""
        return self._read(0, start, stop)

    def read_times(self, start: int, stop: int) -> npt.NDArray[Any]:
        """Return the times of rows `start` to `stop`, int64 unix seconds."""
        return np.asarray(np.add(self._read(1, start, stop), self.first_s, dtype=np.int64))

    def read_ratings(self, start: int, stop: int) -> npt.NDArray[Any]:
        """Return the ratings of rows `start` to `stop`, float32."""
        values = self._read(2, start, stop)
        if values.dtype == HALF_STARS:
            return np.multiply(values, np.float32(0.5), dtype=np.float32)
        return values.astype(np.float32)

    def read_context(self, number: int, start: int, stop: int) -> npt.NDArray[Any]:
        """Return the codes of a column about the event, of rows `start` to `stop`, an unsigned type."""
        return self._read(3 + number, start, stop)

    def _read(self, place: int, start: int, stop: int) -> npt.NDArray[Any]:
        sizes = [np.dtype(kind).itemsize for kind in self.kinds]
        begin = self.total * sum(sizes[:place]) + start * sizes[place]
        return np.frombuffer(read_range(self.path, begin, sizes[place] * (stop - start)), self.kinds[place])


@dataclass(frozen=True)
class BlockFile:
    """A finished block: all but its rows, which stay in their file."""

    folder: AnyPath
    users: pa.Table
    """`user`, `count`, ascending."""
    items: pa.Table
    """`item`, `count`."""
    quarantine: pa.Table
    """As in `QUARANTINE_SCHEMA`."""
    read: int
    """Rows read, with those in quarantine."""
    rows: RowsFile
    """Where the rows are."""
    context: dict[str, pa.Table] = field(default_factory=dict)
    """`value`, `count` of each column about the event, by role."""

    @classmethod
    def load(cls, folder: AnyPath) -> BlockFile:
        """Read the tables of a finished block."""
        quarantine = _read_table(folder / "done")
        about = json.loads(quarantine.schema.metadata[b"block"])
        users, items = _read_table(folder / "users"), _read_table(folder / "items")
        total = int(users["count"].to_numpy().sum())
        items_kind, times, ratings, *more = about["kinds"]
        rows = RowsFile(folder / "rows", total, about["first_s"], items_kind, times, ratings, tuple(more))
        context = {
            role: _read_table(folder / f"context-{number}") for number, role in enumerate(about["context"])
        }
        return cls(
            folder, users, items, quarantine.replace_schema_metadata(None), about["read"], rows, context
        )

    @property
    def offsets_U1(self) -> npt.NDArray[Any]:
        """First row of each user, and at the end the number of rows."""
        return np.concatenate([[0], self.users["count"].to_numpy().cumsum()])


def _kinds(block: Block) -> tuple[str, str]:
    """Return the smallest types that hold codes of items and times."""
    times_s = int(block.times_E.max(initial=block.first_s)) - block.first_s
    most = (max(len(block.item_ids) - 1, 0), times_s)
    items, times = (np.min_scalar_type(value).newbyteorder("<").str for value in most)
    return items, times


def _small_ratings(ratings_E: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return ratings as numbers of half stars in a byte each where they are such; else as they are."""
    doubled_E = ratings_E * np.float32(2)
    with np.errstate(invalid="ignore"):
        halves_E = doubled_E.astype(HALF_STARS)
    return halves_E if (halves_E == doubled_E).all() else ratings_E.astype("<f4", copy=False)


def _ordered(column: pa.Array, order_R: Order) -> pa.Array:
    return column if isinstance(order_R, slice) else column.take(pa.array(order_R))


def _ranked(users: pa.Array, together: bool) -> tuple[pa.Array, npt.NDArray[Any]]:
    """Return the distinct users, ascending, and each row's rank among them."""
    if pa.types.is_dictionary(users.type):
        ids, codes_R = plain_ids(users.dictionary), users.indices.to_numpy()
        used = np.flatnonzero(np.bincount(codes_R, minlength=len(ids)))
        if len(used) < len(ids):
            ids, codes_R = ids.take(pa.array(used)), np.searchsorted(used, codes_R)
    else:
        values_R = users.to_numpy()
        starts = np.flatnonzero(np.concatenate([[len(values_R) > 0], values_R[1:] != values_R[:-1]]))
        distinct, inverse = np.unique(values_R[starts], return_inverse=True)
        runs = np.diff(np.concatenate([starts, [len(values_R)]]))
        if together and len(distinct) < len(starts):
            raise ScatteredUsersError
        return pa.array(distinct), np.repeat(inverse.astype(np.int32), runs)
    if together and (np.diff(codes_R) != 0).sum() + (len(codes_R) > 0) > len(ids):
        raise ScatteredUsersError
    order_U, rank_U = by_id(ids)
    return ids.take(pa.array(order_U)), rank_U.astype(np.int32)[codes_R]


def _coded(items: pa.Array) -> tuple[pa.Array, npt.NDArray[Any]]:
    """Return the distinct items and each row's code."""
    if items.type == pa.int64() and (found := coded_numbers(items.to_numpy())) is not None:
        return found
    encoded = items if pa.types.is_dictionary(items.type) else items.dictionary_encode()
    ids = encoded.dictionary
    return ids if ids.type == pa.int64() else plain_ids(ids), encoded.indices.to_numpy()


def coded_numbers(values_R: npt.NDArray[Any]) -> tuple[pa.Array, npt.NDArray[Any]] | None:
    """Return the distinct whole numbers, ascending, and each one's place among them; None if they lie too far apart."""
    if not len(values_R):
        return None
    least = int(values_R.min())
    span = int(values_R.max()) - least + 1
    if span > SPAN_PER_ROW * len(values_R):
        return None
    # A table of all numbers in between is faster than a hash table, where it is not too long.
    places_R = values_R - least if least else values_R
    present_V = np.zeros(span, bool)
    present_V[places_R] = True
    codes_V = np.cumsum(present_V, dtype=np.int32) - np.int32(1)
    return pa.array(np.flatnonzero(present_V) + least), codes_V[places_R]


def _valued(column: pa.Array) -> tuple[pa.Array, npt.NDArray[Any]]:
    """Return the different values of a column and the code of each row from 1; 0 where it is null."""
    codes_R = pc.fill_null(column.indices, -1).to_numpy().astype(np.int32) + 1
    used_X = np.bincount(codes_R, minlength=len(column.dictionary) + 1) > 0
    used_X[0] = True
    if not used_X.all():
        codes_R = (np.cumsum(used_X, dtype=np.int32) - np.int32(1))[codes_R]
    return column.dictionary.filter(pa.array(used_X[1:])), codes_R


def ids_of_one_type(columns: Sequence[pa.ChunkedArray]) -> pa.ChunkedArray:
    """Join columns of ids: whole numbers, or texts where one of the columns has texts."""
    parts = [column.combine_chunks() for column in columns]
    if any(part.type != pa.int64() for part in parts):
        parts = [part.cast(pa.string()) for part in parts]
    return pa.chunked_array(parts)


def _write_table(path: AnyPath, table: pa.Table) -> None:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table.combine_chunks())
    write_whole(path, sink.getvalue())


def _read_table(path: AnyPath) -> pa.Table:
    data = path.read_bytes()
    return pa.ipc.open_file(pa.BufferReader(data)).read_all()


def as_strings(folder: AnyPath) -> BlockFile:
    """Write a block whose users are whole numbers again, with users as strings and in the order of strings."""
    target = folder.parent / f"{folder.name}-strings"
    if not is_done(target):
        block = BlockFile.load(folder)
        offsets_U1, ids = block.offsets_U1, block.users["user"].combine_chunks().cast(pa.string())
        order_U, rank_U = by_id(ids)
        total = int(offsets_U1[-1])
        order_E = np.argsort(np.repeat(rank_U, np.diff(offsets_U1)), kind="stable")
        lengths_U = np.diff(offsets_U1)[order_U]
        ordered = Block(
            user_ids=ids.take(pa.array(order_U)),
            offsets_U1=np.concatenate([[0], lengths_U.cumsum()]),
            item_ids=block.items["item"].combine_chunks(),
            items_E=block.rows.read_items(0, total)[order_E],
            times_E=block.rows.read_times(0, total)[order_E],
            ratings_E=block.rows.read_ratings(0, total)[order_E],
            quarantine=block.quarantine,
            rows=block.read,
            context={
                role: (table["value"].combine_chunks(), block.rows.read_context(number, 0, total)[order_E])
                for number, (role, table) in enumerate(block.context.items())
            },
        )
        save_block(target, ordered)
    return BlockFile.load(target)
