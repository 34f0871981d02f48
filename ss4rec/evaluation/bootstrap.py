"""The interval of a mean over users."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

SAMPLES = 1000
LEVEL = 0.95
_MANY = 1 / 40
"""Distinct values per user from which drawing users is cheaper than drawing how often each value occurs."""
_BLOCK = 1 << 24
"""Users drawn at one time."""


def bootstrap_mean(
    values_U: npt.NDArray[np.float64],
    seed: int | np.random.Generator,
    *,
    samples: int = SAMPLES,
    level: float = LEVEL,
    merge_equal: bool = True,
) -> tuple[float, float]:
    """Return the interval of the mean over resampled users (Efron's percentile bootstrap).

    Users with equal values are exchangeable, so a resample of users is a multinomial draw of how often each distinct
    value occurs: the same distribution without drawing U users `samples` times.

    Args:
        values_U: one value per user.
        seed: seed, or a generator that the draws are taken from.
        samples: number of resamples.
        level: probability that the interval covers.
        merge_equal: whether equal values are drawn together; without, every user is drawn by itself.
    """
    rng, num_users = np.random.default_rng(seed), len(values_U)
    distinct_G, counts_G = (
        np.unique(values_U, return_counts=True) if merge_equal else (values_U, np.ones(num_users, np.int64))
    )
    if merge_equal and len(distinct_G) > _MANY * num_users:
        # Sorted, so that the order of users, and with it the number of workers, changes nothing.
        means_R = _means_of_drawn_users(np.repeat(distinct_G, counts_G), rng, samples)
    else:
        means_R = rng.multinomial(num_users, counts_G / num_users, samples) @ distinct_G / num_users
    low, high = np.quantile(means_R, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _means_of_drawn_users(
    values_U: npt.NDArray[np.float64], rng: np.random.Generator, samples: int
) -> npt.NDArray[np.float64]:
    """Return the mean of each resample of users, a block of resamples in memory at a time."""
    num_users, step = len(values_U), max(1, _BLOCK // len(values_U))
    means = [
        values_U[rng.integers(num_users, size=(min(step, samples - first), num_users), dtype=np.int32)].mean(
            1
        )
        for first in range(0, samples, step)
    ]
    return np.concatenate(means)
