"""MMD with all permutations as one matrix product; equal to alibi-detect's statistic."""

from __future__ import annotations

import numpy as np

from drift.stats.distances import Array
from drift.stats.resampling import CHUNK, at_least


def mmd_test(
    ref_ND: Array,
    cur_MD: Array,
    permutations: int,
    rng: np.random.Generator,
    bandwidth_from: Array | None = None,
) -> tuple[float, float]:
    """Return the unbiased MMD^2 (Gretton et al. 2012) and its permutation p; one row must be one user.

    Gaussian kernel; its bandwidth is the median heuristic over the pairs of `bandwidth_from`. None takes both
    sides, which keeps labels exchangeable; alibi-detect takes the reference alone. For 0/1 labels a of a
    permutation, sums within the current side are a'Ka and everything else follows from totals.
    """
    n, m = len(ref_ND), len(cur_MD)
    squared_PP = _squared(np.concatenate([ref_ND, cur_MD]))
    kernel_PP = np.exp(
        -squared_PP / _median(squared_PP if bandwidth_from is None else _squared(bandwidth_from))
    )
    np.fill_diagonal(kernel_PP, 0)
    kernel_PP = kernel_PP.astype(np.float32)
    row_P = kernel_PP.sum(axis=1, dtype=np.float64)
    total = row_P.sum()

    def statistic(labels_BP: Array) -> Array:
        within_B = np.einsum("bp,bp->b", labels_BP @ kernel_PP, labels_BP, dtype=np.float64)
        reach_B = labels_BP.astype(np.float64) @ row_P
        cross_B = reach_B - within_B
        rest_B = total - reach_B - cross_B
        return np.asarray(within_B / (m * (m - 1)) + rest_B / (n * (n - 1)) - 2 * cross_B / (n * m))

    labels_P = np.repeat(np.array([0, 1], np.float32), [n, m])
    observed = statistic(labels_P[None])
    draws = []
    for start in range(0, permutations, CHUNK):
        count = min(CHUNK, permutations - start)
        draws.append(statistic(rng.permuted(np.broadcast_to(labels_P, (count, n + m)), axis=1)))
    return float(observed[0]), float(at_least(observed, np.concatenate(draws)[:, None])[0])


def _squared(points_PD: Array) -> Array:
    """Return squared distances of all pairs."""
    points_PD = points_PD.astype(np.float64)
    norm_P = (points_PD**2).sum(axis=1)
    squared_PP = np.maximum(norm_P[:, None] + norm_P - 2 * points_PD @ points_PD.T, 0)
    np.fill_diagonal(squared_PP, 0)
    return np.asarray(squared_PP)


def _median(squared_PP: Array) -> float:
    """Return the median over pairs of different points, as alibi-detect's `sigma_median` picks it."""
    count = len(squared_PP)
    middle = count + (count * count - count) // 2 - 1
    return float(np.partition(squared_PP, middle, axis=None)[middle])
