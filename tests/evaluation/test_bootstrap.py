"""The interval of a mean equals that of drawing users one by one."""

import numpy as np
import pytest

from ss4rec.evaluation.bootstrap import bootstrap_mean
from ss4rec.evaluation.metrics import hit_rate, ndcg


@pytest.mark.parametrize("metric", [hit_rate, ndcg], ids=lambda metric: metric.name)
@pytest.mark.parametrize("merge_equal", [True, False])
def test_it_equals_drawing_users(metric, merge_equal):
    rng = np.random.default_rng(2)
    gains_U = metric.gains(1 + rng.integers(0, 60, 500) / 2, 10)
    low, high = bootstrap_mean(gains_U, 0, merge_equal=merge_equal)
    draws = [rng.choice(gains_U, len(gains_U)).mean() for _ in range(2000)]
    assert (low, high) == pytest.approx(tuple(np.percentile(draws, [2.5, 97.5])), abs=0.006)
    assert low < gains_U.mean() < high
    assert bootstrap_mean(gains_U, 0, merge_equal=merge_equal) == (low, high)


def test_it_equals_the_standard_error_and_widens_with_the_level():
    values_U = np.random.default_rng(13).integers(0, 2, 400).astype(float)
    rng = np.random.default_rng(0)
    low, high = bootstrap_mean(values_U, rng, samples=2000)
    assert (high - low) / 2 == pytest.approx(1.96 * values_U.std() / 20, rel=0.15)
    wide = bootstrap_mean(values_U, rng, samples=2000, level=0.99)
    assert wide[1] - wide[0] > 1.2 * (high - low)


def test_many_values_give_the_same_interval_as_few():
    """With many different values users are drawn instead of values; a hair of noise must change nothing else."""
    few_U = np.random.default_rng(3).integers(0, 5, 3000) / 4
    many_U = few_U + np.random.default_rng(4).normal(0, 1e-9, 3000)
    few, many = (bootstrap_mean(values_U, 0, samples=4000) for values_U in (few_U, many_U))
    assert few != many
    assert bootstrap_mean(many_U[::-1], 0, samples=4000) == many  # the order of users says nothing
    assert many == pytest.approx(few, abs=0.1 * (few[1] - few[0]))
