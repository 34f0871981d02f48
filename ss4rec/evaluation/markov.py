"""Baseline: an item-to-item Markov chain of the first order, counted in the training events."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import torch
from scipy.sparse import csr_matrix

from ss4rec.data.batches.batch import EvalBatch
from ss4rec.evaluation.training import TrainingPart, training_parts
from ss4rec.evaluation.transitions import count_transitions
from ss4rec.io.paths import AnyPath
from ss4rec.model.item_scores import ItemScores

PRIOR_COUNT = 20.0
"""Weight of popularity in transitions: the same as that of 20 of them. From ML-1M's validation items."""


class MarkovChain:
    """Scores each item by the probability that it follows the last one, smoothed towards its popularity.

    P(j | i) = (n_ij + c p_j) / (n_i + c), with n_ij transitions from i to j, p_j the share of j among all events, and c
    the `prior_count` (Dirichlet prior). It knows neither times nor what came before the last item.

    Args:
        counts_VV: transitions n_ij; row and column 0 are padding.
        popularity_V: events of each item.
        prior_count: c.
    """

    uses_target_time = False

    def __init__(
        self, counts_VV: csr_matrix, popularity_V: npt.NDArray[np.int64], prior_count: float = PRIOR_COUNT
    ) -> None:
        self.counts_VV = counts_VV
        self.prior_V = prior_count * popularity_V / max(popularity_V.sum(), 1)
        self.prior_count = prior_count

    @classmethod
    def count(
        cls, shards: Iterable[AnyPath], num_items: int, prior_count: float = PRIOR_COUNT
    ) -> MarkovChain:
        """Count the training events of leave-one-out in the shards of a folder with `num_items` items."""
        return cls.of(training_parts(shards, num_items), num_items, prior_count)

    @classmethod
    def of(
        cls, parts: Iterable[TrainingPart], num_items: int, prior_count: float = PRIOR_COUNT
    ) -> MarkovChain:
        """Count training events, one part in memory at a time."""
        size = num_items + 1
        total, popularity_V = csr_matrix((size, size), dtype=np.int64), np.zeros(size, np.int64)
        for part in parts:
            popularity_V += np.bincount(part.items_E[part.counted_E], minlength=size)
            lengths_U = np.diff(part.offsets_U1)
            users_E = np.repeat(np.arange(len(lengths_U)), lengths_U)
            total = total + count_transitions(part.items_E, users_E, num_items, part.counted_E)
        return cls(total, popularity_V, prior_count)

    def scores(self, batch: EvalBatch, *, target_time_known: bool) -> ItemScores:
        """Return the probabilities of all items after the last one before each target."""
        last_B = batch.items_T[batch.last_S].cpu().numpy()
        counts_BV = self.counts_VV[last_B]
        totals_B1 = np.asarray(counts_BV.sum(1)) + self.prior_count
        scores_BV = counts_BV.astype(np.float64).toarray()
        scores_BV += self.prior_V
        scores_BV /= totals_B1
        scores_BV[:, 0] = -np.inf
        return ItemScores.of_matrix(torch.from_numpy(scores_BV), batch.seen_X, batch.seen_offsets_S1)
