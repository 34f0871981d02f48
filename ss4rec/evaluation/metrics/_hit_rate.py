"""Hit rate: the fraction of lists with a held-out item within the cut-off (with one held-out item also recall)."""

from __future__ import annotations

import numpy as np

from ss4rec.evaluation.metrics._metric import FloatArray, Metric, RankedTargets


def _discount(ranks_U: FloatArray, k: int) -> FloatArray:
    """Every place within the cut-off counts the same."""
    return np.ones_like(ranks_U)


def _several(ranks: RankedTargets, k: int) -> FloatArray:
    """Whether the best held-out item is within the cut-off."""
    return np.asarray((ranks.ranks_N[ranks.offsets_L1[:-1]] <= k).astype(np.float64))


hit_rate = Metric("HR", _discount, _several)
"""1 if any rank <= k, else 0."""
