"""One contract for all metrics: bounds, monotone in the cut-off, a naive reference, ties at the cut-off."""

import math

import numpy as np
import pytest

from ss4rec.evaluation.metrics import METRICS, hit_rate, ndcg, reciprocal_rank

NAIVE_GAIN = {
    "HR": lambda rank: 1.0,
    "NDCG": lambda rank: 1 / math.log2(1 + rank),
    "MRR": lambda rank: 1 / rank,
}
RANKS_U = 1 + np.random.default_rng(0).integers(0, 80, 400) / 2


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
class TestContract:
    @pytest.mark.parametrize("k", [1, 5, 10, 20])
    def test_equals_a_naive_mean_over_users(self, metric, k):
        gains = [NAIVE_GAIN[metric.name](rank) if rank <= k else 0.0 for rank in RANKS_U.tolist()]
        assert metric(RANKS_U, k) == pytest.approx(sum(gains) / len(gains), abs=1e-12)

    def test_lies_in_bounds_and_never_falls_with_k(self, metric):
        values = [metric(RANKS_U, k) for k in range(1, 45)]
        assert all(0 <= value <= 1 for value in values)
        assert values == sorted(values)

    def test_perfect_ranks_give_one_and_missed_ones_zero(self, metric):
        assert metric(np.ones(7), 1) == 1.0
        assert metric(np.full(7, 11.0), 10) == 0.0

    def test_a_better_rank_is_never_worse(self, metric):
        values = [metric(np.array([rank]), 10) for rank in np.arange(1, 15, 0.5)]
        assert values == sorted(values, reverse=True)

    def test_a_fractional_rank_counts_up_to_the_cut_off_only(self, metric):
        assert metric(np.array([9.5]), 10) > 0
        assert metric(np.array([10.0]), 10) > 0
        assert metric(np.array([10.5]), 10) == 0

    def test_no_users_is_refused(self, metric):
        with pytest.raises(ValueError, match=f"{metric.name}@10"):
            metric(np.array([]), 10)


def test_known_values():
    ranks_U = np.array([1.0, 3.0, 4.5, 30.0])
    assert hit_rate(ranks_U, 10) == 0.75
    assert ndcg(ranks_U, 3) == pytest.approx((1 + 0.5) / 4)
    assert reciprocal_rank(ranks_U, 10) == pytest.approx((1 + 1 / 3 + 1 / 4.5) / 4)
