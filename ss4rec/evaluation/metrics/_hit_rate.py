"""Hit rate: the share of users whose held-out item ranks within the cut-off (with one target a user, also recall)."""

from __future__ import annotations

import numpy as np

from ss4rec.evaluation.metrics._metric import FloatArray, Metric


def _discount(ranks_U: FloatArray) -> FloatArray:
    """Every place within the cut-off counts the same."""
    return np.ones_like(ranks_U)


hit_rate = Metric("HR", _discount)
"""1 if rank <= k, else 0."""
