"""Ranking metrics over the ranks of held-out items; one file each, all instances of `Metric`."""

from ss4rec.evaluation.metrics._hit_rate import hit_rate
from ss4rec.evaluation.metrics._metric import Metric
from ss4rec.evaluation.metrics._ndcg import ndcg
from ss4rec.evaluation.metrics._reciprocal_rank import reciprocal_rank

METRICS: tuple[Metric, ...] = (hit_rate, ndcg, reciprocal_rank)
"""Every metric, in the order of tables."""

__all__ = ["METRICS", "Metric", "hit_rate", "ndcg", "reciprocal_rank"]
