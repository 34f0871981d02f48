"""The lists that a model recommends: coverage of equally many users, and whether it changed."""

from itertools import combinations

import numpy as np
import pyarrow as pa
import pytest

from drift.config import DriftConfig
from drift.model.lists import LISTS, beliefs, changed, coverage, judge_lists, list_tests


@pytest.mark.parametrize("users", [1, 3, 5, 9])
def test_coverage_is_the_mean_over_all_draws_of_users(users):
    items_NK = np.random.default_rng(0).integers(1, 30, (5, 4))
    items_NK = np.array([np.unique(np.r_[row, 40, 41, 42, 43])[:4] for row in items_NK])
    chosen = list(combinations(range(5), min(users, 5)))
    want = np.mean([len(np.unique(items_NK[list(some)])) for some in chosen]) / 50
    assert coverage(items_NK, users, 50) == pytest.approx(want)


def lists(rng, users, items, popularity):
    top10 = [rng.choice(items, 10, replace=False).tolist() for _ in range(users)]
    figure = rng.normal(popularity, 0.1, users)
    return pa.table(
        {
            "top10": pa.array(top10, pa.list_(pa.int32())),
            "model": rng.integers(1, 40, users).astype(float),
            "top10_mass": np.full(users, 0.5),
            "entropy": np.full(users, 2.0),
            "list_popularity": figure,
            "novelty": rng.normal(8, 1, users),
            "miscalibration": pa.nulls(users, pa.float64()),
        }
    )


def record_of(ref, cur, config):
    rng = np.random.default_rng(1)
    users = min(ref.num_rows, cur.num_rows)
    record = {"n_users": cur.num_rows} | beliefs(cur, 400, users)
    record |= list_tests(ref, cur, users, 400, config, rng)
    judge_lists([record], config)
    return record


def test_other_lists_are_found_and_the_same_are_not():
    """The second side has more users, and only more users: its coverage is the same."""
    config, rng = DriftConfig(min_users=50, permutations=999, alibi=()), np.random.default_rng(2)
    same = record_of(lists(rng, 80, 300, 0.5), lists(rng, 200, 300, 0.5), config)
    assert (same["lists.severity"], changed(same, config)) == ("none", [])
    assert same["coverage"] == pytest.approx(same["coverage.before"], rel=0.05)
    narrow = record_of(lists(rng, 80, 300, 0.5), lists(rng, 200, 60, 0.8), config)
    assert narrow["lists.severity"] == "drift"
    assert set(changed(narrow, config)) == {"coverage", "list_popularity"}
    assert narrow["coverage"] < 0.5 * narrow["coverage.before"]
    few = record_of(lists(rng, 20, 300, 0.5), lists(rng, 30, 60, 0.8), config)
    assert few["lists.severity"] == "undecided"
    assert all(f"{name}.p_adj" in few for name in LISTS)
