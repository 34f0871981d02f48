"""Statistics against naive loops, and against the mistakes that would make them lie."""

from dataclasses import dataclass

import numpy as np
import pytest
from scipy.spatial.distance import jensenshannon
from scipy.stats import wasserstein_distance

from drift.stats.bin_noise import BinNoise
from drift.stats.distances import distances, mean_shift
from drift.stats.resampling import (
    Blocks,
    at_least,
    bootstrap_intervals,
    drop_test,
    holm,
    max_t,
    permutation_test,
    sign_flip_test,
)


@dataclass(frozen=True)
class Toy:
    size: int
    distance: str
    width: float = 1.0


RATING, LABELS = Toy(10, "w1", 0.5), Toy(4, "js")
SIGNALS = [RATING, LABELS]


def users(rng, count, shift=0.0, first=0, spread=0.45, rows=60, share=(0.4, 0.3, 0.2, 0.1)):
    """Blocks of users who each have a mean of their own: rows of one user are alike."""
    mean_N = 3.5 + shift + spread * rng.standard_normal(count)
    stars_NR = np.clip(
        np.rint(2 * (mean_N[:, None] + 0.9 * rng.standard_normal((count, rows)))), 1, 10
    ).astype(int)
    ratings_NK = np.stack([np.bincount(row - 1, minlength=10) / rows for row in stars_NR])
    labels_NK = rng.multinomial(rows, share, size=count) / rows
    return Blocks(first + np.arange(count), np.hstack([ratings_NK, labels_NK]), np.ones((count, 2)))


def test_distances_equal_scipy():
    rng = np.random.default_rng(0)
    ref, cur = rng.dirichlet(np.ones(14), 2)
    ref, cur = (np.concatenate([x[:10] / x[:10].sum(), x[10:] / x[10:].sum()]) for x in (ref, cur))
    w1, js = distances(ref, cur, SIGNALS)
    stars = np.arange(10) * 0.5
    assert w1 == pytest.approx(wasserstein_distance(stars, stars, ref[:10], cur[:10]))
    assert js == pytest.approx(jensenshannon(ref[10:], cur[10:], base=2))
    ks = distances(ref[:10], cur[:10], [Toy(10, "ks")])[0]
    assert ks == pytest.approx(max(abs(ref[: i + 1].sum() - cur[: i + 1].sum()) for i in range(10)))


def test_a_fall_has_a_negative_shift():
    low, high = np.eye(10)[2], np.eye(10)[6]
    assert mean_shift(high, low, [RATING])[0] == pytest.approx(-2.0)
    assert mean_shift(low, high, [RATING])[0] == pytest.approx(2.0)


def test_permutation_p_equals_a_naive_loop_over_all_labellings():
    """With users on both sides: swaps of their blocks; the rest exchange labels."""
    rng = np.random.default_rng(1)
    ref, cur = users(rng, 6), users(rng, 6, shift=0.6, first=4)  # users 4 and 5 are on both sides
    result = permutation_test(ref, cur, SIGNALS, 4000, np.random.default_rng(2))
    assert result.effect_S == pytest.approx(distances(ref.mean(SIGNALS), cur.mean(SIGNALS), SIGNALS))

    loop = np.random.default_rng(3)
    singles = [*ref.sums_NK[:4], *cur.sums_NK[2:]]
    count = 0
    for _ in range(4000):
        label = loop.permutation([0] * 4 + [1] * 4)
        sides = [[], []]
        for row, side in zip(singles, label, strict=True):
            sides[side].append(row)
        for i in range(2):
            swap = loop.integers(2)
            sides[swap].append(ref.sums_NK[4 + i])
            sides[1 - swap].append(cur.sums_NK[i])
        null = distances(np.mean(sides[0], axis=0), np.mean(sides[1], axis=0), SIGNALS)
        count += null[0] >= result.effect_S[0] - 1e-9
    assert result.p_S[0] == pytest.approx((1 + count) / 4001, abs=0.03)


def test_whole_users_are_the_unit():
    """Alarms without drift: 5 % when users are permuted; a test that permutes rows flags nearly always."""
    rng = np.random.default_rng(4)
    alarms, row_alarms = 0, 0
    for _ in range(60):
        ref, cur = users(rng, 80), users(rng, 80, first=80)
        alarms += permutation_test(ref, cur, SIGNALS, 199, rng).p_max_S.min() <= 0.05
        rows = [Blocks(np.arange(4800), _rows(side, rng), np.ones((4800, 2))) for side in (ref, cur)]
        rows[1] = Blocks(rows[1].users_N + 4800, rows[1].sums_NK, rows[1].weights_NS)
        row_alarms += permutation_test(*rows, SIGNALS, 39, rng).p_max_S.min() <= 0.05 if _ < 10 else 0
    assert alarms <= 8
    assert row_alarms >= 5


def _rows(side, rng):
    """Break users into 60 single events with the same marginals."""
    rating = np.concatenate(
        [np.repeat(np.eye(10), np.rint(row[:10] * 60).astype(int), axis=0) for row in side.sums_NK]
    )
    return np.hstack([rating, np.eye(4)[rng.integers(0, 4, len(rating))]])


def test_a_user_with_many_windows_moves_as_one():
    """Four heavy users with 50 windows each against four: 70 labellings, so p can't be small however many windows."""
    rng = np.random.default_rng(5)
    ref, cur = users(rng, 4, spread=0.0), users(rng, 4, shift=1.0, first=4, spread=0.0)
    heavy = [Blocks(side.users_N, side.sums_NK * 50, side.weights_NS * 50) for side in (ref, cur)]
    assert permutation_test(*heavy, SIGNALS, 999, rng).p_S[0] >= 1 / 70


def test_planted_shift_is_found_and_signed():
    rng = np.random.default_rng(6)
    result = permutation_test(users(rng, 400), users(rng, 400, shift=-0.2, first=400), SIGNALS, 499, rng)
    assert result.p_max_S[0] == pytest.approx(1 / 500)
    assert result.shift_S[0] < -0.1
    assert result.p_max_S[1] > 0.05


def half_a_star_less(ref):
    """The same users, who all give half a star less."""
    moved = np.roll(ref.sums_NK[:, :10], -1, axis=1)
    moved[:, 0] += moved[:, 9]
    moved[:, 9] = 0
    return Blocks(ref.users_N, np.hstack([moved, ref.sums_NK[:, 10:]]), ref.weights_NS)


def test_users_on_both_sides_exchange_their_own_blocks():
    """Users differ by far more than they changed: taken as other people, the change would drown in them."""
    rng = np.random.default_rng(19)
    ref = users(rng, 12, spread=1.0)
    cur = half_a_star_less(ref)
    assert permutation_test(ref, cur, SIGNALS, 499, rng).p_S[0] == pytest.approx(1 / 500)
    others = Blocks(cur.users_N + 1000, cur.sums_NK, cur.weights_NS)
    assert permutation_test(ref, others, SIGNALS, 499, rng).p_S[0] > 0.02


def test_sign_flips_find_a_change_within_users_that_users_apart_would_hide():
    rng = np.random.default_rng(7)
    ref = users(rng, 60, spread=1.0)
    cur = half_a_star_less(ref)
    result = sign_flip_test(ref, cur, SIGNALS, 499, rng)
    assert result.p_max_S[0] == pytest.approx(1 / 500)
    assert result.shift_S[0] < -0.3
    assert result.p_S[1] == 1.0  # labels did not move at all


def test_a_flip_of_all_users_is_as_extreme_as_none():
    """Five users who all moved alike: 2 of the 32 ways to flip them reach the observation."""
    rng = np.random.default_rng(20)
    ref = users(rng, 5)
    assert sign_flip_test(ref, half_a_star_less(ref), SIGNALS, 4000, rng).p_S[0] == pytest.approx(
        2 / 32, abs=0.015
    )


def test_sign_flips_leave_out_users_who_lack_the_signal_on_one_side():
    rng = np.random.default_rng(8)
    ref, cur = users(rng, 30), users(rng, 30, shift=2.0)
    cur.weights_NS[:15, 0] = 0
    cur.sums_NK[:15, :10] = 0
    both = sign_flip_test(ref, cur, SIGNALS, 99, np.random.default_rng(0))
    half = sign_flip_test(
        ref.take(np.arange(15, 30)), cur.take(np.arange(15, 30)), SIGNALS, 99, np.random.default_rng(0)
    )
    assert both.effect_S[0] == pytest.approx(half.effect_S[0])


def test_p_is_never_zero_and_counts_ties():
    assert at_least(np.array([9.0]), np.zeros((99, 1)))[0] == 1 / 100
    assert at_least(np.array([0.0]), np.zeros((99, 1)))[0] == 1.0


def test_max_t_equals_a_loop():
    rng = np.random.default_rng(9)
    observed, null = rng.standard_normal(3) + 1.5, rng.standard_normal((199, 3)) * [1, 5, 0.1]
    p, p_max = max_t(observed, null)
    everything = np.vstack([observed, null])
    z = (everything - everything.mean(0)) / everything.std(0)
    for s in range(3):
        assert p_max[s] == (1 + sum(max(row) + 1e-4 >= z[0, s] for row in z[1:])) / 200
    assert (p_max >= p).all()


def test_a_constant_signal_never_alarms_and_costs_nothing():
    rng = np.random.default_rng(10)
    null = np.hstack([rng.standard_normal((99, 1)), np.zeros((99, 1))])
    p, p_max = max_t(np.array([3.0, 0.0]), null)
    assert p[1] == p_max[1] == 1.0
    assert p[0] == p_max[0]


def test_holm_equals_the_textbook():
    p = np.array([[0.010, 0.5], [0.04, 0.03], [0.005, 0.9], [0.6, 0.7]])
    assert holm(p)[:, 0] == pytest.approx([0.03, 0.08, 0.02, 0.6])
    assert holm(p)[1, 1] == pytest.approx(0.06)


def test_holm_skips_failed_cells_and_keeps_room_for_planned_windows():
    p = np.array([[0.01], [np.nan], [0.02]])
    adjusted = holm(p)
    assert adjusted[[0, 2], 0] == pytest.approx([0.02, 0.02])
    assert np.isnan(adjusted[1, 0])
    assert holm(p, planned=10)[[0, 2], 0] == pytest.approx([0.1, 0.18])


def test_holm_holds_a_timeline_without_drift():
    rng = np.random.default_rng(11)
    runs = [(holm(rng.uniform(size=(34, 1))) <= 0.05).any() for _ in range(400)]
    assert np.mean(runs) <= 0.08
    assert np.mean([(rng.uniform(size=34) <= 0.05).any() for _ in range(400)]) >= 0.7  # what Holm prevents


def test_bootstrap_covers_the_truth():
    rng = np.random.default_rng(12)
    inside = 0
    truth = None
    for _ in range(40):
        ref, cur = users(rng, 200), users(rng, 200, shift=0.3, first=200)
        if truth is None:
            big = users(rng, 20000), users(rng, 20000, shift=0.3, first=20000)
            truth = distances(big[0].mean(SIGNALS), big[1].mean(SIGNALS), SIGNALS)[0]
        low, high = bootstrap_intervals(ref, cur, SIGNALS, 200, 0.95, rng)
        inside += low[0] <= truth <= high[0]
    assert inside >= 34


def test_a_drop_is_found_and_a_rise_is_not():
    rng = np.random.default_rng(14)
    before, after = (rng.uniform(size=600) < share for share in (0.3, 0.2))
    assert drop_test(before.astype(float), after.astype(float), 499, rng) <= 0.01
    assert drop_test(after.astype(float), before.astype(float), 499, rng) >= 0.95


def test_many_targets_of_a_user_make_a_fall_easier_to_see():
    """Beside a reference of one target each; without a fall 5 of 100 p are below .05 all the same."""
    rng = np.random.default_rng(15)
    reference = (rng.uniform(size=4000) < 0.2).astype(float)
    assert drop_test(reference, rng.binomial(20, 0.16, 300) / 20, 999, rng) <= 0.002
    null = [
        drop_test(reference[:800], rng.binomial(20, reference[:800].mean(), 100) / 20, 99, rng)
        for _ in range(200)
    ]
    assert np.mean(np.array(null) <= 0.05) < 0.09


def test_ties_of_a_rare_signal_are_kept():
    """Three users in 1,200 differ: labellings tie, and float32 sums of the rest must not break the ties."""
    for seed in range(6):
        rng = np.random.default_rng(seed)
        share_N = np.zeros(1200)
        share_N[[700, 800, 900]] = 1 / rng.integers(50, 120, 3)
        hist_NK = np.stack([1 - share_N, share_N], axis=1).astype(np.float32)
        ends = ((0, 600), (600, 1200))
        sides = [Blocks(np.arange(a, b), hist_NK[a:b], np.ones((600, 1), np.float32)) for a, b in ends]
        found = permutation_test(*sides, [Toy(2, "ks")], 200, np.random.default_rng(seed))
        loop = np.random.default_rng(seed)
        labels_BN = loop.permuted(np.broadcast_to(np.repeat([0, 1], 600), (200, 1200)), axis=1)
        gap_B = np.abs((2 * labels_BN - 1) @ share_N) / 600
        assert found.p_S[0] == (1 + (gap_B >= share_N.sum() / 600 - 1e-9).sum()) / 201


def test_noise_of_the_bins_widens_the_null():
    """Without it the same difference is an alarm."""
    rng = np.random.default_rng(18)
    ref, cur = users(rng, 200), users(rng, 200, shift=0.2, first=200)

    ends = np.array([0.1, 0, 0, 0, 0, 0, 0, 0, 0, -0.1])
    wide = [BinNoise(slice(0, 10), np.outer(ends, np.eye(10)[0]))]
    assert permutation_test(ref, cur, SIGNALS, 199, rng).p_S[0] <= 0.01
    assert permutation_test(ref, cur, SIGNALS, 199, rng, wide).p_S[0] > 0.1
    sides = [bootstrap_intervals(ref, cur, SIGNALS, 100, 0.95, rng, noises) for noises in ((), wide)]
    plain, widened = (high_S[0] - low_S[0] for low_S, high_S in sides)
    assert widened > 2 * plain


def test_what_is_there_without_news_is_in_the_null_and_in_no_interval():
    """An offset as large as the difference makes it no news."""
    rng = np.random.default_rng(19)
    ref, cur = users(rng, 200), users(rng, 200, shift=0.2, first=200)
    difference_K = cur.mean(SIGNALS) - ref.mean(SIGNALS)
    clock = [BinNoise(slice(0, 10), np.zeros((10, 10)), difference_K[:10])]
    assert permutation_test(ref, cur, SIGNALS, 199, rng).p_S[0] <= 0.01
    assert permutation_test(ref, cur, SIGNALS, 199, rng, clock).p_S[0] > 0.2
    plain, same = (
        bootstrap_intervals(ref, cur, SIGNALS, 50, 0.95, np.random.default_rng(1), noises)
        for noises in ((), clock)
    )
    np.testing.assert_allclose(plain, same)


@pytest.mark.parametrize("windows", [1, 4])
def test_a_reference_of_several_windows_does_not_make_the_null_too_narrow(windows):
    """Half of the users are in all reference windows, the rest in one: 5 of 100 p are below .05, not twice as many."""
    signal, low = [Toy(2, "ks")], []
    for seed in range(300):
        rng = np.random.default_rng(seed)
        count_N = np.where(rng.random(300) < 0.5, windows, 1)
        high_N = rng.binomial(count_N, 0.3)
        sums = np.stack([count_N - high_N, high_N], axis=1).astype(np.float32)
        ref = Blocks(np.arange(300), sums, count_N[:, None].astype(np.float32))
        bins_M = (rng.random(120) < 0.3).astype(int)
        # 40 of them are users of the reference, too.
        cur = Blocks(np.arange(260, 380), np.eye(2, dtype=np.float32)[bins_M], np.ones((120, 1), np.float32))
        low.append(permutation_test(ref, cur, signal, 99, rng).p_S[0] <= 0.05)
    assert np.mean(low) < 0.075
