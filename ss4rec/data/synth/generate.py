"""Generates MovieLens-shaped ratings by the law of `ss4rec.data.synth.world`.

No user rates an item twice. Rows are written in the order of rating, which keeps the order within equal timestamps, as
in ML-1M. Users are generated in chunks, each from a seed of its own, so memory is bounded by one chunk: mostly its
`CHUNK_USERS x items` mask of what has been seen. Only uniform and normal variates are drawn.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ss4rec.data.synth.settings import SMALL, Drift, SynthSettings
from ss4rec.data.synth.times import BREAK_S, MIN_LENGTH, draw_gaps, draw_lengths, draw_starts, fit
from ss4rec.data.synth.world import (
    FOLLOW,
    QUARTER_S,
    SUCCESSOR_WEIGHTS,
    SUCCESSORS,
    Chunk,
    World,
    make_world,
    oracle,
    quarters,
)
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

Array = npt.NDArray[Any]

CHUNK_USERS = 4096
MIN_ITEMS = 100


def synth(
    out: Path,
    *,
    users: int = 2000,
    items: int = 500,
    mean_len: int = 60,
    seed: int = 0,
    fmt: Format = "shards",
    settings: SynthSettings = SMALL,
    drift: Sequence[Drift] = (),
    processes: int | None = None,
    k_core: int = 5,
) -> dict[str, Any]:
    """Generate a data set into the new folder `out` and return what `truth.json` says, without the table.

    `csv` writes `ratings.csv` and `movies.csv` as GroupLens does; `shards` makes a prepared folder of them
    (with this `k_core`; `split` wants 0).
    Both have `truth.json`: parameters, planted drift, counts, the successors of every movie, and how well the law
    itself ranks each user's last item. The same arguments give the same bytes. `mean_len` is the mean before lengths
    are cut at half the items. Several `processes` work on chunks of users; by default one a core if there are many.

    Raises:
        UsageError: if a size is too small, a kind of drift comes twice, or `out` exists and is not empty.
    """
    _check(out, users, items, mean_len, drift)
    make = partial(make_world, items, seed, settings, tuple(drift))
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
                **asdict(settings),
            },
            "drift": [asdict(planted) for planted in drift],
            "counts": {"users": users, "ratings": ratings},
            "law": oracle(world, next(chunks(world, users, mean_len, seed))),
        }
        write_truth(source / "truth.json", summary, world)
        if fmt == "shards":
            prepare_there(source, k_core)
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


def chunks(world: World, users: int, mean_len: int, seed: int) -> Iterator[Chunk]:
    """Yield the users, CHUNK_USERS at a time; a chunk depends on its number and size only, not on those before it."""
    for first in range(0, users, CHUNK_USERS):
        yield make_chunk(world, users, mean_len, seed, first)


def make_chunk(world: World, users: int, mean_len: int, seed: int, first: int) -> Chunk:
    """Return the chunk that begins with user `first`, a multiple of CHUNK_USERS."""
    rng = np.random.default_rng([seed, 1, first // CHUNK_USERS])
    most = len(world.popularity_V) // 2
    lengths_U = draw_lengths(min(CHUNK_USERS, users - first), mean_len, most, world.settings, rng)
    times_T, returned_T = _draw_times(world, lengths_U, rng)
    items_T = _walk(world, lengths_U, times_T, returned_T, rng)
    ratings_T = _draw_ratings(world, lengths_U, items_T, times_T, rng)
    return Chunk(lengths_U, times_T, returned_T, items_T, ratings_T)


def _draw_times(world: World, lengths_U: Array, rng: np.random.Generator) -> tuple[Array, Array]:
    """Draw times and breaks; a user's first event counts as a break."""
    settings = world.settings
    gaps_T, first_U = draw_gaps(settings, lengths_U, rng), np.cumsum(lengths_U) - lengths_U
    gaps_T[first_U] = 0
    starts_U = draw_starts(settings, len(lengths_U), rng)
    if settings.end_s is not None:
        gaps_T = fit(gaps_T, lengths_U, settings.end_s - settings.first_time_s - starts_U)
    elapsed_T = np.cumsum(gaps_T)
    times_T = settings.first_time_s + elapsed_T + np.repeat(starts_U - elapsed_T[first_U], lengths_U)
    pace = world.drift_of("pace")
    if pace:
        later_T = np.maximum(times_T - pace.from_s, 0)
        times_T += (later_T * pace.size).astype(np.int64) - later_T
    if settings.end_s is not None:
        times_T = np.minimum(times_T, settings.end_s)
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
    quarter_T, table_T = quarters(world, times_T), returned_T.astype(np.int64)
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


def _popular(cumulative_QV: Array, quarter_B: Array, rng: np.random.Generator) -> Array:
    """Draw one item for each entry from the popularity of its quarter."""
    items = len(cumulative_QV) // round(float(cumulative_QV[-1]))
    places_B = np.searchsorted(cumulative_QV, quarter_B + rng.random(len(quarter_B)), side="right")
    return np.asarray(places_B - quarter_B * items)


def _draw_ratings(
    world: World, lengths_U: Array, items_T: Array, times_T: Array, rng: np.random.Generator
) -> Array:
    """Draw ratings: quality of the item, leaning of the user, noise, wander, drift; rounded to half stars."""
    leaning_T = np.repeat(0.4 * rng.standard_normal(len(lengths_U)), lengths_U)
    stars_T = world.quality_V[items_T] + leaning_T + 0.7 * rng.standard_normal(len(items_T))
    if world.wander_Q is not None:
        quarter_T = (times_T - world.settings.first_time_s) // QUARTER_S
        stars_T += world.wander_Q[np.minimum(quarter_T, len(world.wander_Q) - 1)]
    rating = world.drift_of("rating")
    if rating:
        stars_T += rating.size * (times_T >= rating.from_s)
    return np.asarray(np.clip(np.rint(stars_T * 2) / 2, 0.5, 5.0))


def _check(out: Path, users: int, items: int, mean_len: int, drift: Sequence[Drift]) -> None:
    """Refuse sizes that the law cannot serve and a folder that holds something."""
    for name, value, least in (
        ("users", users, 1),
        ("items", items, MIN_ITEMS),
        ("mean-len", mean_len, MIN_LENGTH + 1),
    ):
        if value < least:
            raise UsageError(f"--{name} {value} is too small; the minimum is {least}")
    if mean_len > items // 2:
        raise UsageError(
            f"--mean-len {mean_len} is over half of --items {items}; nobody rates an item twice, take more items"
        )
    signals = [planted.signal for planted in drift]
    if len(set(signals)) < len(signals):
        raise UsageError(f"--drift names {', '.join(signals)}; give each signal once")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out} exists and is not an empty folder; delete it or name another --out")
