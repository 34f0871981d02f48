"""Mean reciprocal rank, cut off at k."""

from __future__ import annotations

from ss4rec.evaluation.metrics._metric import FloatArray, Metric


def _discount(ranks_U: FloatArray) -> FloatArray:
    """1 / rank."""
    return 1.0 / ranks_U


reciprocal_rank = Metric("MRR", _discount)
"""1 / rank if rank <= k, else 0."""
