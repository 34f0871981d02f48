"""What list metrics are made of: recommended lists, what is known about items, and how often each item was shown."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class ItemFacts:
    """What list metrics know about items; index 0 is padding. All tensors are on one device."""

    events_V: Tensor
    """Training events of each item, int64."""
    users_V: Tensor
    """Users with a training event on each item, int64."""
    num_users: int
    """Users with a training event."""
    features_VG: Tensor | None = None
    """Whether each item has each value of a categorical feature, float64 0 or 1, as of genres; None: unknown."""

    @property
    def num_items(self) -> int:
        """Items without padding."""
        return len(self.events_V) - 1

    def to(self, device: torch.device | str) -> ItemFacts:
        """Return the facts on another device."""
        features = None if self.features_VG is None else self.features_VG.to(device)
        return ItemFacts(self.events_V.to(device), self.users_V.to(device), self.num_users, features)

    def shares(self) -> Tensor:
        """Return each item's features as shares that sum to 1 `[V, G]`, 0 where it has none."""
        assert self.features_VG is not None
        return self.features_VG / self.features_VG.sum(1, keepdim=True).clamp(min=1.0)


@dataclass(frozen=True)
class Lists:
    """Recommended lists of some users, best item first."""

    items_BK: Tensor
    """Items, int64, 1..I; 0 is an empty place (a user who has seen nearly all)."""
    targets_B: Tensor
    """The held-out item of each list, int64; 0 where it never trained."""
    history_BG: Tensor | None = None
    """Mean of the shares of features over each user's history (`history_shares`), float64; None: unknown."""
    known: Mapping[str, Tensor] = field(default_factory=dict)
    """Values of list metrics that were computed before, float64 `[B]`, by name."""

    def slice(self, part: slice, device: torch.device) -> Lists:
        """Return some of the lists, on a device."""
        history = None if self.history_BG is None else self.history_BG[part].to(device)
        known = {name: values[part].to(device) for name, values in self.known.items()}
        return Lists(
            self.items_BK[part].to(device, torch.int64), self.targets_B[part].to(device), history, known
        )

    @property
    def filled_BK(self) -> Tensor:
        """Places that hold an item."""
        return self.items_BK > 0


@dataclass(frozen=True)
class Exposure:
    """How often each item was shown."""

    counts_V: Tensor
    """Lists that hold each item, int64; entry 0 is 0."""
    num_lists: int
    """All lists."""
    k: int
    """Places of a list."""


@dataclass(frozen=True)
class ListMetric:
    """A value per list, averaged over lists; NaN where a list has none."""

    name: str
    """Name in tables and files."""
    of: Callable[[Lists, ItemFacts], Tensor]
    """Gives float64 `[B]`."""
    needs_features: bool = False
    """Whether it needs `ItemFacts.features_VG`."""
    needs_history: bool = False
    """Whether it needs `Lists.history_BG`."""


@dataclass(frozen=True)
class ExposureMetric:
    """One value of all lists together, from how often each item was shown."""

    name: str
    """Name in tables and files."""
    of: Callable[[Exposure], float]


def mean_over_items(values_BK: Tensor, lists: Lists) -> Tensor:
    """Return the mean of a value per place over the filled places of each list, NaN for an empty list."""
    filled_BK = lists.filled_BK
    return torch.where(filled_BK, values_BK, 0.0).sum(1) / filled_BK.sum(1)


def history_shares(seen_X: Tensor, offsets_B1: Tensor, shares_VG: Tensor) -> Tensor:
    """Return p(g|u): the mean of the shares of features over the events of each history that have any, `[B, G]`.

    Args:
        seen_X: items of the histories, user after user.
        offsets_B1: where each history begins and ends.
        shares_VG: `ItemFacts.shares`.
    """
    num_rows = len(offsets_B1) - 1
    row_X = torch.repeat_interleave(
        torch.arange(num_rows, device=seen_X.device), offsets_B1.diff().to(seen_X.device)
    )
    sums_BG = shares_VG.new_zeros(num_rows, shares_VG.shape[1])
    step = max(1, (1 << 22) // shares_VG.shape[1])  # rows of shares in memory at one time
    for first in range(0, len(seen_X), step):
        part = slice(first, first + step)
        sums_BG.index_add_(0, row_X[part], shares_VG[seen_X[part]])
    return sums_BG / sums_BG.sum(1, keepdim=True)


def one_hot(values: list[list[str] | str | None]) -> tuple[Tensor, list[str]]:
    """Return features `[V, G]` with a row of zeros for padding, and the names of the columns.

    Args:
        values: of items 1, 2, ...: a value, several, or none.
    """
    rows = [[value] if isinstance(value, str) else list(value or []) for value in values]
    names = sorted({value for row in rows for value in row})
    index = {name: number for number, name in enumerate(names)}
    features_VG = np.zeros((len(rows) + 1, len(names)))
    for item, row in enumerate(rows, start=1):
        features_VG[item, [index[value] for value in row]] = 1.0
    return torch.from_numpy(features_VG), names
