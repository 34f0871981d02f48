"""Exact ranks by popularity and by what follows what, without a score of every item for every target.

Ties get the average rank, as in `ss4rec.evaluation.ranks`; what the user has seen is left out, but for the target.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from drift.stats.distances import Array


@dataclass(frozen=True)
class Seen:
    """What stands before each of R targets: pairs of row and item, each once, the target itself left out."""

    row_P: NDArray[np.int64]
    item_P: NDArray[np.int64]

    @classmethod
    def of(cls, seen: list[NDArray[np.int64]], targets_R: NDArray[np.int64], width: int) -> Seen:
        """Collect the items of each row."""
        row_X = np.repeat(np.arange(len(seen)), [len(items) for items in seen])
        key_P = np.unique(row_X * width + np.concatenate(seen))
        row_P, item_P = key_P // width, key_P % width
        other_P = item_P != targets_R[row_P]
        return cls(row_P[other_P], item_P[other_P])

    def sum(self, values_P: NDArray[Any], rows: int) -> NDArray[Any]:
        """Add values up by row."""
        return np.bincount(self.row_P, values_P, rows)


def count_ranks(counts_V: NDArray[np.int64], targets_R: NDArray[np.int64], seen: Seen) -> Array:
    """Return the rank of each target among the unseen items by falling count; entry 0 of `counts_V` is padding."""
    own_R = counts_V[targets_R]
    return 1 + (_twice_ahead(counts_V, own_R) - _seen_ahead(counts_V, own_R, seen)) / 2


def follower_ranks(
    pairs_VV: csr_matrix,
    counts_V: NDArray[np.int64],
    last_R: NDArray[np.int64],
    targets_R: NDArray[np.int64],
    seen: Seen,
) -> Array:
    """Return the rank of each target by how often it followed the last item; popularity breaks ties."""
    rows = len(targets_R)
    block = pairs_VV[last_R].tocsr()
    row_X = np.repeat(np.arange(rows), np.diff(block.indptr))
    item_X, count_X = block.indices.astype(np.int64), block.data
    width = pairs_VV.shape[1]
    is_target_X = item_X == targets_R[row_X]
    own_R = np.zeros(rows)
    own_R[row_X[is_target_X]] = count_X[is_target_X]
    hidden_X = np.isin(row_X * width + item_X, seen.row_P * width + seen.item_P) | is_target_X
    row_Y, item_Y, count_Y = row_X[~hidden_X], item_X[~hidden_X], count_X[~hidden_X]
    popular_R = counts_V[targets_R]
    more_Y, same_Y = count_Y > own_R[row_Y], count_Y == own_R[row_Y]
    by_count_Y = _twice(counts_V[item_Y], popular_R[row_Y])
    ahead_R = np.bincount(row_Y, 2 * more_Y + same_Y * by_count_Y, rows)
    # Items that never followed the last one stand ahead of a target that never did either, if they are more popular.
    others_R = _twice_ahead(counts_V, popular_R) - _seen_ahead(counts_V, popular_R, seen)
    others_R = others_R - np.bincount(row_Y, by_count_Y, rows)
    return np.asarray(1 + (ahead_R + np.where(own_R == 0, others_R, 0)) / 2)


def _twice(values: NDArray[Any], own: NDArray[Any]) -> NDArray[np.int64]:
    """Return 2 for what is ahead, 1 for a tie."""
    return np.asarray(2 * (values > own) + (values == own))


def _twice_ahead(counts_V: NDArray[np.int64], own_R: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return twice the items ahead of each count, ties once; the target itself is one of the ties and left out."""
    rising = np.sort(counts_V[1:])
    above = len(rising) - np.searchsorted(rising, own_R, side="right")
    equal = len(rising) - np.searchsorted(rising, own_R, side="left") - above
    return 2 * above + equal - 1


def _seen_ahead(counts_V: NDArray[np.int64], own_R: NDArray[np.int64], seen: Seen) -> Array:
    return seen.sum(_twice(counts_V[seen.item_P], own_R[seen.row_P]), len(own_R))
