"""Recall: the fraction of a list's held-out items that are within the cut-off; with one it is the hit rate."""

from __future__ import annotations

import numpy as np

from ss4rec.evaluation.metrics._metric import FloatArray, Metric, RankedTargets


def _discount(ranks_U: FloatArray, k: int) -> FloatArray:
    """The one held-out item is all there is to find."""
    return np.ones_like(ranks_U)


def _several(ranks: RankedTargets, k: int) -> FloatArray:
    """Held-out items within the cut-off, over all held-out items."""
    return ranks.sum((ranks.ranks_N <= k).astype(np.float64)) / ranks.counts_L


recall = Metric("recall", _discount, _several)
"""Held-out items within k / all held-out items."""
