"""Rows of items that a model has never seen, from the rows of what people take beside them.

`rows_of_new` is the one place that decides what a new item begins with. What a model reads of items besides
(attributes, features) is added to the row by the model itself, for new items as for known ones.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy import sparse
from torch import Tensor

from ss4rec.evaluation.training import TrainingPart

NEAR = 3
"""Events before and after an item's own that count as beside it."""
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class NewRows:
    """Where each row of a new table comes from."""

    old_V: IntArray
    """Row of the old table for each item; 0 for padding, -1 for a new item."""
    beside: sparse.csr_matrix
    """A row for each new item: weights of all items, which add up to 1, or to 0 where nothing known is beside it."""

    @property
    def new_items(self) -> IntArray:
        """The new items, rising."""
        return np.flatnonzero(self.old_V < 0)

    @property
    def alone(self) -> int:
        """New items beside which nothing known is seen."""
        return int((np.asarray(self.beside.sum(1)).ravel() == 0).sum())

    def fill(self, old: Tensor, fresh: Tensor | None = None) -> Tensor:
        """Return the new table: rows of known items to the last bit, rows of new ones from what is beside them.

        Args:
            old: `[V_old, ...]`.
            fresh: random rows `[V_new, ...]` which a new item without neighbours adds to the mean row; None adds none.
        """
        known_V = torch.from_numpy(self.old_V >= 0)
        table = torch.zeros(len(self.old_V), *old.shape[1:], dtype=old.dtype)
        table[known_V] = old[torch.from_numpy(self.old_V[self.old_V >= 0])]
        new = torch.from_numpy(self.new_items)
        if not len(new):
            return table
        flat = table.reshape(len(table), -1).double().numpy()
        mixed = torch.from_numpy(self.beside @ flat)
        is_alone = torch.from_numpy(np.asarray(self.beside.sum(1)).ravel() == 0)
        known = table[known_V][1:]  # without padding
        mixed[is_alone] = known.reshape(len(known), -1).double().mean(0)
        table[new] = mixed.to(old.dtype).reshape(len(new), *old.shape[1:])
        if fresh is not None:
            alone = new[is_alone]
            table[alone] += fresh[alone]
        return table


def rows_of_new(
    old_ids: npt.NDArray[Any], new_ids: npt.NDArray[Any], parts: Iterable[TrainingPart]
) -> NewRows:
    """Find out where each row comes from.

    A new item gets the mean row of the known items within NEAR events of its own in the new training events, each as
    often as it is there. Where all of these are new too, their rows stand in, if they have any.

    Args:
        old_ids: source id of the old model's items 1, 2, ...
        new_ids: the same of the new one's.
        parts: the new training events, by the new indices.
    """
    place = {source: row for row, source in enumerate(old_ids.tolist(), start=1)}
    old_V = np.array([0, *(place.get(source, -1) for source in new_ids.tolist())], np.int64)
    counts = _beside(old_V, parts)
    known_V = old_V > 0
    first = _shares(counts[:, known_V])
    weights = sparse.lil_matrix(counts.shape)
    weights[:, np.flatnonzero(known_V)] = first
    new_items = np.flatnonzero(old_V < 0)
    lacks = np.asarray(first.sum(1)).ravel() == 0
    if lacks.any() and not lacks.all():
        found = weights.tocsr()
        second = _shares(counts[lacks][:, new_items[~lacks]])
        weights[np.flatnonzero(lacks)] = second @ found[~lacks]
    return NewRows(old_V, weights.tocsr())


def _beside(old_V: IntArray, parts: Iterable[TrainingPart]) -> sparse.csr_matrix:
    """Count for each new item the items within NEAR events, `[new items, V]`."""
    row_V = np.where(old_V < 0, np.cumsum(old_V < 0) - 1, -1)
    shape = (int((old_V < 0).sum()), len(old_V))
    total = sparse.csr_matrix(shape)
    for part in parts:
        user_E = np.repeat(np.arange(len(part.offsets_U1) - 1), np.diff(part.offsets_U1))
        for distance in range(1, NEAR + 1):
            together = user_E[distance:] == user_E[:-distance]
            before, after = part.items_E[:-distance][together], part.items_E[distance:][together]
            for own, other in ((before, after), (after, before)):
                is_new = row_V[own] >= 0
                pairs = (row_V[own][is_new], other[is_new])
                total = total + sparse.csr_matrix((np.ones(is_new.sum()), pairs), shape)
    return total


def _shares(counts: sparse.csr_matrix) -> sparse.csr_matrix:
    """Divide each row by its sum; rows of zeros stay."""
    sums = np.asarray(counts.sum(1)).ravel()
    return sparse.diags(1 / np.where(sums > 0, sums, 1)) @ counts
