"""One block of the source as files: whole users, ascending, each with events ordered by (time, file order).

rows     item codes (int32), times (int64), ratings (float32), behind one another without a header
users    Arrow table: `user` (id), `count` (rows), ascending by id
items    Arrow table: `item` (id), `count` (rows); the row is the code
done     Arrow table of rows put aside, with the counts of the block in its metadata; written last
"""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ss4rec.data.sources.checks import Parsed, bad_table, repeat_sentence, repeated
from ss4rec.data.sources.rows import plain_ids
from ss4rec.data.storage import AnyPath, read_range, write_whole

COLUMNS: dict[str, tuple[int, str]] = {"items": (0, "<i4"), "times": (4, "<i8"), "ratings": (12, "<f4")}
"""Bytes of a row before each column, and its type."""


class ScatteredUsersError(Exception):
    """The rows of a user do not lie together; the source must be partitioned first."""


@dataclass(frozen=True)
class Block:
    """Rows of whole users, in the order of the shards."""

    user_ids: pa.Array
    """int64 or string, ascending."""
    offsets_U1: np.ndarray
    """int64 first row of each user, and at the end the number of rows."""
    item_ids: pa.Array
    """int64 or string; the place is the code."""
    items_E: np.ndarray
    """int32 codes."""
    times_E: np.ndarray
    """int64 unix seconds."""
    ratings_E: np.ndarray
    """float32."""
    bad: pa.Table
    """Rows that were put aside; `row` counts from the block's first."""
    rows: int
    """Rows read, with those that were put aside."""


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
    bad, times_R, ratings_R = parsed.bad, parsed.times_R, parsed.ratings_R
    again = np.zeros(0, np.int64) if repeats else repeated(users_R, items_R, times_R)
    if len(again):
        sentences = zip(
            parsed.numbers_R[again].tolist(),
            user_ids.take(pa.array(users_R[again])).to_pylist(),
            item_ids.take(pa.array(items_R[again])).to_pylist(),
            times_R[again].tolist(),
            strict=True,
        )
        aside = [
            (row, "repeated", repeat_sentence(user, item, time_s)) for row, user, item, time_s in sentences
        ]
        bad = pa.concat_tables([bad, bad_table(aside)]).sort_by("row")
        users_R, items_R, times_R, ratings_R = (
            np.delete(values_R, again) for values_R in (users_R, items_R, times_R, ratings_R)
        )
    order_R = sorted_places(users_R, times_R)
    counts_U = np.bincount(users_R, minlength=len(user_ids))
    return Block(
        user_ids=user_ids,
        offsets_U1=np.concatenate([[0], counts_U.cumsum()]),
        item_ids=item_ids,
        items_E=items_R[order_R],
        times_E=times_R[order_R],
        ratings_E=ratings_R[order_R],
        bad=bad,
        rows=parsed.rows,
    )


def sorted_places(users_R: np.ndarray, times_R: np.ndarray) -> np.ndarray:
    """Return the order by (user, time, place), as `np.lexsort((times_R, users_R))` does.

    User, time and place are packed into one whole number if 63 bits hold them: NumPy sorts such numbers by vector
    instructions, several times faster than it sorts places by two keys.

    Args:
        users_R: codes from 0.
        times_R: int64 unix seconds.
    """
    if not len(users_R):
        return np.zeros(0, np.int64)
    first_s = int(times_R.min())
    time_bits = (int(times_R.max()) - first_s).bit_length()
    place_bits = len(users_R).bit_length()
    if int(users_R.max()).bit_length() + time_bits + place_bits > 63:
        return np.lexsort((times_R, users_R))
    keys_R = users_R.astype(np.int64)
    keys_R <<= time_bits
    keys_R |= times_R - first_s
    keys_R <<= place_bits
    keys_R |= np.arange(len(users_R))
    keys_R.sort()
    keys_R &= (1 << place_bits) - 1
    return keys_R


def save_block(folder: AnyPath, block: Block) -> None:
    """Write a block into `folder`."""
    parts = (block.items_E.astype(np.int32), block.times_E, block.ratings_E.astype(np.float32))
    write_whole(folder / "rows", b"".join(np.ascontiguousarray(part).data for part in parts))
    users = {"user": block.user_ids, "count": pa.array(np.diff(block.offsets_U1))}
    counts_V = np.bincount(block.items_E, minlength=len(block.item_ids))
    _write_table(folder / "users", pa.table(users))
    _write_table(folder / "items", pa.table({"item": block.item_ids, "count": pa.array(counts_V)}))
    _write_table(
        folder / "done", block.bad.replace_schema_metadata({"block": json.dumps({"rows": block.rows})})
    )


def is_done(folder: AnyPath) -> bool:
    """Return whether the block in `folder` is complete."""
    return (folder / "done").is_file()


@dataclass(frozen=True)
class BlockFile:
    """A finished block: all but its rows."""

    folder: AnyPath
    users: pa.Table
    """`user`, `count`, ascending."""
    items: pa.Table
    """`item`, `count`."""
    bad: pa.Table
    """As in `BAD_SCHEMA`."""
    rows: int
    """Rows read, with those that were put aside."""

    @classmethod
    def load(cls, folder: AnyPath) -> BlockFile:
        """Read the tables of a finished block."""
        bad = _read_table(folder / "done")
        rows = json.loads(bad.schema.metadata[b"block"])["rows"]
        users, items = _read_table(folder / "users"), _read_table(folder / "items")
        return cls(folder, users, items, bad.replace_schema_metadata(None), rows)

    @property
    def offsets_U1(self) -> np.ndarray:
        """First row of each user, and at the end the number of rows."""
        return np.concatenate([[0], self.users["count"].to_numpy().cumsum()])


def read_column(folder: AnyPath, column: str, total: int, start: int, stop: int) -> np.ndarray:
    """Return rows `start` to `stop` of `items`, `times` or `ratings` of a block with `total` rows."""
    before, kind = COLUMNS[column]
    size = np.dtype(kind).itemsize
    return np.frombuffer(
        read_range(folder / "rows", before * total + size * start, size * (stop - start)), kind
    )


def _ranked(users: pa.Array, together: bool) -> tuple[pa.Array, np.ndarray]:
    """Return the distinct users, ascending, and each row's rank among them."""
    if pa.types.is_dictionary(users.type):
        ids, codes_R = plain_ids(users.dictionary), users.indices.to_numpy()
        used = np.unique(codes_R)
        if len(used) < len(ids):
            ids, codes_R = ids.take(pa.array(used)), np.searchsorted(used, codes_R)
    else:
        values_R = users.to_numpy()
        starts = np.flatnonzero(np.concatenate([[len(values_R) > 0], values_R[1:] != values_R[:-1]]))
        distinct, inverse = np.unique(values_R[starts], return_inverse=True)
        runs = np.diff(np.concatenate([starts, [len(values_R)]]))
        if together and len(distinct) < len(starts):
            raise ScatteredUsersError
        return pa.array(distinct), np.repeat(inverse, runs)
    if together and (np.diff(codes_R) != 0).sum() + (len(codes_R) > 0) > len(ids):
        raise ScatteredUsersError
    ascending_U = pc.sort_indices(ids).to_numpy()
    rank_U = np.empty(len(ids), np.int64)
    rank_U[ascending_U] = np.arange(len(ids))
    return ids.take(pa.array(ascending_U)), rank_U[codes_R]


def _coded(items: pa.Array) -> tuple[pa.Array, np.ndarray]:
    """Return the distinct items and each row's code."""
    encoded = items if pa.types.is_dictionary(items.type) else items.dictionary_encode()
    ids = encoded.dictionary
    return ids if ids.type == pa.int64() else plain_ids(ids), encoded.indices.to_numpy()


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
        order_U = pc.sort_indices(ids).to_numpy()
        rank_U = np.empty_like(order_U)
        rank_U[order_U] = np.arange(len(order_U), dtype=order_U.dtype)
        total = int(offsets_U1[-1])
        order_E = np.argsort(np.repeat(rank_U, np.diff(offsets_U1)), kind="stable")
        items_E, times_E, ratings_E = (
            read_column(folder, name, total, 0, total)[order_E] for name in COLUMNS
        )
        lengths_U = np.diff(offsets_U1)[order_U]
        ordered = Block(
            user_ids=ids.take(pa.array(order_U)),
            offsets_U1=np.concatenate([[0], lengths_U.cumsum()]),
            item_ids=block.items["item"].combine_chunks(),
            items_E=items_E,
            times_E=times_E,
            ratings_E=ratings_E,
            bad=block.bad,
            rows=block.rows,
        )
        save_block(target, ordered)
    return BlockFile.load(target)
