"""The exact median of more gaps than fit in memory: histograms that add up."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

LOW_BITS = 16
LOW = 1 << LOW_BITS


class GapCounts:
    """Counts of gaps: each value below `LOW` seconds, and larger ones by their upper bits."""

    def __init__(self) -> None:
        self.low_B = np.zeros(LOW, np.int64)
        self.high: dict[int, int] = {}

    @classmethod
    def of(cls, gaps: npt.NDArray[Any]) -> GapCounts:
        """Count gaps in seconds, 0 or more."""
        counts = cls()
        counts.low_B = np.bincount(np.minimum(gaps, LOW), minlength=LOW + 1)[:LOW]
        sizes_B = np.bincount(gaps[np.flatnonzero(gaps >= LOW)] >> LOW_BITS)
        buckets = np.flatnonzero(sizes_B)
        counts.high = dict(zip(buckets.tolist(), sizes_B[buckets].tolist(), strict=True))
        return counts

    def add(self, other: GapCounts) -> None:
        """Add the counts of other gaps."""
        self.low_B += other.low_B
        for bucket, size in other.high.items():
            self.high[bucket] = self.high.get(bucket, 0) + size

    @property
    def total(self) -> int:
        """Number of gaps."""
        return int(self.low_B.sum()) + sum(self.high.values())

    @property
    def zero(self) -> int:
        """Number of gaps of 0 s."""
        return int(self.low_B[0])

    def median(self, within: Callable[[int], Iterator[npt.NDArray[Any]]]) -> float:
        """Return the median as `np.median` gives it; 0 if there is no gap.

        Args:
            within: yields the gaps whose upper bits are the given bucket, in any number of arrays.
        """
        total = self.total
        if not total:
            return 0.0
        return (self._kth((total - 1) // 2, within) + self._kth(total // 2, within)) / 2

    def _kth(self, rank: int, within: Callable[[int], Iterator[npt.NDArray[Any]]]) -> int:
        cumulative_B = np.cumsum(self.low_B)
        if rank < cumulative_B[-1]:
            return int(np.searchsorted(cumulative_B, rank, side="right"))
        rank -= int(cumulative_B[-1])
        for bucket in sorted(self.high):
            if rank < self.high[bucket]:
                return int(np.sort(np.concatenate(list(within(bucket))))[rank])
            rank -= self.high[bucket]
        raise AssertionError("rank beyond the counts")
