"""The k-core of blocks by counts: no row leaves its task, only how often each item still occurs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ss4rec.data.prepare.block import BlockFile
from ss4rec.io.paths import AnyPath

Mapper = Callable[[Callable[[Any], Any], Iterable[Any]], Iterator[Any]]
"""Yields `function(item)` of every item in order, wherever it runs; `map` is one."""


@dataclass(frozen=True)
class Counting:
    """What all tasks of a round need to know."""

    folders: tuple[AnyPath, ...]
    """The blocks."""
    codes: tuple[np.ndarray, ...]
    """Place of each block's items in the vocabulary."""
    mask_V: np.ndarray
    """bool: the item still counts."""
    min_user: int
    """Least rows of a user."""


@dataclass(frozen=True)
class Core:
    """What remains."""

    mask_V: np.ndarray
    """bool: the item remains."""
    counts_V: np.ndarray
    """int64 remaining rows of each item."""
    kept: tuple[np.ndarray, ...]
    """Remaining rows of each user of each block; 0: the user is dropped."""

    @property
    def rows(self) -> int:
        """Remaining rows."""
        return int(self.counts_V.sum())


def vocabulary(blocks: Sequence[BlockFile]) -> tuple[pa.Array, tuple[np.ndarray, ...]]:
    """Return all item ids, ascending, and the place of each block's items among them."""
    ids = [block.items["item"].combine_chunks() for block in blocks]
    if any(part.type != pa.int64() for part in ids):
        ids = [part.cast(pa.string()) for part in ids]
    distinct = pa.chunked_array(ids).unique()
    distinct = distinct.take(pc.sort_indices(distinct))
    places = pc.index_in(pa.chunked_array(ids), distinct).to_numpy()
    return distinct, tuple(np.split(places, np.cumsum([len(part) for part in ids])[:-1]))


def core_of_blocks(
    blocks: Sequence[BlockFile],
    codes: tuple[np.ndarray, ...],
    mask_V: np.ndarray,
    min_user: int,
    min_item: int,
    mapper: Mapper,
) -> Core:
    """Drop too rare users and items until none is too rare, a round of counting at a time.

    Args:
        blocks: all blocks; a user's rows are in one of them.
        codes: place of each block's items in the vocabulary.
        mask_V: items to begin with.
        min_user: least rows of a user.
        min_item: least rows of an item.
        mapper: runs the tasks.
    """
    while True:
        counting = Counting(tuple(block.folder for block in blocks), codes, mask_V, min_user)
        counts_V = np.zeros(len(mask_V), np.int64)
        kept = []
        for place, (counts, kept_U) in enumerate(mapper(partial(count_block, counting), range(len(blocks)))):
            counts_V[codes[place]] += counts
            kept.append(kept_U)
        frequent_V = mask_V & (counts_V >= min_item) & (counts_V > 0)
        if (frequent_V == mask_V).all():
            return Core(mask_V, counts_V, tuple(kept))
        mask_V = frequent_V


def count_block(counting: Counting, place: int) -> tuple[np.ndarray, np.ndarray]:
    """Return how often each item of a block occurs with the users that have enough rows, and these users' rows."""
    block = BlockFile.load(counting.folders[place])
    offsets_U1 = block.offsets_U1
    total = int(offsets_U1[-1])
    items_E = block.rows.read_items(0, total)
    kept_E = counting.mask_V[counting.codes[place]][items_E]
    before_E1 = np.concatenate([[0], np.cumsum(kept_E)])
    kept_U = before_E1[offsets_U1[1:]] - before_E1[offsets_U1[:-1]]
    kept_U[kept_U < counting.min_user] = 0
    kept_E &= np.repeat(kept_U > 0, np.diff(offsets_U1))
    return np.bincount(items_E[kept_E], minlength=block.items.num_rows), kept_U.astype(np.int32)
