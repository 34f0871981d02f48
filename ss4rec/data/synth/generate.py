"""MovieLens-shaped ratings with a known law: what comes next depends on the last item *and* on the gap before it.

A user's next item is, with probability `FOLLOW`, one of `SUCCESSORS` successors of the last item, else a draw from the
popularity of that quarter. Each item has two sets of successors: one for events of the same visit, one for the first
event after a break (a gap of `BREAK_S` or more). So a model that reads the order beats popularity by far, one that
also knows the gap to its target gains once more, and one that sees the history as a bag gains little. No user rates
an item twice. Rows are written in the order of rating, which keeps the order within equal timestamps, as in ML-1M.

Users are generated in chunks, each from a seed of its own, so memory is bounded by one chunk: mostly its
`CHUNK_USERS x items` mask of what has been seen. Only uniform and normal variates are drawn.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from ss4rec.data.synth.settings import SMALL, Drift, Profile
from ss4rec.data.synth.times import BREAK_S, MIN_LENGTH, draw_gaps, draw_lengths, draw_starts, fit
from ss4rec.data.synth.write import (
    Format,
    prepare_there,
    ratings_text,
    write_movies,
    write_ratings,
    write_truth,
)
from ss4rec.errors import UsageError
from ss4rec.io.atomic import new_folder

Array = np.ndarray

CHUNK_USERS = 4096
MIN_ITEMS = 100
FIRST_TIME_S = SMALL.first_time_s
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
    profile: Profile = SMALL
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
        """`fashion_QV` as `_stacked_cumulative` lays it out, for draws."""
        return _stacked_cumulative(self.fashion_QV)

    @property
    def quarters(self) -> int:
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


def synth(
    out: Path,
    *,
    users: int = 2000,
    items: int = 500,
    mean_len: int = 60,
    seed: int = 0,
    fmt: Format = "shards",
    profile: Profile = SMALL,
    drift: Sequence[Drift] = (),
    processes: int | None = None,
) -> dict[str, Any]:
    """Generate a data set into the new folder `out` and return what `truth.json` says, without the table.

    `csv` writes `ratings.csv` and `movies.csv` as GroupLens does; `shards` makes a prepared folder (5-core) of them.
    Both have `truth.json`: parameters, planted drift, counts, the successors of every movie, and how well the law
    itself ranks each user's last item. The same arguments give the same bytes. `mean_len` is the mean before lengths
    are cut at half the items. Several `processes` work on chunks of users; by default one a core if there are many.

    Raises:
        UsageError: if a size is too small, a kind of drift comes twice, or `out` exists and is not empty.
    """
    _check(out, users, items, mean_len, drift)
    make = partial(make_world, items, seed, profile, tuple(drift))
    world = make()
    with new_folder(out) as source:
        write_movies(source / "movies.csv", world, seed)
        text = partial(_chunk_text, make, users, mean_len, seed)
        firsts = range(0, users, CHUNK_USERS)
        ratings = 0

        def texts() -> Iterator[bytes]:
            nonlocal ratings
            for count, lines in _on_processes(text, firsts, processes):
                ratings += count
                yield lines

        write_ratings(source / "ratings.csv", texts())
        summary = {
            "parameters": {
                "users": users,
                "items": items,
                "mean_len": mean_len,
                "seed": seed,
                "follow": FOLLOW,
                "successor_weights": SUCCESSOR_WEIGHTS.tolist(),
                "break_s": BREAK_S,
                **asdict(profile),
            },
            "drift": [asdict(planted) for planted in drift],
            "counts": {"users": users, "ratings": ratings},
            "law": law_quality(world, next(chunks(world, users, mean_len, seed))),
        }
        write_truth(source / "truth.json", summary, world)
        if fmt == "shards":
            prepare_there(source)
    return summary


_WORLDS: dict[Any, World] = {}


def _chunk_text(make: partial[World], users: int, mean_len: int, seed: int, first: int) -> tuple[int, bytes]:
    """Return ratings and lines of the chunk that begins with user `first`; a process makes the world once."""
    key = make.args
    if key not in _WORLDS:
        _WORLDS.clear()
        _WORLDS[key] = make()
    part = make_chunk(_WORLDS[key], users, mean_len, seed, first)
    return len(part.items_T), ratings_text(part, _WORLDS[key], first + 1)


def _on_processes(function: Any, firsts: range, processes: int | None) -> Iterator[tuple[int, bytes]]:
    """Yield `function(first)` in order, from several processes if there is enough to do."""
    processes = processes or min(os.cpu_count() or 1, len(firsts) // 4)
    if processes <= 1:
        yield from map(function, firsts)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context) as pool:
        yield from pool.map(function, firsts)


def make_world(items: int, seed: int, profile: Profile = SMALL, drift: tuple[Drift, ...] = ()) -> World:
    """Draw popularity, fashions, successors and qualities of `items` items."""
    rng = np.random.default_rng([seed, 0])
    popularity_V = rng.permutation(1.0 / (np.arange(items) + profile.zipf_shift) ** profile.zipf_exponent)
    popularity_V /= popularity_V.sum()
    quarters_Q1 = np.arange(-(-profile.span_s // QUARTER_S))[:, None]
    height_V = rng.random(items) * len(quarters_Q1)
    fashion_QV = 1 + profile.fashion * np.exp(-0.5 * ((quarters_Q1 - height_V) / FASHION_QUARTERS) ** 2)
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
    wander_Q = _wander(profile.wander, len(quarters_Q1), np.random.default_rng([seed, 5]))
    return World(movie_ids_V, popularity_V, fashion_QV, successors_2VK, quality_V, profile, drift, wander_Q)


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
    cumulative_V = _stacked_cumulative(popularity_V[None])
    table_VK2 = np.zeros((items, 2 * SUCCESSORS), np.int64)
    open_B = np.arange(items)
    while len(open_B):
        table_VK2[open_B] = np.searchsorted(
            cumulative_V, rng.random((len(open_B), 2 * SUCCESSORS)), side="right"
        )
        with_self = np.sort(np.column_stack([table_VK2[open_B], open_B]), 1)
        open_B = open_B[(np.diff(with_self, axis=1) == 0).any(1)]
    return np.stack([table_VK2[:, :SUCCESSORS], table_VK2[:, SUCCESSORS:]])


def chunks(world: World, users: int, mean_len: int, seed: int) -> Iterator[Chunk]:
    """Yield the users, CHUNK_USERS at a time; a chunk depends on its number and size only, not on those before it."""
    for first in range(0, users, CHUNK_USERS):
        yield make_chunk(world, users, mean_len, seed, first)


def make_chunk(world: World, users: int, mean_len: int, seed: int, first: int) -> Chunk:
    """Return the chunk that begins with user `first`, a multiple of CHUNK_USERS."""
    rng = np.random.default_rng([seed, 1, first // CHUNK_USERS])
    most = len(world.popularity_V) // 2
    lengths_U = draw_lengths(min(CHUNK_USERS, users - first), mean_len, most, world.profile, rng)
    times_T, returned_T = _draw_times(world, lengths_U, rng)
    items_T = _walk(world, lengths_U, times_T, returned_T, rng)
    ratings_T = _draw_ratings(world, lengths_U, items_T, times_T, rng)
    return Chunk(lengths_U, times_T, returned_T, items_T, ratings_T)


def _draw_times(world: World, lengths_U: Array, rng: np.random.Generator) -> tuple[Array, Array]:
    """Draw times and breaks; a user's first event counts as a break."""
    profile = world.profile
    gaps_T, first_U = draw_gaps(profile, lengths_U, rng), np.cumsum(lengths_U) - lengths_U
    gaps_T[first_U] = 0
    starts_U = draw_starts(profile, len(lengths_U), rng)
    if profile.end_s is not None:
        gaps_T = fit(gaps_T, lengths_U, profile.end_s - profile.first_time_s - starts_U)
    elapsed_T = np.cumsum(gaps_T)
    times_T = profile.first_time_s + elapsed_T + np.repeat(starts_U - elapsed_T[first_U], lengths_U)
    pace = world.drift_of("pace")
    if pace:
        later_T = np.maximum(times_T - pace.from_s, 0)
        times_T += (later_T * pace.size).astype(np.int64) - later_T
    if profile.end_s is not None:
        times_T = np.minimum(times_T, profile.end_s)
    gaps_T = np.diff(times_T, prepend=times_T[:1])
    returned_T = gaps_T >= BREAK_S
    returned_T[first_U] = True
    return times_T, returned_T


def _walk(
    world: World, lengths_U: Array, times_T: Array, returned_T: Array, rng: np.random.Generator
) -> Array:
    """Walk all users through the items at once, one event a step; returns the items of all events."""
    users, total = len(lengths_U), len(times_T)
    by_length_U = np.argsort(-lengths_U, kind="stable")
    first_U = (np.cumsum(lengths_U) - lengths_U)[by_length_U]
    active_L = np.searchsorted(-lengths_U[by_length_U], -np.arange(lengths_U.max()), side="left")
    follows_T, choice_T = rng.random(total) < FOLLOW, rng.random(total)
    follows_T[first_U] = False
    quarter_T, table_T = _quarters(world, times_T), returned_T.astype(np.int64)
    transitions = world.drift_of("transitions")
    if transitions:
        table_T += 2 * ((times_T >= transitions.from_s) & (rng.random(total) < transitions.size))
    seen_UV = np.zeros((users, len(world.popularity_V)), bool)
    items_T = np.zeros(total, np.int64)
    for step, active in enumerate(active_L):
        at = first_U[:active] + step
        rows = np.arange(active)
        # At step 0 there is no previous event; `follows` is false there, so the row that is read does not matter.
        item, found = _successor(world, items_T[at - 1], table_T[at], choice_T[at], seen_UV)
        lost = rows[~(found & follows_T[at])]
        while len(lost):
            item[lost] = _popular(world.cumulative_QV, quarter_T[at[lost]], rng)
            lost = lost[seen_UV[lost, item[lost]]]
        seen_UV[rows, item] = True
        items_T[at] = item
    return items_T


def _successor(
    world: World, last_B: Array, table_B: Array, choice_B: Array, seen_UV: Array
) -> tuple[Array, Array]:
    """Choose an unseen successor for each of the first B users; the second result says who has one."""
    successors_BK = world.successors_2VK[table_B, last_B]
    rows_B = np.arange(len(last_B))
    cumulative_BK = np.cumsum(SUCCESSOR_WEIGHTS * ~seen_UV[rows_B[:, None], successors_BK], 1)
    pick_B = (cumulative_BK <= (choice_B * cumulative_BK[:, -1])[:, None]).sum(1)
    return successors_BK[rows_B, np.minimum(pick_B, SUCCESSORS - 1)], cumulative_BK[:, -1] > 0


def _quarters(world: World, times_T: Array) -> Array:
    """Return the row of `fashion_QV` for each time."""
    quarter_T = np.minimum((times_T - world.profile.first_time_s) // QUARTER_S, world.quarters - 1)
    popularity = world.drift_of("popularity")
    return quarter_T + world.quarters * (times_T >= popularity.from_s) if popularity else quarter_T


def _stacked_cumulative(fashion_QV: Array) -> Array:
    """Return row q's cumulative distribution plus q, all in one rising array, so that one search serves all rows."""
    cumulative_QV = np.cumsum(fashion_QV, 1)
    cumulative_QV[:, -1] = 1.0
    return (cumulative_QV + np.arange(len(fashion_QV))[:, None]).ravel()


def _popular(cumulative_QV: Array, quarter_B: Array, rng: np.random.Generator) -> Array:
    """Draw one item for each entry from the popularity of its quarter."""
    items = len(cumulative_QV) // round(float(cumulative_QV[-1]))
    return (
        np.searchsorted(cumulative_QV, quarter_B + rng.random(len(quarter_B)), side="right")
        - quarter_B * items
    )


def _draw_ratings(
    world: World, lengths_U: Array, items_T: Array, times_T: Array, rng: np.random.Generator
) -> Array:
    """Draw ratings: quality of the item, leaning of the user, noise, wander, drift; rounded to half stars."""
    leaning_T = np.repeat(0.4 * rng.standard_normal(len(lengths_U)), lengths_U)
    stars_T = world.quality_V[items_T] + leaning_T + 0.7 * rng.standard_normal(len(items_T))
    if world.wander_Q is not None:
        quarter_T = (times_T - world.profile.first_time_s) // QUARTER_S
        stars_T += world.wander_Q[np.minimum(quarter_T, len(world.wander_Q) - 1)]
    rating = world.drift_of("rating")
    if rating:
        stars_T += rating.size * (times_T >= rating.from_s)
    return np.clip(np.rint(stars_T * 2) / 2, 0.5, 5.0)


def law_quality(world: World, chunk: Chunk) -> dict[str, float]:
    """Rank the last item of up to TRUTH_USERS users by the law that made it; nothing can be better on average.

    `*_with_gap` knows the gap before the last item, `*_without_gap` only how often breaks happen. Items that the user
    has rated are left out of the ranking. Both know the quarter.
    """
    ends_U = np.cumsum(chunk.lengths_U)[:TRUTH_USERS]
    starts_U = ends_U - chunk.lengths_U[:TRUTH_USERS]
    share_break = sum(share for share, shortest, _ in world.profile.gap_kinds if shortest >= BREAK_S)
    ranks: dict[str, list[int]] = {"with_gap": [], "without_gap": []}
    for start, end in zip(starts_U, ends_U, strict=True):
        target, returned = chunk.items_T[end - 1], bool(chunk.returned_T[end - 1])
        history = chunk.items_T[start : end - 1]
        fashion_V = world.fashion_QV[_quarters(world, chunk.times_T[end - 1])]
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


def _check(out: Path, users: int, items: int, mean_len: int, drift: Sequence[Drift]) -> None:
    """Refuse sizes that the law cannot serve and a folder that holds something."""
    for name, value, least in (
        ("users", users, 1),
        ("items", items, MIN_ITEMS),
        ("mean-len", mean_len, MIN_LENGTH + 1),
    ):
        if value < least:
            raise UsageError(f"--{name} {value} is too small; the least is {least}")
    if mean_len > items // 2:
        raise UsageError(
            f"--mean-len {mean_len} is over half of --items {items}; nobody rates an item twice, take more items"
        )
    signals = [planted.signal for planted in drift]
    if len(set(signals)) < len(signals):
        raise UsageError(f"--drift names {', '.join(signals)}; give each signal once")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out} exists and is not an empty folder; delete it or name another --out")
