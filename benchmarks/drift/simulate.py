"""Ratings with planted truth: users as clusters, heavy-tailed activity, natural wander, one change at a known window.

Items come in pairs of events: the first is drawn by popularity, the second follows it by a fixed permutation within
groups of equal popularity (or is drawn as well). Another permutation changes what follows what and no marginal.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from drift.calendar import Window, calendar
from ss4rec.data.batches.windows import list_array
from ss4rec.model.item_scores import ItemScores
from ss4rec.model.segments import Segments

GENRES = ("Action", "Comedy", "Crime", "Documentary", "Drama", "Horror", "Romance", "Thriller")
GROUPS, FOLLOW = 20, 0.7
FIRST_S = 1_262_304_000  # 2010-01-01


@dataclass(frozen=True)
class Plant:
    """What is simulated, and what changes from window `step` on."""

    windows: int = 2
    users: int = 1000
    """Users who join in a window."""
    items: int = 400
    returning: float = 0.15
    """Share of users with a second stint in a later window."""
    wander: float = 0.0
    """Standard deviation of the AR(1) wander of the mean rating, in stars."""
    step: int = 1
    rating: float = 0.0
    """Shift of every user's mean, in stars."""
    gap: float = 0.0
    """Shift of log10 of the gaps."""
    popularity: float = 0.0
    """Exponent added to the popularity of items."""
    concept: bool = False
    """Another permutation of what follows what."""


@dataclass(frozen=True)
class Simulated:
    """One shard and its catalogue."""

    shard: pa.Table
    items: pa.Table
    windows: list[Window]
    successor_V: np.ndarray
    """What follows each item before the step; entry 0 is unused."""


def simulate(plant: Plant, seed: int) -> Simulated:
    """Draw the ratings of `plant`."""
    rng = np.random.default_rng(seed)
    last_s = FIRST_S + int((plant.windows - 0.5) * 91.3 * 86_400)
    windows = calendar("quarter", FIRST_S, last_s)
    starts_W = np.array([window.start_s for window in windows])
    total = plant.windows * plant.users
    user_J, window_J = np.arange(total), np.repeat(np.arange(plant.windows), plant.users)
    later = rng.random(total) < plant.returning
    later_J = window_J[later] + rng.integers(1, 9, later.sum())
    user_J, window_J = np.r_[user_J, user_J[later]], np.r_[window_J, later_J]
    kept = window_J < plant.windows
    order = np.lexsort((window_J[kept], user_J[kept]))
    user_J, window_J = user_J[kept][order], window_J[kept][order]
    lengths_J = np.minimum(20 + np.exp(3.9 + 1.35 * rng.standard_normal(len(user_J))), 600).astype(int)
    window_E, user_E = np.repeat(window_J, lengths_J), np.repeat(user_J, lengths_J)
    changed_E = window_E >= plant.step

    wander_W = _wander(plant, rng)
    mean_U = 3.5 + 0.45 * rng.standard_normal(total)
    stars_E = (
        mean_U[user_E]
        + wander_W[window_E]
        + plant.rating * changed_E
        + 0.95 * rng.standard_normal(len(user_E))
    )
    log_gap_U = 1.2 + 0.3 * rng.standard_normal(total)
    log_gap_E = log_gap_U[user_E] + plant.gap * changed_E + 0.6 * rng.standard_normal(len(user_E))
    gap_E = np.where(rng.random(len(user_E)) < 0.3, 0, 10**log_gap_E).astype(np.int64)
    first_E = np.r_[True, np.diff(user_E * 1000 + window_E) != 0]
    gap_E[first_E] = 0
    elapsed_E = np.cumsum(gap_E)
    stint_E = np.cumsum(first_E) - 1
    begin_J = starts_W[window_J] + (rng.random(len(user_J)) * 60 * 86_400).astype(np.int64)
    times_E = begin_J[stint_E] + np.minimum(elapsed_E - elapsed_E[first_E][stint_E], 29 * 86_400)

    items_E, successor_V = _items(plant, changed_E, rng)
    offsets = np.r_[0, np.flatnonzero(np.diff(user_E)) + 1, len(user_E)]
    shard = {
        "user": pa.array(user_E[offsets[:-1]], pa.int32()),
        "items": list_array(items_E.astype(np.int32), offsets),
        "timestamps": list_array(times_E, offsets),
        "ratings": list_array((np.clip(np.rint(stars_E * 2), 1, 10) / 2).astype(np.float32), offsets),
    }
    return Simulated(pa.table(shard), _catalogue(plant.items), windows, successor_V)


def _wander(plant: Plant, rng: np.random.Generator) -> np.ndarray:
    """Return an AR(1) path with stationary deviation `wander`."""
    path_W = np.zeros(plant.windows)
    for window in range(plant.windows):
        noise = plant.wander * rng.standard_normal()
        path_W[window] = noise if window == 0 else 0.8 * path_W[window - 1] + 0.6 * noise
    return path_W


def _items(plant: Plant, changed_E: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw items (1..I) and return what followed what before the step."""
    group_V = np.arange(plant.items) * GROUPS // plant.items
    chance_V = 1.0 / (1 + group_V)

    def draw(exponent: float) -> np.ndarray:
        weights_V = chance_V ** (1 + exponent)
        cumulative_V = np.cumsum(weights_V) / weights_V.sum()
        return np.minimum(np.searchsorted(cumulative_V, rng.random(len(changed_E))), plant.items - 1)

    def permutation() -> np.ndarray:
        """Return what follows each item: all items of its group in one ring, so that none follows itself."""
        after_V = np.zeros(plant.items, np.int64)
        for group in range(GROUPS):
            ring = rng.permutation(np.flatnonzero(group_V == group))
            after_V[ring] = np.roll(ring, 1)
        return after_V

    before_V, after_V = permutation(), permutation()
    drawn_E = np.where(changed_E, draw(plant.popularity), draw(0.0))
    follows_E = (np.arange(len(drawn_E)) % 2 == 1) & (rng.random(len(drawn_E)) < FOLLOW)
    follower_E = np.where(
        changed_E & plant.concept, after_V[np.roll(drawn_E, 1)], before_V[np.roll(drawn_E, 1)]
    )
    return np.where(follows_E, follower_E, drawn_E) + 1, np.r_[0, before_V + 1]


def _catalogue(items: int) -> pa.Table:
    """Return `items.parquet` of the simulation: release years 1950 to 2009, one or two genres."""
    numbers = np.arange(1, items + 1)
    return pa.table(
        {
            "item": numbers,
            "title": [f"Film {number} ({1950 + number * 7 % 60})" for number in numbers],
            "genres": [sorted({GENRES[number % 8], GENRES[number * 5 % 7]}) for number in numbers],
        }
    )


class PlantedModel:
    """A model that knows what followed what before the step, and popularity: the best a frozen model could be.

    Stands in for a trained one where the question is whether the tests see that it went stale.
    """

    def __init__(self, made: Simulated) -> None:
        self.successor_V = torch.from_numpy(made.successor_V).long()

    def encode(self, items_T: Tensor, gaps_T: Tensor, segments: Segments, context: object = None) -> Tensor:
        """Return `[T, 1]` hidden states: the item."""
        return items_T[:, None].float()

    def scores(
        self, hidden_BD: Tensor, seen_X: Tensor, seen_offsets_B1: Tensor, asked: object = None
    ) -> ItemScores:
        """Return the scores: the successor first, then by group of popularity."""
        size = len(self.successor_V)
        scores_BV = (-torch.arange(size) / size).repeat(len(hidden_BD), 1)
        follower_B1 = self.successor_V[hidden_BD[:, :1].long()]
        return ItemScores.of_matrix(scores_BV.scatter(1, follower_B1, 1.0), seen_X, seen_offsets_B1)
