"""Mean average precision; with one held-out item per list it is MRR.

AP@k = sum over held-out items within k of (held-out items at this rank or above) / rank, over min(R, k): the best that
k places allow, so that a perfect list has 1. (Some libraries divide by R instead; the two agree where R <= k.)
"""

from __future__ import annotations

import numpy as np

from ss4rec.evaluation.metrics._metric import FloatArray, Metric, RankedTargets


def _discount(ranks_U: FloatArray, k: int) -> FloatArray:
    """Precision at the one held-out item."""
    return 1.0 / ranks_U


def _several(ranks: RankedTargets, k: int) -> FloatArray:
    """Mean precision at the held-out items."""
    precision_N = np.where(ranks.ranks_N <= k, ranks.place_N / ranks.ranks_N, 0.0)
    return np.asarray(ranks.sum(precision_N) / np.minimum(ranks.counts_L, k))


average_precision = Metric("MAP", _discount, _several)
"""Precision at each held-out item within k, averaged over min(R, k)."""
