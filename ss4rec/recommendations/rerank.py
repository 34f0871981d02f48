"""Lists that are made place by place: by the score, maximal marginal relevance, or calibration; with limits.

At each place the item is taken whose gain is largest among those of the pool that the limits leave:

score        s_i
mmr          (1 - w) s_i - w max cos(i, j) over the items j of the list so far   (Carbonell and Goldstein, 1998)
calibrated   (1 - w) sum of s over list and i - w KL(p || q~ of list and i)       (Steck, 2018)

For the latter two scores are brought to 0..1 within each pool, so that one weight means the same for every user. p are
the shares of a feature in the history, q~ those in the list, mixed as in the list metric `miscalibration`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ss4rec.evaluation.lists import divergence


@dataclass(frozen=True)
class Limit:
    """How many items of a list may share a value."""

    features_VG: Tensor
    """Whether each item has each value, float; an item without any is not limited."""
    most: int


class Goal(ABC):
    """Gains of the items of a pool, place after place."""

    @abstractmethod
    def gains(self) -> Tensor:
        """Return the gain of each item of the pool at the next place, `[B, M]`; that of taken ones does not matter."""

    @abstractmethod
    def take(self, place_B: Tensor) -> None:
        """Add the item at a place of each pool to the list. Of a full list it does not matter."""


class ByScore(Goal):
    """The score alone."""

    def __init__(self, scores_BM: Tensor) -> None:
        self.scores_BM = scores_BM

    def gains(self) -> Tensor:
        """Return the scores."""
        return self.scores_BM

    def take(self, place_B: Tensor) -> None:
        """Do nothing: places do not depend on one another."""


class Mmr(Goal):
    """Maximal marginal relevance with the cosine of item rows.

    Args:
        scores_BM: scores of the pools, -inf where there is no item.
        rows_BMD: item rows as unit vectors.
        weight: of difference.
    """

    def __init__(self, scores_BM: Tensor, rows_BMD: Tensor, weight: float) -> None:
        self.relevance_BM = to_unit(scores_BM)
        self.rows_BMD, self.weight = rows_BMD, weight
        self.nearest_BM: Tensor | None = None

    def gains(self) -> Tensor:
        """Return relevance less likeness to the list; the first place is the best score's."""
        gains_BM = (1 - self.weight) * self.relevance_BM
        return self.relevance_BM if self.nearest_BM is None else gains_BM - self.weight * self.nearest_BM

    def take(self, place_B: Tensor) -> None:
        """Note how like each item is to the one that was taken."""
        taken_B1D = self.rows_BMD[torch.arange(len(place_B), device=place_B.device), place_B][:, None]
        like_BM = (self.rows_BMD * taken_B1D).sum(2)
        self.nearest_BM = like_BM if self.nearest_BM is None else torch.maximum(self.nearest_BM, like_BM)


class Calibrated(Goal):
    """Scores, and lists whose features are shared out as in the history.

    Args:
        scores_BM: as in `Mmr`.
        shares_BMG: shares of features of each item (`ItemFacts.shares`), float64.
        history_BG: those of the history, NaN where it has none: then the score counts alone.
        weight: of calibration.
    """

    def __init__(self, scores_BM: Tensor, shares_BMG: Tensor, history_BG: Tensor, weight: float) -> None:
        self.relevance_BM = to_unit(scores_BM)
        self.shares_BMG, self.weight = shares_BMG, weight
        self.history_B1G = history_BG.nan_to_num(0.0)[:, None]
        self.list_B1G = torch.zeros_like(self.history_B1G)

    def gains(self) -> Tensor:
        """Return what each item adds; the score of the list so far is the same for all, so it is left out."""
        away_BM = divergence(self.history_B1G, self.list_B1G + self.shares_BMG)
        return (1 - self.weight) * self.relevance_BM - self.weight * away_BM

    def take(self, place_B: Tensor) -> None:
        """Add the features of the item that was taken."""
        self.list_B1G = (
            self.list_B1G
            + self.shares_BMG[torch.arange(len(place_B), device=place_B.device), place_B][:, None]
        )


def to_unit(scores_BM: Tensor) -> Tensor:
    """Bring the scores of each pool to 0..1, float64; -inf stays."""
    there_BM = scores_BM > -torch.inf
    scores_BM = scores_BM.double()
    high_B1 = scores_BM.amax(1, keepdim=True)
    low_B1 = torch.where(there_BM, scores_BM, torch.inf).amin(1, keepdim=True)
    return torch.where(there_BM, (scores_BM - low_B1) / (high_B1 - low_B1).clamp(min=1e-300), -torch.inf)


def choose(
    goal: Goal, items_BM: Tensor, there_BM: Tensor, k: int, limits: Sequence[Limit] = ()
) -> tuple[Tensor, Tensor]:
    """Make lists place by place.

    Args:
        goal: gains of the pools' items; of equal ones the first in the pool is taken.
        items_BM: items of each pool.
        there_BM: which places of a pool hold an item.
        k: places of a list.
        limits: what a list may not hold more of.

    Returns:
        Place in the pool of each item of the lists `[B, k]`, and whether there is one, bool.
    """
    free_BM = there_BM.clone()
    row_B = torch.arange(len(items_BM), device=items_BM.device)
    categories = [_Category(limit, items_BM) for limit in limits]
    places_BK = items_BM.new_zeros(len(items_BM), k)
    filled_BK = torch.zeros_like(places_BK, dtype=torch.bool)
    for position in range(k):
        may_BM = free_BM
        for category in categories:
            may_BM = may_BM & ~category.full()
        best_B, place_B = torch.where(may_BM, goal.gains(), -torch.inf).max(1)
        found_B = best_B > -torch.inf
        if not bool(found_B.any()):
            break
        # Lists without an item for this place get none later either, so what becomes of their state does not matter.
        goal.take(place_B)
        for category in categories:
            category.take(row_B, place_B)
        free_BM[row_B, place_B] = False
        places_BK[:, position], filled_BK[:, position] = place_B, found_B
    return places_BK, filled_BK


class _Category:
    """How many items of each value the lists hold."""

    def __init__(self, limit: Limit, items_BM: Tensor) -> None:
        self.features_BMG = limit.features_VG.to(items_BM.device, torch.float32)[items_BM]
        self.most = limit.most
        self.counts_BG = self.features_BMG.new_zeros(len(items_BM), self.features_BMG.shape[2])

    def full(self) -> Tensor:
        """Return which items of the pools have a value of which the list may hold no more, bool `[B, M]`."""
        return (self.features_BMG @ (self.counts_BG >= self.most).float()[:, :, None])[:, :, 0] > 0

    def take(self, row_B: Tensor, place_B: Tensor) -> None:
        """Count the values of the items that were taken."""
        self.counts_BG += self.features_BMG[row_B, place_B]
