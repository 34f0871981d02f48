"""Ids of a source: where each stands among others, and their ascending order."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ss4rec.data.ties import hashed


def look_up(ids: pa.Array | pa.ChunkedArray, among: pa.Array | pa.ChunkedArray) -> pa.Array:
    """Return the place of each id among others, null if it is not there; 7 and "7" are one id."""
    return pc.index_in(one_array(ids).cast(pa.string()), one_array(among).cast(pa.string()))


def by_id(ids: pa.Array) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Return the places of ids in ascending order, and the rank of each id in that order."""
    order_U = pc.sort_indices(ids).to_numpy()
    return order_U, ranks(order_U)


def ranks(order_U: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Return the rank of each place in an order of all places, its inverse."""
    rank_U = np.empty(len(order_U), np.int64)
    rank_U[order_U] = np.arange(len(order_U))
    return rank_U


def one_array(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    """Return a column as one array."""
    joined = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    return pa.concat_arrays(joined.chunks) if isinstance(joined, pa.ChunkedArray) else joined


def stable_keys(source_ids: list[int] | list[str]) -> npt.NDArray[np.int64]:
    """Return a key of each user that stays the same when users are added: the id, or 63 bits of its hash."""
    if isinstance(source_ids[0], int):
        return np.array(source_ids, np.int64)
    digests = (hashlib.blake2b(str(name).encode(), digest_size=8).digest() for name in source_ids)
    return np.array([int.from_bytes(digest, "big") >> 1 for digest in digests], np.int64)


def drawn(source_ids: list[int] | list[str], count: int) -> npt.NDArray[np.bool_]:
    """Draw `count` of some ids by a hash of their own.

    Where more ids come later, those of today's that are still drawn then are among those drawn today.
    """
    keys = stable_keys(source_ids)
    order = np.argsort(hashed(keys >> 32, keys & 0xFFFFFFFF), kind="stable")
    drawn_U = np.zeros(len(keys), bool)
    drawn_U[order[:count]] = True
    return drawn_U
