"""The k-core by counts: no row leaves its block, only how often each item still occurs.

The k-core is the largest set of rows in which every user and every item has enough of them. It does not depend on the
order of dropping: a row of the largest such set is never dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ss4rec.data.prepare.block import BlockFile, coded_numbers, ids_of_one_type
from ss4rec.data.prepared.build import MIN_EVENTS, Mapper, Sequences
from ss4rec.io.paths import AnyPath

TOGETHER = 8
"""Blocks that one task counts: of one alone, starting the task takes longer."""

Count = Callable[[npt.NDArray[Any], int], tuple[npt.NDArray[Any], tuple[npt.NDArray[Any], ...]]]
"""Given the items that still count (a mask) and the minimum rows of a user: rows of each item, and of each user of each
block."""


@dataclass(frozen=True)
class Core:
    """What remains."""

    mask_V: npt.NDArray[Any]
    """bool: the item remains."""
    counts_V: npt.NDArray[Any]
    """int64 remaining rows of each item."""
    kept: tuple[npt.NDArray[Any], ...]
    """Remaining rows of each user of each block; 0: the user is dropped."""

    @property
    def rows(self) -> int:
        """Remaining rows."""
        return int(self.counts_V.sum())


def k_core(count: Count, mask_V: npt.NDArray[Any], min_user: int, min_item: int) -> Core:
    """Drop too rare users and items until none is too rare, a round of counting at a time.

    Args:
        count: counts all blocks.
        mask_V: items to begin with.
        min_user: minimum rows of a user.
        min_item: minimum rows of an item.
    """
    while True:
        counts_V, kept = count(mask_V, min_user)
        frequent_V = mask_V & (counts_V >= min_item) & (counts_V > 0)
        if (frequent_V == mask_V).all():
            return Core(mask_V, counts_V, kept)
        mask_V = frequent_V


def core_and_dropped(
    blocks: Sequence[BlockFile], codes: tuple[npt.NDArray[Any], ...], least: int, mapper: Mapper
) -> tuple[Core, dict[str, int]]:
    """Return the `least`-core of blocks without short users, and how many rows were dropped for which reason.

    Args:
        blocks: all blocks; a user's rows are in one of them.
        codes: place of each block's items in the vocabulary.
        least: minimum rows of every user and item.
        mapper: runs the tasks.
    """
    folders = tuple(block.folder for block in blocks)
    groups = [range(at, min(at + TOGETHER, len(blocks))) for at in range(0, len(blocks), TOGETHER)]
    total_V = np.zeros(max((int(code.max(initial=-1)) for code in codes), default=-1) + 1, np.int64)
    for block, code in zip(blocks, codes, strict=True):
        total_V[code] += block.items["count"].to_numpy()

    def count(
        mask_V: npt.NDArray[Any], min_user: int
    ) -> tuple[npt.NDArray[Any], tuple[npt.NDArray[Any], ...]]:
        counts_V, kept = total_V.copy(), []
        found = chain.from_iterable(mapper(partial(_count_blocks, folders, codes, mask_V, min_user), groups))
        for codes_of, (codes_D, counts_D, kept_U) in zip(codes, found, strict=True):
            counts_V[codes_of[codes_D]] -= counts_D
            kept.append(kept_U)
        return counts_V, tuple(kept)

    first = last = k_core(count, total_V >= max(least, 1), max(least, 1), least)
    if least < MIN_EVENTS:
        last = k_core(count, first.mask_V, MIN_EVENTS, least)
    return last, {"k_core": int(total_V.sum()) - first.rows, "short_users": first.rows - last.rows}


def core_of_events(events: Sequences, least: int) -> npt.NDArray[Any]:
    """Return which events, a mask, are in the `least`-core without short users."""

    def count(
        mask_V: npt.NDArray[Any], min_user: int
    ) -> tuple[npt.NDArray[Any], tuple[npt.NDArray[Any], ...]]:
        kept_E, kept_U = kept_events(events.items_E - 1, events.offsets_U1, mask_V, min_user)
        return np.bincount(events.items_E[kept_E] - 1, minlength=len(mask_V)), (kept_U,)

    min_user = max(least, MIN_EVENTS)
    core = k_core(count, np.ones(len(events.items.source_id), bool), min_user, least)
    return kept_events(events.items_E - 1, events.offsets_U1, core.mask_V, min_user)[0]


def vocabulary(blocks: Sequence[BlockFile]) -> tuple[pa.Array, tuple[npt.NDArray[Any], ...]]:
    """Return all item ids, ascending, and the place of each block's items among them."""
    ids = ids_of_one_type([block.items["item"] for block in blocks])
    bounds = np.cumsum([block.items.num_rows for block in blocks])[:-1]
    if ids.type == pa.int64() and (found := coded_numbers(ids.to_numpy())) is not None:
        return found[0], tuple(np.split(found[1], bounds))
    distinct = ids.unique()
    distinct = distinct.take(pc.sort_indices(distinct))
    return distinct, tuple(np.split(pc.index_in(ids, distinct).to_numpy(), bounds))


def _count_blocks(
    folders: tuple[AnyPath, ...],
    codes: tuple[npt.NDArray[Any], ...],
    mask_V: npt.NDArray[Any],
    min_user: int,
    places: Sequence[int],
) -> list[tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any]]]:
    """Return of some blocks which items are dropped, how often, and the rows that are left of each user."""
    found = []
    for place in places:
        block = BlockFile.load(folders[place])
        items_E = block.rows.read_items(0, block.rows.total)
        kept_E, kept_U = kept_events(items_E, block.offsets_U1, mask_V[codes[place]], min_user)
        # Few are dropped as a rule, so that counting them is much less work than counting those that stay.
        counts = np.bincount(items_E[np.flatnonzero(~kept_E)], minlength=block.items.num_rows)
        dropped = np.flatnonzero(counts)
        found.append((dropped, counts[dropped], kept_U.astype(np.int32)))
    return found


def kept_events(
    items_E: npt.NDArray[Any], offsets_U1: npt.NDArray[Any], mask_V: npt.NDArray[Any], min_user: int
) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Return which events have an item that counts and a user with enough of them, and how many each user has."""
    kept_E = mask_V[items_E]
    counts_U = np.diff(offsets_U1)
    kept_U = counts_of(kept_E, offsets_U1)
    kept_U[kept_U < min_user] = 0
    if (kept_U == 0).any():
        kept_E &= np.repeat(kept_U > 0, counts_U)
    return kept_E, kept_U


def counts_of(kept_E: npt.NDArray[Any], offsets_U1: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return how many events of a mask each user has."""
    dropped = np.flatnonzero(~kept_E)
    counts_U = np.diff(offsets_U1)
    if len(dropped) * 8 > len(kept_E):
        before_E1 = np.concatenate([[0], np.cumsum(kept_E)])
        return np.diff(before_E1[offsets_U1])
    users = np.searchsorted(offsets_U1, dropped, side="right") - 1
    return counts_U - np.bincount(users, minlength=len(counts_U))
