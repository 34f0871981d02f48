"""Normalised discounted cumulative gain (Järvelin and Kekäläinen, 2002) with relevance 0 or 1.

With a single relevant item the ideal DCG is 1/log2(2) = 1, so NDCG is the discount of the item's rank. With R items the
ideal list has them at the places 1 to min(R, k).
"""

from __future__ import annotations

import numpy as np

from ss4rec.evaluation.metrics._metric import FloatArray, Metric, RankedTargets


def _discount(ranks_U: FloatArray, k: int) -> FloatArray:
    """1 / log2(1 + rank)."""
    discount_U: FloatArray = 1.0 / np.log2(1.0 + ranks_U)
    return discount_U


def _several(ranks: RankedTargets, k: int) -> FloatArray:
    """DCG over the ideal DCG."""
    found_L = ranks.sum(np.where(ranks.ranks_N <= k, _discount(ranks.ranks_N, k), 0.0))
    ideal_K = np.cumsum(_discount(np.arange(1.0, k + 1.0), k))
    return np.asarray(found_L / ideal_K[np.minimum(ranks.counts_L, k) - 1])


ndcg = Metric("NDCG", _discount, _several)
"""1 / log2(1 + rank) if rank <= k, else 0."""
