"""R-precision: precision at R, the number of held-out items; with one per list it is HR@1.

R is cut at k, so that a list of k places can be judged.
"""

from __future__ import annotations

import numpy as np

from ss4rec.evaluation.metrics._metric import FloatArray, Metric, RankedTargets


def _discount(ranks_U: FloatArray, k: int) -> FloatArray:
    """Only the first place counts."""
    return (ranks_U <= 1).astype(np.float64)


def _several(ranks: RankedTargets, k: int) -> FloatArray:
    """Held-out items within the first min(R, k) places, over their number."""
    places_L = np.minimum(ranks.counts_L, k)
    found_N = ranks.ranks_N <= np.repeat(places_L, ranks.counts_L)
    return np.asarray(ranks.sum(found_N.astype(np.float64)) / places_L)


r_precision = Metric("R-precision", _discount, _several)
"""Held-out items within the first min(R, k) places / min(R, k)."""
