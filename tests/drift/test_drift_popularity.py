"""The error of popularity percentiles, against its closed form."""

from dataclasses import dataclass

import numpy as np

from drift.signals.histograms import UserHistograms
from drift.signals.popularity_noise import percentile_noise


@dataclass(frozen=True)
class Toy:
    size: int
    name: str


LAYOUT = [Toy(2, "rating"), Toy(3, "popularity")]
USERS = 300


def profile(windows, first_user):
    rng = np.random.default_rng(0)
    counts = [
        rng.integers(0, 5, (len(windows) * USERS, 2)),
        rng.multinomial(8, [0, 0.5, 0.5], len(windows) * USERS),
    ]
    return UserHistograms(
        np.repeat(np.array(windows, np.int32), USERS),
        np.concatenate([first_user(w) + np.arange(USERS) for w in windows]),
        np.full(len(windows) * USERS, 8),
        np.concatenate(counts, axis=1).astype(np.uint32),
    )


def covariance(made, window):
    """Of the mean histogram of a window."""
    share = made.counts_RK[made.window_R == window, 2:] / 8
    return np.cov(share.T, bias=True) / USERS


def test_two_windows_in_a_row_share_half_of_the_error():
    """With a year of one window: (h3 - h2) - (h2 - h1) has coefficients 1, -2, 1; permuting users covers 1, -1."""
    made = profile([1, 2, 3], lambda window: 1000 * window)
    noise = percentile_noise(made, LAYOUT, [2], 3, 1)
    want = 3 * covariance(made, 2) + covariance(made, 1)
    assert noise.part == slice(2, 5)
    np.testing.assert_allclose(noise.root_BB @ noise.root_BB.T, want, atol=1e-12)
    draws = noise.draw(20_000, np.random.default_rng(1))
    np.testing.assert_allclose(np.cov(draws.T), want, rtol=0.05, atol=1e-9)


def test_a_user_of_both_windows_counts_as_one():
    """The same people in each window: their errors add up before they are squared."""
    made = profile([1, 2, 3], lambda window: 0)
    noise = percentile_noise(made, LAYOUT, [2], 3, 1)
    part = [made.counts_RK[made.window_R == w, 2:] / 8 for w in (1, 2, 3)]
    first, second, third = (share - share.mean(axis=0) for share in part)
    whole, own = (third - 2 * second + first) / USERS, (third - second) / USERS
    np.testing.assert_allclose(noise.root_BB @ noise.root_BB.T, whole.T @ whole - own.T @ own, atol=1e-12)


def test_windows_without_a_year_before_them_tell_nothing():
    made = profile([1, 2, 3], lambda window: 1000 * window)
    counts = made.counts_RK.copy()
    counts[made.window_R == 1, 2:] = [8, 0, 0]
    bare = UserHistograms(made.window_R, made.user_R, made.events_R, counts)
    noise = percentile_noise(bare, LAYOUT, [2], 3, 1)
    np.testing.assert_allclose(noise.root_BB @ noise.root_BB.T, 3 * covariance(made, 2), atol=1e-12)
    assert percentile_noise(bare, LAYOUT[:1], [2], 3, 1) is None
