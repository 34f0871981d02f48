"""What the time before the reference says about items: what follows what, and the stars that each item usually gets.

The reference's own events are no part of it, so that reference and later windows are compared with the same tables.
Tables of shards add up.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from drift.calendar import Window
from drift.signals.items import ItemCounts
from drift.stats.distances import Array
from ss4rec.data.batches.windows import ragged
from ss4rec.evaluation.transitions import count_transitions

FOLLOWERS = 10
"""Most frequent followers of an item that count as expected."""
MIN_RATINGS = 5
"""Ratings of an item from which its mean says something."""


@dataclass(frozen=True)
class PastCounts:
    """Counts of one or more shards."""

    pairs_VV: csr_matrix
    """How often each item came right after each other one."""
    stars_V: Array
    """Sum of the ratings."""
    ratings_V: NDArray[np.int64]
    """Number of ratings."""
    items: ItemCounts | None
    """Events by window, where the table of months does not add up to the windows."""

    @classmethod
    def of_shard(
        cls, shard: pa.Table, before_s: int, num_items: int, windows: list[Window] | None = None
    ) -> PastCounts:
        """Count the events before second `before_s`, and with `windows` all events by window."""
        items_E, offsets_U1 = ragged(shard["items"])
        times_E, _ = ragged(shard["timestamps"])
        ratings_E, _ = ragged(shard["ratings"])
        early_E = times_E < before_s
        user_E = np.repeat(np.arange(len(offsets_U1) - 1), np.diff(offsets_U1))[early_E]
        counts = None if windows is None else ItemCounts.of_shard(shard, windows, num_items)
        return cls(
            count_transitions(items_E[early_E], user_E, num_items),
            np.bincount(items_E[early_E], ratings_E[early_E], num_items + 1).astype(np.float64),
            np.bincount(items_E[early_E], minlength=num_items + 1),
            counts,
        )

    def __add__(self, other: PastCounts) -> PastCounts:
        """Add the counts of other shards."""
        return PastCounts(
            self.pairs_VV + other.pairs_VV,
            self.stars_V + other.stars_V,
            self.ratings_V + other.ratings_V,
            None if self.items is None or other.items is None else self.items + other.items,
        )

    def tables(self) -> PastTables:
        """Return what the histograms need."""
        mean_V = np.divide(
            self.stars_V,
            self.ratings_V,
            out=np.full(len(self.stars_V), np.nan),
            where=self.ratings_V >= MIN_RATINGS,
        )
        return PastTables(top_followers(self.pairs_VV), mean_V.astype(np.float32))


@dataclass(frozen=True)
class PastTables:
    """What is expected of an event, from the time before the reference."""

    followers_VF: NDArray[np.int32]
    """The items that most often came right after each item, 0 where there are fewer."""
    mean_V: NDArray[np.float32]
    """Mean stars of each item; NaN with fewer than `MIN_RATINGS` ratings."""

    @classmethod
    def empty(cls, num_items: int) -> PastTables:
        """Return tables that expect nothing."""
        return cls(np.zeros((num_items + 1, FOLLOWERS), np.int32), np.full(num_items + 1, np.nan, np.float32))


def top_followers(pairs_VV: csr_matrix, count: int = FOLLOWERS) -> NDArray[np.int32]:
    """Return the `count` columns with the largest values of each row, ties to the lower column, 0 for none."""
    table = pairs_VV.tocoo()
    order = np.lexsort((table.col, -table.data, table.row))
    row_X, column_X = table.row[order], table.col[order]
    place_X = np.arange(len(row_X)) - np.searchsorted(row_X, row_X)
    found_VF = np.zeros((pairs_VV.shape[0], count), np.int32)
    kept_X = place_X < count
    found_VF[row_X[kept_X], place_X[kept_X]] = column_X[kept_X]
    return found_VF
