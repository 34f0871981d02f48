"""Precision: the fraction of the k places that hold a held-out item; with one per list it is HR / k."""

from __future__ import annotations

import numpy as np

from ss4rec.evaluation.metrics._metric import FloatArray, Metric, RankedTargets


def _discount(ranks_U: FloatArray, k: int) -> FloatArray:
    """One of k places is right."""
    return np.full_like(ranks_U, 1.0 / k)


def _several(ranks: RankedTargets, k: int) -> FloatArray:
    """Held-out items within the cut-off, over k."""
    return ranks.sum((ranks.ranks_N <= k).astype(np.float64)) / k


precision = Metric("precision", _discount, _several)
"""Held-out items within k / k."""
