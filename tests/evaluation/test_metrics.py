"""One contract for all metrics: bounds, monotone in the cut-off, a naive reference, ties at the cut-off."""

import math

import numpy as np
import pytest

from ss4rec.evaluation.metrics import (
    ALL_METRICS,
    RankedTargets,
    auc,
    auc_of_lists,
    average_precision,
    hit_rate,
    ndcg,
    precision,
    r_precision,
    recall,
    reciprocal_rank,
)

NAIVE_GAIN = {
    "HR": lambda rank: 1.0,
    "NDCG": lambda rank: 1 / math.log2(1 + rank),
    "MRR": lambda rank: 1 / rank,
    "recall": lambda rank: 1.0,
    "MAP": lambda rank: 1 / rank,
    "R-precision": lambda rank: float(rank <= 1),
}
RANKS_U = 1 + np.random.default_rng(0).integers(0, 80, 400) / 2


CUT = tuple(metric for metric in ALL_METRICS if metric is not precision)  # precision falls with k


@pytest.mark.parametrize("metric", CUT, ids=lambda metric: metric.name)
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
        if metric is r_precision:
            pytest.skip("only the first place counts")
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
    assert precision(ranks_U, 10) == pytest.approx(0.075)
    assert r_precision(ranks_U, 10) == 0.25
    assert auc(np.array([1.0, 11.0, 6.0, np.inf]), 11).tolist() == [1.0, 0.0, 0.5, 0.0]


def test_several_held_out_items_by_hand():
    """One list of 10 items: held out are those at ranks 1, 3 and 8; another with the one at rank 2."""
    ranks = RankedTargets.of(np.array([3.0, 2.0, 1.0, 8.0]), np.array([7, 9, 7, 7]))
    expected = {
        hit_rate: (1, 1), recall: (2 / 3, 1), precision: (2 / 5, 1 / 5), reciprocal_rank: (1, 1 / 2),
        average_precision: ((1 / 1 + 2 / 3) / 3, 1 / 2), r_precision: (2 / 3, 0),
        ndcg: ((1 + 1 / 2) / (1 + 1 / math.log2(3) + 1 / 2), 1 / math.log2(3)),
    }  # fmt: skip
    for metric, values in expected.items():
        assert metric.of_lists(ranks, 5) == pytest.approx(values), metric.name
    assert auc_of_lists(ranks, 10) == pytest.approx([1 - (12 - 6) / (3 * 7), 1 - 1 / 9])


@pytest.mark.parametrize("metric", ALL_METRICS, ids=lambda metric: metric.name)
@pytest.mark.parametrize("k", [1, 3, 10])
def test_several_equal_a_loop_and_one_equals_its_gain(metric, k):
    rng = np.random.default_rng(3)
    held = [np.sort(rng.choice(30, rng.integers(1, 14), replace=False) + 1) for _ in range(50)]
    ranks = RankedTargets.of(
        np.concatenate(held).astype(float), np.repeat(np.arange(50), list(map(len, held)))
    )
    assert metric.of_lists(ranks, k) == pytest.approx(
        [naive_list(metric.name, row.tolist(), k) for row in held]
    )
    one = RankedTargets.of(RANKS_U, np.arange(len(RANKS_U)))
    assert metric.of_lists(one, k) == pytest.approx(metric.gains(RANKS_U, k))


def naive_list(name, ranks, k):
    hits = [rank for rank in ranks if rank <= k]
    if name == "HR":
        return float(bool(hits))
    if name == "MRR":
        return 1 / min(hits) if hits else 0.0
    if name == "recall":
        return len(hits) / len(ranks)
    if name == "precision":
        return len(hits) / k
    most = min(len(ranks), k)
    if name == "R-precision":
        return sum(rank <= most for rank in ranks) / most
    if name == "MAP":
        return sum((place + 1) / rank for place, rank in enumerate(hits)) / most
    ideal = sum(1 / math.log2(1 + place) for place in range(1, most + 1))
    return sum(1 / math.log2(1 + rank) for rank in hits) / ideal


def test_two_held_out_items_that_tie_share_no_place():
    ranks = RankedTargets.of(np.array([1.5, 1.5]), np.array([0, 0]))
    assert average_precision.of_lists(ranks, 5)[0] == pytest.approx((1 / 1.5 + 2 / 2) / 2)
    assert all(metric.of_lists(ranks, 5)[0] <= 1 for metric in ALL_METRICS)


@pytest.mark.parametrize("single", [True, False])
def test_auc_equals_counting_pairs(single):
    rng = np.random.default_rng(4)
    scores_I = rng.normal(size=40)
    held = rng.choice(40, 1 if single else 5, replace=False)
    rank_I = np.empty(40)
    rank_I[np.argsort(-scores_I)] = np.arange(1, 41)
    others = np.setdiff1d(np.arange(40), held)
    expected = np.mean(scores_I[held][:, None] > scores_I[others][None, :])
    found = auc_of_lists(RankedTargets.of(rank_I[held], np.zeros(len(held), int)), 40)
    assert found == pytest.approx([expected])
    if single:
        assert auc(rank_I[held], 40) == pytest.approx([expected])
