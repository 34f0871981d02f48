"""Baseline: item-to-item similarity by the cosine of who has used what (Linden et al., 2003)."""

from __future__ import annotations

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.sparse import csr_matrix, vstack

from ss4rec.data.batches.batch import EvalBatch
from ss4rec.evaluation.training import TrainingPart
from ss4rec.model.item_scores import ItemScores

NEIGHBOURS = 200
"""Most similar items that are kept of each item."""
_BLOCK_ITEMS = 512
"""Items whose similarities to all others are in memory at one time."""


class ItemCosine:
    """Scores each item by its similarity to the items of the history, summed.

    Similarity of i and j is n_ij / sqrt(n_i n_j), with n_ij users whose training events hold both and n_i those that
    hold i: the cosine of two columns of the users x items matrix of zeros and ones. An item is not similar to itself.
    It knows neither order nor time.

    Args:
        similar_VV: similarity of each item (row) to the items nearest to it; row and column 0 are padding.
    """

    uses_target_time = False

    def __init__(self, similar_VV: csr_matrix) -> None:
        self.similar_VV = similar_VV

    @classmethod
    def count(
        cls, parts: Iterable[TrainingPart], num_items: int, neighbours: int | None = NEIGHBOURS
    ) -> ItemCosine:
        """Count training events; `neighbours` None keeps every similarity."""
        size = num_items + 1
        uses_UV = vstack([_uses(part, size) for part in parts], format="csr")
        uses_VU = uses_UV.T.tocsr()
        norm_V = np.sqrt(np.maximum(np.asarray(uses_UV.sum(0)).ravel(), 1.0))

        def similar(first: int) -> csr_matrix:
            both_CV = uses_VU[first : first + _BLOCK_ITEMS] @ uses_UV
            return _nearest(both_CV, first, norm_V, size if neighbours is None else neighbours)

        # SciPy's products and NumPy's partitions let other threads run.
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            return cls(vstack(list(pool.map(similar, range(0, size, _BLOCK_ITEMS))), format="csr"))

    def scores(self, batch: EvalBatch, *, target_time_known: bool) -> ItemScores:
        """Return the summed similarity of all items to the items of each history."""
        offsets_B1, items_X = batch.seen_offsets_S1.numpy(), batch.seen_X.cpu().numpy()
        shape = (len(offsets_B1) - 1, self.similar_VV.shape[0])
        history_BV = csr_matrix((np.ones(len(items_X)), items_X, offsets_B1), shape=shape)
        history_BV.sum_duplicates()
        history_BV.data[:] = 1.0
        scores_BV = (history_BV @ self.similar_VV).toarray()
        return ItemScores.of_matrix(torch.from_numpy(scores_BV), batch.seen_X, batch.seen_offsets_S1)


def _uses(part: TrainingPart, size: int) -> csr_matrix:
    """Return which user (row) has which item, once each."""
    shape = (len(part.offsets_U1) - 1, size)
    uses_UV = csr_matrix((np.ones(len(part.items_E)), part.items_E, part.offsets_U1), shape=shape)
    uses_UV.sum_duplicates()
    uses_UV.data[:] = 1.0
    return uses_UV


def _nearest(both_CV: csr_matrix, first: int, norm_V: npt.NDArray[np.float64], neighbours: int) -> csr_matrix:
    """Return the largest `neighbours` similarities of each item; of equal ones the lower item stays.

    Args:
        both_CV: users that items `first`, `first + 1`, .. share with every item.
        first: item of row 0.
        norm_V: root of each item's users.
        neighbours: how many stay; all above 0 if there are no more.
    """
    items, values, counts = [], [], []
    for row in range(both_CV.shape[0]):
        inside = slice(both_CV.indptr[row], both_CV.indptr[row + 1])
        item_X = both_CV.indices[inside]
        similar_X = both_CV.data[inside] / (norm_V[first + row] * norm_V[item_X])
        similar_X[item_X == first + row] = 0
        kept_X = _largest(similar_X, item_X, neighbours)
        kept_X = kept_X[np.argsort(item_X[kept_X])]
        items.append(item_X[kept_X])
        values.append(similar_X[kept_X])
        counts.append(len(kept_X))
    offsets_C1 = np.concatenate([[0], np.cumsum(counts)])
    return csr_matrix((np.concatenate(values), np.concatenate(items), offsets_C1), shape=both_CV.shape)


def _largest(values_X: npt.NDArray[np.float64], item_X: npt.NDArray[Any], most: int) -> npt.NDArray[np.int64]:
    """Return the places of the `most` largest values above 0; of equal ones those with the lower items."""
    if np.count_nonzero(values_X) <= most:
        return np.flatnonzero(values_X)
    least = np.partition(values_X, len(values_X) - most)[len(values_X) - most]
    above_X, equal_X = np.flatnonzero(values_X > least), np.flatnonzero(values_X == least)
    equal_X = equal_X[np.argsort(item_X[equal_X])]
    return np.concatenate([above_X, equal_X[: most - len(above_X)]])
