"""Ranking metrics over the ranks of held-out items; one file each, all instances of `Metric` (and `auc`).

With one held-out item per list, which is what all protocols here rank, several of them coincide: recall = HR,
precision = HR / k, MAP = MRR, R-precision = HR@1. They differ where one list is judged by several items.
"""

from ss4rec.evaluation.metrics._auc import auc, auc_of_lists
from ss4rec.evaluation.metrics._average_precision import average_precision
from ss4rec.evaluation.metrics._hit_rate import hit_rate
from ss4rec.evaluation.metrics._metric import Metric, RankedTargets
from ss4rec.evaluation.metrics._ndcg import ndcg
from ss4rec.evaluation.metrics._precision import precision
from ss4rec.evaluation.metrics._r_precision import r_precision
from ss4rec.evaluation.metrics._recall import recall
from ss4rec.evaluation.metrics._reciprocal_rank import reciprocal_rank

METRICS: tuple[Metric, ...] = (hit_rate, ndcg, reciprocal_rank)
"""The metrics of every table, in its order: with one held-out item per list the others add nothing."""
ALL_METRICS: tuple[Metric, ...] = (*METRICS, recall, precision, average_precision, r_precision)
"""Every metric at a cut-off."""

__all__ = [
    "ALL_METRICS",
    "METRICS",
    "Metric",
    "RankedTargets",
    "auc",
    "auc_of_lists",
    "average_precision",
    "hit_rate",
    "ndcg",
    "precision",
    "r_precision",
    "recall",
    "reciprocal_rank",
]
