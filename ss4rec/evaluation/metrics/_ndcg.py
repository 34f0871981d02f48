"""Normalised discounted cumulative gain (Järvelin and Kekäläinen, 2002) for one relevant item.

With a single relevant item the ideal DCG is 1/log2(2) = 1, so NDCG is the discount of the item's rank.
"""

from __future__ import annotations

import numpy as np

from ss4rec.evaluation.metrics._metric import FloatArray, Metric


def _discount(ranks_U: FloatArray) -> FloatArray:
    """1 / log2(1 + rank)."""
    discount_U: FloatArray = 1.0 / np.log2(1.0 + ranks_U)
    return discount_U


ndcg = Metric("NDCG", _discount)
"""1 / log2(1 + rank) if rank <= k, else 0."""
