"""The known law of generated ratings: what all users share, and how well the law itself ranks what comes next.

A user's next item is, with probability `FOLLOW`, one of `SUCCESSORS` successors of the last item, else a draw from the
popularity of that quarter. Each item has two sets of successors: one for events of the same visit, one for the first
event after a break (a gap of `BREAK_S` or more). So a model that reads the order beats popularity by far, one that
also knows the gap to its target gains once more, and one that sees the history as a bag gains little.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from ss4rec.data.synth.settings import SMALL, Drift, SynthSettings
from ss4rec.data.synth.times import BREAK_S

Array = npt.NDArray[Any]

QUARTER_S = 91 * 86_400
FOLLOW = 0.85
SUCCESSORS = 4
SUCCESSOR_WEIGHTS = np.array([0.50, 0.25, 0.15, 0.10])
FASHION_QUARTERS = 3.0
"""Standard deviation of an item's fashion in time."""
TRUTH_USERS = 2048
"""Users whose last item is ranked by the law itself for `truth.json`."""


@dataclass(frozen=True)
class World:
    """Everything that users share. Items are 0..V-1 here; `movie_ids_V` gives their ids in the files."""

    movie_ids_V: Array
    """int64, rising with holes."""
    popularity_V: Array
    """Everyday popularity, sums to 1."""
    fashion_QV: Array
    """Popularity in each quarter, rows sum to 1; times after the last quarter use the last row. With drift of
    popularity the quarters come a second time, as they are after it."""
    successors_2VK: Array
    """int64; [0] within a visit, [1] after a break; most likely first, with SUCCESSOR_WEIGHTS. With drift of
    transitions [2] and [3] are those after it."""
    quality_V: Array
    """Mean rating of an item by the average user, in stars."""
    settings: SynthSettings = SMALL
    """Marginals of users and times."""
    drift: tuple[Drift, ...] = ()
    """Planted changes, at most one of a kind."""
    wander_Q: Array | None = None
    """Stars that are given more in each quarter than in the mean of all; None: no wander."""

    def drift_of(self, signal: str) -> Drift | None:
        """Return the planted change of one kind."""
        return next((drift for drift in self.drift if drift.signal == signal), None)

    @cached_property
    def cumulative_QV(self) -> Array:
        """`fashion_QV` as `stacked_cumulative` lays it out, for draws."""
        return stacked_cumulative(self.fashion_QV)

    @property
    def num_quarters(self) -> int:
        """Quarters of the span."""
        return len(self.fashion_QV) // (2 if self.drift_of("popularity") else 1)


@dataclass(frozen=True)
class Chunk:
    """Events of some users, user after user (T events, U users)."""

    lengths_U: Array
    times_T: Array
    """int64 unix seconds, never falling within a user."""
    returned_T: Array
    """bool: the event is the first after a break."""
    items_T: Array
    ratings_T: Array
    """Stars, 0.5 to 5 in halves."""


def make_world(
    items: int, seed: int, settings: SynthSettings = SMALL, drift: tuple[Drift, ...] = ()
) -> World:
    """Draw popularity, fashions, successors and qualities of `items` items."""
    rng = np.random.default_rng([seed, 0])
    popularity_V = rng.permutation(1.0 / (np.arange(items) + settings.zipf_shift) ** settings.zipf_exponent)
    popularity_V /= popularity_V.sum()
    quarters_Q1 = np.arange(-(-settings.span_s // QUARTER_S))[:, None]
    height_V = rng.random(items) * len(quarters_Q1)
    fashion_QV = 1 + settings.fashion * np.exp(-0.5 * ((quarters_Q1 - height_V) / FASHION_QUARTERS) ** 2)
    fashion_QV *= popularity_V
    fashion_QV /= fashion_QV.sum(1, keepdims=True)
    movie_ids_V = np.cumsum(1 + (rng.random(items) * 3).astype(np.int64))
    successors_2VK = _draw_successors(popularity_V, rng)
    quality_V = 3.5 + 0.5 * rng.standard_normal(items)
    # Draws of drift come from seeds of their own, so that everything before it is as without it.
    for planted in drift:
        if planted.signal == "popularity":
            other_V = np.random.default_rng([seed, 3]).permutation(items)
            after_QV = (1 - planted.size) * fashion_QV + planted.size * fashion_QV[:, other_V]
            fashion_QV = np.concatenate([fashion_QV, after_QV])
        if planted.signal == "transitions":
            after_2VK = _draw_successors(popularity_V, np.random.default_rng([seed, 4]))
            successors_2VK = np.concatenate([successors_2VK, after_2VK])
    wander_Q = _wander(settings.wander, len(quarters_Q1), np.random.default_rng([seed, 5]))
    return World(movie_ids_V, popularity_V, fashion_QV, successors_2VK, quality_V, settings, drift, wander_Q)


def _wander(deviation: float, quarters: int, rng: np.random.Generator) -> Array | None:
    """Return an AR(1) path (coefficient 0.8) with this stationary deviation."""
    if deviation == 0:
        return None
    path_Q = deviation * rng.standard_normal(quarters)
    for quarter in range(1, quarters):
        path_Q[quarter] = 0.8 * path_Q[quarter - 1] + 0.6 * path_Q[quarter]
    return path_Q


def _draw_successors(popularity_V: Array, rng: np.random.Generator) -> Array:
    """Draw 2 x SUCCESSORS different successors for each item by popularity, never the item itself."""
    items = len(popularity_V)
    cumulative_V = stacked_cumulative(popularity_V[None])
    table_VK2 = np.zeros((items, 2 * SUCCESSORS), np.int64)
    open_B = np.arange(items)
    while len(open_B):
        table_VK2[open_B] = np.searchsorted(
            cumulative_V, rng.random((len(open_B), 2 * SUCCESSORS)), side="right"
        )
        with_self = np.sort(np.column_stack([table_VK2[open_B], open_B]), 1)
        open_B = open_B[(np.diff(with_self, axis=1) == 0).any(1)]
    return np.stack([table_VK2[:, :SUCCESSORS], table_VK2[:, SUCCESSORS:]])


def quarters(world: World, times_T: Array) -> Array:
    """Return the row of `fashion_QV` for each time."""
    quarter_T = np.minimum((times_T - world.settings.first_time_s) // QUARTER_S, world.num_quarters - 1)
    popularity = world.drift_of("popularity")
    return quarter_T + world.num_quarters * (times_T >= popularity.from_s) if popularity else quarter_T


def stacked_cumulative(fashion_QV: Array) -> Array:
    """Return row q's cumulative distribution plus q, all in one rising array, so that one search serves all rows."""
    cumulative_QV = np.cumsum(fashion_QV, 1)
    cumulative_QV[:, -1] = 1.0
    return np.asarray((cumulative_QV + np.arange(len(fashion_QV))[:, None]).ravel())


def oracle(world: World, chunk: Chunk) -> dict[str, float]:
    """Rank the last item of up to TRUTH_USERS users by the law that made it; nothing can be better on average.

    `*_with_gap` knows the gap before the last item, `*_without_gap` only how often breaks happen. Items that the user
    has rated are left out of the ranking. Both know the quarter.
    """
    ends_U = np.cumsum(chunk.lengths_U)[:TRUTH_USERS]
    starts_U = ends_U - chunk.lengths_U[:TRUTH_USERS]
    share_break = sum(share for share, shortest, _ in world.settings.gap_kinds if shortest >= BREAK_S)
    ranks: dict[str, list[int]] = {"with_gap": [], "without_gap": []}
    for start, end in zip(starts_U, ends_U, strict=True):
        target, returned = chunk.items_T[end - 1], bool(chunk.returned_T[end - 1])
        history = chunk.items_T[start : end - 1]
        fashion_V = world.fashion_QV[quarters(world, chunk.times_T[end - 1])]
        time_s = int(chunk.times_T[end - 1])
        visit_V, break_V = (next_item_law(world, fashion_V, history, kind, time_s) for kind in (False, True))
        mixed_V = (1 - share_break) * visit_V + share_break * break_V
        for name, law_V in (("with_gap", break_V if returned else visit_V), ("without_gap", mixed_V)):
            ranks[name].append(int((law_V > law_V[target]).sum()))
    quality: dict[str, float] = {"users": len(ends_U)}
    for name, ranks_U in ranks.items():
        gains_U = [1 / np.log2(rank + 2) if rank < 10 else 0.0 for rank in ranks_U]
        quality[f"ndcg@10_{name}"] = round(float(np.mean(gains_U)), 4)
        quality[f"hr@10_{name}"] = round(float(np.mean(np.array(ranks_U) < 10)), 4)
    return quality


def next_item_law(
    world: World, fashion_V: Array, history: Array, returned: bool, time_s: int | None = None
) -> Array:
    """Return the exact probability of each next item after `history`; rated items have 0.

    Args:
        world: the law.
        fashion_V: popularity at that time.
        history: items so far.
        returned: whether it is the first event after a break.
        time_s: when, unix seconds; matters with drift of transitions only.
    """
    popular_V = fashion_V.copy()
    popular_V[history] = 0.0
    popular_V /= popular_V.sum()
    transitions = world.drift_of("transitions")
    later = transitions.size if transitions and time_s is not None and time_s >= transitions.from_s else 0.0
    law_V = np.zeros_like(popular_V)
    for share, table in ((1 - later, int(returned)), (later, int(returned) + 2)):
        if not share:
            continue
        successors_K = world.successors_2VK[table, history[-1]]
        weights_K = SUCCESSOR_WEIGHTS * ~np.isin(successors_K, history)
        follow = FOLLOW if weights_K.sum() > 0 else 0.0
        law_V += share * (1 - follow) * popular_V
        if follow:
            law_V[successors_K] += share * follow * weights_K / weights_K.sum()
    return law_V
