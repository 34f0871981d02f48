"""Paired tests: exact where they can be enumerated, right size under no difference, wider with seeds that differ."""

import itertools

import numpy as np
import pytest

from ss4rec.evaluation.significance import compare_gains, holm


def test_p_equals_all_sign_flips():
    gained_U = np.array([0.5, 0.5, -0.2, 0.9, 0.3, 0.0, 0.4, -0.1, 0.6])
    found = compare_gains(np.zeros((1, 9)), gained_U[None])
    sums = [abs(np.dot(signs, gained_U)) for signs in itertools.product((-1, 1), repeat=9)]
    exact = np.mean(np.array(sums) >= abs(gained_U.sum()) - 1e-12)
    assert found.p == pytest.approx(exact, abs=0.01)
    assert found.mean == pytest.approx(gained_U.mean())
    assert found.low < found.mean < found.high


def test_few_sizes_and_many_give_the_same_p():
    """Equal sizes are drawn together; a hair of noise makes them all different, and leaves ties of sums as they are."""
    rng = np.random.default_rng(5)
    coarse = rng.integers(-1, 2, 900) + (rng.random(900) < 0.05)
    fine = coarse + rng.normal(0, 1e-13, 900)
    a, b = (compare_gains(np.zeros((1, 900)), gained[None]).p for gained in (coarse, fine))
    assert 0.001 < a < 0.5
    assert a == pytest.approx(b, abs=0.02)


def test_the_interval_is_that_of_the_mean_difference():
    rng = np.random.default_rng(0)
    first, second = rng.random(2000), rng.random(2000) + 0.05
    found = compare_gains(first[None], second[None])
    half = 1.96 * (second - first).std(ddof=1) / np.sqrt(2000)
    assert (found.low, found.high) == pytest.approx((found.mean - half, found.mean + half), abs=0.15 * half)
    assert found.relative == pytest.approx(found.mean / first.mean())


def test_equal_runs_differ_by_nothing():
    gains = np.random.default_rng(0).random((1, 50))
    found = compare_gains(gains, gains)
    assert (found.mean, found.p, found.low, found.high) == (0.0, 1.0, 0.0, 0.0)


def test_the_size_is_right_without_a_difference():
    pairs = np.random.default_rng(1).integers(0, 2, (400, 2, 1, 400)).astype(float)
    hits = [compare_gains(*pair, permutations=499).p <= 0.05 for pair in pairs]
    assert 0.02 <= np.mean(hits) <= 0.08


def test_seeds_that_differ_widen_interval_and_p():
    """Two recipes of equal worth whose seeds differ by more than users explain: three runs a side must not fool it."""
    rng = np.random.default_rng(2)
    users = rng.random(600)
    wrong = {"seeds": 0, "pooled": 0}
    for _ in range(60):
        sides = [
            np.stack([users + rng.normal(0, 0.02) + rng.normal(0, 0.2, 600) for _ in range(3)])
            for _ in range(2)
        ]
        means = [side.mean(0)[None] for side in sides]
        wrong["seeds"] += compare_gains(*sides, permutations=299).p <= 0.05
        wrong["pooled"] += compare_gains(*means, permutations=299).p <= 0.05
    assert wrong["pooled"] > 20  # users alone are sure of what is chance
    assert wrong["seeds"] < 12
    a, b = compare_gains(*sides), compare_gains(*means)
    assert a.high - a.low > 1.5 * (b.high - b.low)


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.2]) == pytest.approx([0.04, 0.09, 0.09, 0.2])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []
