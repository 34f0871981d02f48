"""What all metrics share: a gain per user from the rank of that user's one held-out item, averaged over users."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Metric:
    """A metric at a cut-off: `metric(ranks_U, k)` is the mean gain over users, between 0 and 1.

    Ranks start at 1 and may lie halfway between integers (`ss4rec.evaluation.ranks`); a rank counts if it is at most k.
    """

    name: str
    """Name in tables and files, as in `NDCG` of `NDCG@10`."""
    discount: Callable[[FloatArray], FloatArray]
    """Gain at each rank if it is within the cut-off; 1 at rank 1, never rising."""

    def gains(self, ranks_U: FloatArray, k: int) -> FloatArray:
        """Return the gain of each user `[U]`."""
        return np.where(ranks_U <= k, self.discount(ranks_U), 0.0)

    def __call__(self, ranks_U: FloatArray, k: int) -> float:
        """Return the mean gain over all users.

        Raises:
            ValueError: if there is no user.
        """
        if len(ranks_U) == 0:
            raise ValueError(f"{self.name}@{k} of no users is undefined")
        return float(self.gains(ranks_U, k).mean())
