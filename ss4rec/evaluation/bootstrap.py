"""The interval of a mean over users."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

SAMPLES = 1000
LEVEL = 0.95


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
    num_users = len(values_U)
    distinct_G, counts_G = (
        np.unique(values_U, return_counts=True) if merge_equal else (values_U, np.ones(num_users, np.int64))
    )
    draws_RG = np.random.default_rng(seed).multinomial(num_users, counts_G / num_users, samples)
    low, high = np.quantile(draws_RG @ distinct_G / num_users, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
