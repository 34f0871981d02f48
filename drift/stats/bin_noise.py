"""What moves a histogram's bins for all users at once, so that no permutation of users shows it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from drift.stats.distances import Array


@dataclass(frozen=True)
class BinNoise:
    """Gaussian noise of the difference of two mean histograms, in the bins of one signal."""

    part: slice
    """Where the signal lies among the `K` columns."""
    root_BB: Array
    """`root @ root.T` is the covariance."""
    offset_B: Array | None = None
    """A difference that is there without any news, such as that of the clock alone; None: none."""

    def draw(self, count: int, rng: np.random.Generator) -> Array:
        """Return `[count, bins]` draws around 0."""
        return rng.standard_normal((count, len(self.root_BB))) @ self.root_BB.T


def root(covariance_BB: Array) -> Array:
    """Return a root of the nearest covariance; where a variance would be negative nothing is added."""
    values_B, vectors_BB = np.linalg.eigh(covariance_BB)
    return np.asarray(vectors_BB * np.sqrt(np.maximum(values_B, 0.0)))
