"""What all metrics share: a gain per list from the ranks of its held-out items, averaged over lists.

A list is what one user is recommended at one moment. Leave-one-out, and every protocol that ranks each event after its
own history, have one held-out item per list: `Metric.gains`. Where one list is judged by several items (a basket, or
all of next week), use `Metric.of_lists` with `RankedTargets`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class RankedTargets:
    """The ranks of all held-out items of L lists; build it with `of`."""

    ranks_N: FloatArray
    """Rank of each item, from 1, list after list, ascending in a list."""
    offsets_L1: IntArray
    """Where each list's ranks begin and end; no list is empty."""

    @classmethod
    def of(cls, ranks_N: FloatArray, lists_N: IntArray) -> RankedTargets:
        """Group ranks by list.

        Two items of one list that tie have the same average rank; so that no place is taken twice, the j-th rank of a
        list counts as at least j.

        Args:
            ranks_N: rank of each item in its list.
            lists_N: list of each item, any numbers; lists come in ascending order.
        """
        order_N = np.lexsort((ranks_N, lists_N))
        _, counts_L = np.unique(lists_N, return_counts=True)
        offsets_L1 = np.concatenate([[0], np.cumsum(counts_L)])
        place_N = 1.0 + np.arange(len(ranks_N)) - np.repeat(offsets_L1[:-1], counts_L)
        return cls(np.maximum(ranks_N[order_N], place_N), offsets_L1)

    @cached_property
    def counts_L(self) -> IntArray:
        """Held-out items R of each list."""
        return np.diff(self.offsets_L1)

    @cached_property
    def place_N(self) -> FloatArray:
        """1, 2, ... R within each list: how many held-out items stand at this rank or above."""
        return 1.0 + np.arange(len(self.ranks_N)) - np.repeat(self.offsets_L1[:-1], self.counts_L)

    def sum(self, values_N: FloatArray) -> FloatArray:
        """Return the sum of a value per held-out item over each list, `[L]`."""
        return np.add.reduceat(values_N, self.offsets_L1[:-1])


@dataclass(frozen=True)
class Metric:
    """A metric at a cut-off: `metric(ranks_U, k)` is the mean gain over lists with one held-out item, between 0 and 1.

    Ranks start at 1 and may lie halfway between integers (`ss4rec.evaluation.ranks`); a rank counts if it is at most k.
    """

    name: str
    """Name in tables and files, as in `NDCG` of `NDCG@10`."""
    discount: Callable[[FloatArray, int], FloatArray]
    """Gain at each rank within the cut-off k, where it is the list's only held-out item; never rises with the rank."""
    several: Callable[[RankedTargets, int], FloatArray]
    """Value of each list `[L]` with any number of held-out items; equal to the gain where there is one."""

    def gains(self, ranks_U: FloatArray, k: int) -> FloatArray:
        """Return the gain of each list `[U]` with one held-out item each."""
        return np.where(ranks_U <= k, self.discount(ranks_U, k), 0.0)

    def __call__(self, ranks_U: FloatArray, k: int) -> float:
        """Return the mean gain over lists with one held-out item each.

        Raises:
            ValueError: if there is no list.
        """
        if len(ranks_U) == 0:
            raise ValueError(f"{self.name}@{k} of no users is undefined")
        return float(self.gains(ranks_U, k).mean())

    def of_lists(self, ranks: RankedTargets, k: int) -> FloatArray:
        """Return the value of each list `[L]` with any number of held-out items."""
        return self.several(ranks, k)
