"""Mean reciprocal rank of the first held-out item, cut off at k."""

from __future__ import annotations

import numpy as np

from ss4rec.evaluation.metrics._metric import FloatArray, Metric, RankedTargets


def _discount(ranks_U: FloatArray, k: int) -> FloatArray:
    """1 / rank."""
    return 1.0 / ranks_U


def _several(ranks: RankedTargets, k: int) -> FloatArray:
    """1 / rank of the best held-out item."""
    first_L = ranks.ranks_N[ranks.offsets_L1[:-1]]
    return np.where(first_L <= k, 1.0 / first_L, 0.0)


reciprocal_rank = Metric("MRR", _discount, _several)
"""1 / rank if rank <= k, else 0."""
