"""Baselines of repeated consumption: each user's own most frequent, and own most recent, items."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
import numpy.typing as npt
import torch

from ss4rec.data.batches.batch import EvalBatch
from ss4rec.data.batches.windows import ranges
from ss4rec.model.item_scores import ItemScores

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


class _OwnItems(ABC):
    """Scores items of the history above 1, all others by their popularity below 1.

    Args:
        counts_V: training events of each item; entry 0 is ignored.
    """

    uses_target_time = False

    def __init__(self, counts_V: npt.NDArray[np.int64]) -> None:
        self.popular_V = counts_V / (counts_V.max() + 1.0)

    def scores(self, batch: EvalBatch, *, target_time_known: bool) -> ItemScores:
        """Return the scores; with seen items excluded, popularity is all that is left."""
        offsets_B1 = batch.seen_offsets_S1.numpy()
        lengths_B = np.diff(offsets_B1)
        items_X = batch.seen_X.cpu().numpy()
        row_X = np.repeat(np.arange(len(lengths_B)), lengths_B)
        place_X, _ = ranges(np.zeros_like(lengths_B), lengths_B)
        scores_BV = np.tile(self.popular_V, (len(lengths_B), 1))
        self._set(scores_BV, row_X, items_X, place_X, lengths_B)
        return ItemScores.of_matrix(torch.from_numpy(scores_BV), batch.seen_X, batch.seen_offsets_S1)

    @abstractmethod
    def _set(self, scores_BV: Floats, row_X: Ints, items_X: Ints, place_X: Ints, lengths_B: Ints) -> None:
        """Write the scores of the items of each history; `place_X` is an event's place in it, from 0."""


class OwnMostRecent(_OwnItems):
    """The user's own items, the latest first."""

    def _set(self, scores_BV: Floats, row_X: Ints, items_X: Ints, place_X: Ints, lengths_B: Ints) -> None:
        # Of several writes to one cell the last one stays: NumPy assigns in order.
        scores_BV[row_X, items_X] = 1.0 + place_X


class OwnMostFrequent(_OwnItems):
    """The user's own items by how often they occur; of equally frequent ones the later first."""

    def _set(self, scores_BV: Floats, row_X: Ints, items_X: Ints, place_X: Ints, lengths_B: Ints) -> None:
        scores_BV[row_X, items_X] = (place_X + 1.0) / (lengths_B[row_X] + 1.0)
        np.add.at(scores_BV, (row_X, items_X), 1.0)
