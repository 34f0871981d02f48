"""Baseline: item-to-item similarity by the cosine of who has used what (Linden et al., 2003)."""

from __future__ import annotations

from collections.abc import Iterable
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
        blocks = []
        for first in range(0, size, _BLOCK_ITEMS):
            both_CV = (uses_VU[first : first + _BLOCK_ITEMS] @ uses_UV).toarray()
            both_CV /= norm_V[first : first + _BLOCK_ITEMS, None] * norm_V
            both_CV[np.arange(len(both_CV)), first + np.arange(len(both_CV))] = 0
            blocks.append(csr_matrix(both_CV if neighbours is None else _nearest(both_CV, neighbours)))
        return cls(vstack(blocks, format="csr"))

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


def _nearest(similar_CV: npt.NDArray[Any], neighbours: int) -> npt.NDArray[Any]:
    """Set all but the largest `neighbours` similarities of each row to 0; of equal ones the lower item stays."""
    if similar_CV.shape[1] <= neighbours:
        return similar_CV
    order_CV = np.argsort(-similar_CV, axis=1, kind="stable")
    kept_CV = np.zeros_like(similar_CV)
    nearest_CN = order_CV[:, :neighbours]
    np.put_along_axis(kept_CV, nearest_CN, np.take_along_axis(similar_CV, nearest_CN, 1), 1)
    return kept_CV
