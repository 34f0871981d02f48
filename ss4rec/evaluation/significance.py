"""Is the difference of two models more than luck? Paired by user: each user is ranked by both.

The interval is a bootstrap over users, the p value a permutation test: if the two models were the same, each user's
difference could as well have the other sign. Where a recipe was trained with several seeds, a user's gain is the mean
over them, and the spread between seeds is added to that between users: then the answer is about the recipes, and not
only about these models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ss4rec.evaluation.bootstrap import bootstrap_mean

FloatArray = npt.NDArray[np.float64]
PERMUTATIONS = 10_000
SAMPLES = 2_000
"""Resamples of the bootstrap."""
ALPHA = 0.05
"""Level at which a difference is called more than luck."""
LEVEL = 0.95
_BLOCK = 1 << 22
"""Signs in memory at one time."""


@dataclass(frozen=True)
class Difference:
    """The second recipe less the first, over users."""

    first: float
    """Mean gain of the first."""
    second: float
    """Mean gain of the second."""
    low: float
    """95 % interval of the difference."""
    high: float
    p: float
    """Two-sided permutation p, not adjusted."""
    users: int
    """Users."""

    @property
    def mean(self) -> float:
        """Mean difference."""
        return self.second - self.first

    @property
    def relative(self) -> float:
        """Mean difference as a fraction of the first; NaN if that is 0."""
        return self.mean / self.first if self.first else float("nan")


def compare_gains(
    first_SU: FloatArray,
    second_SU: FloatArray,
    seed: int = 0,
    permutations: int = PERMUTATIONS,
    samples: int = SAMPLES,
) -> Difference:
    """Compare two recipes by the gains of the same users.

    Args:
        first_SU: gain of each user by each seed of the first recipe.
        second_SU: the same users by the second recipe; it may have another number of seeds.
        seed: seed of permutations and bootstrap.
        permutations: number of permutations; the smallest p is 1 / (1 + permutations).
        samples: resamples of the bootstrap, for the interval.
    """
    gained_U = second_SU.mean(0) - first_SU.mean(0)
    wider = _seed_factor(first_SU, second_SU, gained_U)
    rng = np.random.default_rng(seed)
    mean = float(gained_U.mean())
    ends = bootstrap_mean(gained_U, rng, samples=samples, level=LEVEL)
    low, high = (mean + wider * (end - mean) for end in ends)
    return Difference(
        first=float(first_SU.mean()),
        second=float(second_SU.mean()),
        low=low,
        high=high,
        p=_sign_flip_p(gained_U, wider, permutations, rng),
        users=len(gained_U),
    )


def holm(p_N: Sequence[float]) -> list[float]:
    """Return p values adjusted for all of them (Holm, 1979)."""
    order = np.argsort(p_N, kind="stable")
    adjusted, floor = [0.0] * len(p_N), 0.0
    for place, index in enumerate(order):
        floor = max(floor, min(1.0, (len(p_N) - place) * p_N[index]))
        adjusted[index] = floor
    return adjusted


def _sign_flip_p(gained_U: FloatArray, wider: float, permutations: int, rng: np.random.Generator) -> float:
    """Return the two-sided p of the mean under random signs.

    Of n users with differences of one size, the number that keep their sign is binomial: where few sizes occur, a
    permutation costs a draw per size; otherwise a bit per user.
    """
    sizes_U = np.abs(gained_U[gained_U != 0])
    if not len(sizes_U):
        return 1.0
    observed = abs(float(gained_U.sum())) * (1 - 1e-12)
    sizes_G, counts_G = np.unique(sizes_U, return_counts=True)
    single = 8 * len(sizes_G) > len(sizes_U)
    if single:
        sizes_G, counts_G = sizes_U, np.ones_like(counts_G, shape=len(sizes_U))
    larger, step = 0, max(1, _BLOCK // len(sizes_G))
    for first in range(0, permutations, step):
        rows = min(step, permutations - first)
        kept_RG: npt.NDArray[np.generic]
        if single:
            bits = np.frombuffer(rng.bytes(rows * -(-len(sizes_G) // 8)), np.uint8).reshape(rows, -1)
            kept_RG = np.unpackbits(bits, axis=1, count=len(sizes_G)).astype(np.float64)
        else:
            kept_RG = rng.binomial(counts_G, 0.5, (rows, len(sizes_G)))
        larger += int((wider * np.abs(2 * (kept_RG @ sizes_G) - counts_G @ sizes_G) >= observed).sum())
    return (1 + larger) / (1 + permutations)


def _seed_factor(first_SU: FloatArray, second_SU: FloatArray, gained_U: FloatArray) -> float:
    """Return by how much the spread between seeds widens the spread between users; 1 with one seed each.

    The variance of a recipe's mean over S seeds is s^2 / S, with s^2 pooled over the recipes that have several.
    """
    sides, users = (first_SU, second_SU), len(gained_U)
    between_users = float(gained_U.var()) / users
    several = [side for side in sides if len(side) > 1]
    if not several or users < 2 or not between_users:
        return 1.0
    seeds = sum(len(side) - 1 for side in several)
    pooled = sum(float(side.mean(1).var()) * len(side) for side in several) / seeds
    # What single users differ by from seed to seed makes means differ too, and is in the spread between users already.
    own = sum(float((_centred(side) ** 2).sum()) for side in several) / seeds / users**2
    excess = max(pooled - own, 0.0) * sum(1 / len(side) for side in sides)
    return float(np.sqrt(1 + excess / between_users))


def _centred(side_SU: FloatArray) -> FloatArray:
    """Return what is left of each gain without the user's mean and the seed's."""
    return np.asarray(side_SU - side_SU.mean(0) - side_SU.mean(1, keepdims=True) + side_SU.mean())
