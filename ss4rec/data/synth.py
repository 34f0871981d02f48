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

import json
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv

from ss4rec.errors import UsageError

Array = np.ndarray
Format = Literal["shards", "csv"]

CHUNK_USERS = 4096
MIN_LENGTH = 20
"""Fewest ratings of a user, as in MovieLens."""
LENGTH_SIGMA = 1.0
"""Log-normal spread of the ratings beyond MIN_LENGTH."""
MIN_ITEMS = 100
FIRST_TIME_S = 1_420_070_400
"""2015-01-01, the earliest first rating."""
SPAN_S = 6 * 365 * 86_400
"""First ratings are spread evenly over this span."""
QUARTER_S = 91 * 86_400
BREAK_S = 600
"""A gap this long ends a visit, and the other successors apply."""
GAP_KINDS = (
    (0.50, 0, 0),
    (0.15, 2, 120),
    (0.15, BREAK_S, 3 * 3600),
    (0.15, 86_400, 5 * 86_400),
    (0.05, 7 * 86_400, 42 * 86_400),
)
"""Share, shortest and longest gap in seconds (log-uniform between): same click, same visit, same day, days, weeks."""
PACE_EVENTS = 100
"""Users with more ratings come back sooner: their breaks are shorter by PACE_EVENTS / length, never under BREAK_S."""
FOLLOW = 0.85
SUCCESSORS = 4
SUCCESSOR_WEIGHTS = np.array([0.50, 0.25, 0.15, 0.10])
ZIPF_EXPONENT = 0.8
ZIPF_SHIFT = 10.0
FASHION = 30.0
"""How many times its everyday popularity an item has at the height of its fashion."""
FASHION_QUARTERS = 3.0
"""Standard deviation of an item's fashion in time."""
TRUTH_USERS = 2048
"""Users whose last item is ranked by the law itself for `truth.json`."""
GENRES = (
    *("Action", "Adventure", "Animation", "Children", "Comedy", "Crime", "Documentary", "Drama", "Fantasy"),
    *("Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western"),
)
ADJECTIVES = (
    "Quiet",
    "Last",
    "Crimson",
    "Hidden",
    "Broken",
    "Golden",
    "Distant",
    "Second",
    "Silent",
    "Restless",
)
NOUNS = (
    "River",
    "Summer",
    "Letter",
    "Harbor",
    "Winter",
    "Promise",
    "Stranger",
    "Garden",
    "Station",
    "Witness",
)


@dataclass(frozen=True)
class World:
    """Everything that users share. Items are 0..V-1 here; `movie_ids_V` gives their ids in the files."""

    movie_ids_V: Array
    """int64, rising with holes."""
    popularity_V: Array
    """Everyday popularity, sums to 1."""
    fashion_QV: Array
    """Popularity in each quarter, rows sum to 1; times after the last quarter use the last row."""
    successors_2VK: Array
    """int64; [0] within a visit, [1] after a break; most likely first, with SUCCESSOR_WEIGHTS."""
    quality_V: Array
    """Mean rating of an item by the average user, in stars."""


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
) -> dict[str, Any]:
    """Generate a data set into the new folder `out` and return what `truth.json` says, without the table.

    `csv` writes `ratings.csv` and `movies.csv` as GroupLens does; `shards` makes a prepared folder (5-core) of them.
    Both have `truth.json`: parameters, counts, the successors of every movie, and how well the law itself ranks
    each user's last item. The same arguments give the same bytes. `mean_len` is the mean before lengths are cut at
    half the items.

    Raises:
        UsageError: if a size is too small or `out` exists and is not empty.
    """
    _check(out, users, items, mean_len)
    world = make_world(items, seed)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as temporary:
        source = Path(temporary) / "synth"
        source.mkdir()
        _write_movies(source / "movies.csv", world, seed)
        counts = _write_ratings(source / "ratings.csv", chunks(world, users, mean_len, seed), world)
        summary = {
            "parameters": {
                "users": users,
                "items": items,
                "mean_len": mean_len,
                "seed": seed,
                **_constants(),
            },
            "counts": counts,
            "law": law_quality(world, next(chunks(world, users, mean_len, seed))),
        }
        _write_truth(source / "truth.json", summary, world)
        _publish(source, out, fmt)
    return summary


def make_world(items: int, seed: int) -> World:
    """Draw popularity, fashions, successors and qualities of `items` items."""
    rng = np.random.default_rng([seed, 0])
    popularity_V = rng.permutation(1.0 / (np.arange(items) + ZIPF_SHIFT) ** ZIPF_EXPONENT)
    popularity_V /= popularity_V.sum()
    quarters_Q1 = np.arange(-(-SPAN_S // QUARTER_S))[:, None]
    height_V = rng.random(items) * len(quarters_Q1)
    fashion_QV = 1 + FASHION * np.exp(-0.5 * ((quarters_Q1 - height_V) / FASHION_QUARTERS) ** 2)
    fashion_QV *= popularity_V
    fashion_QV /= fashion_QV.sum(1, keepdims=True)
    return World(
        movie_ids_V=np.cumsum(1 + (rng.random(items) * 3).astype(np.int64)),
        popularity_V=popularity_V,
        fashion_QV=fashion_QV,
        successors_2VK=_draw_successors(popularity_V, rng),
        quality_V=3.5 + 0.5 * rng.standard_normal(items),
    )


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
    for number, first in enumerate(range(0, users, CHUNK_USERS)):
        rng = np.random.default_rng([seed, 1, number])
        lengths_U = _draw_lengths(
            min(CHUNK_USERS, users - first), mean_len, len(world.popularity_V) // 2, rng
        )
        times_T, returned_T = _draw_times(lengths_U, rng)
        items_T = _walk(world, lengths_U, times_T, returned_T, rng)
        yield Chunk(lengths_U, times_T, returned_T, items_T, _draw_ratings(world, lengths_U, items_T, rng))


def _draw_lengths(users: int, mean_len: int, most: int, rng: np.random.Generator) -> Array:
    """Draw MIN_LENGTH plus a log-normal number of events for each user, `most` at most."""
    extra_U = np.exp(LENGTH_SIGMA * rng.standard_normal(users) - LENGTH_SIGMA**2 / 2) * (
        mean_len - MIN_LENGTH
    )
    return np.minimum(MIN_LENGTH + np.rint(extra_U), most).astype(np.int64)


def _draw_times(lengths_U: Array, rng: np.random.Generator) -> tuple[Array, Array]:
    """Draw times and breaks; a user's first event counts as a break."""
    total = int(lengths_U.sum())
    share_G, shortest_G, longest_G = (np.array(column, float) for column in zip(*GAP_KINDS, strict=True))
    kind_T = np.searchsorted(np.cumsum(share_G)[:-1], rng.random(total), side="right")
    low_T, high_T = np.maximum(shortest_G, 1)[kind_T], np.maximum(longest_G, 1)[kind_T]
    gaps_T = low_T * (high_T / low_T) ** rng.random(total)
    pace_T = np.repeat(np.minimum(1.0, PACE_EVENTS / lengths_U), lengths_U)
    gaps_T = np.where(gaps_T >= BREAK_S, np.maximum(gaps_T * pace_T, BREAK_S), gaps_T)
    gaps_T = np.where(kind_T == 0, 0, np.rint(gaps_T)).astype(np.int64)
    first_U = np.cumsum(lengths_U) - lengths_U
    gaps_T[first_U] = (rng.random(len(lengths_U)) * SPAN_S).astype(np.int64)
    elapsed_T = np.cumsum(gaps_T)
    times_T = FIRST_TIME_S + elapsed_T - np.repeat(elapsed_T[first_U] - gaps_T[first_U], lengths_U)
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
    quarter_T = _quarters(world, times_T)
    seen_UV = np.zeros((users, len(world.popularity_V)), bool)
    cumulative_QV = _stacked_cumulative(world.fashion_QV)
    items_T = np.zeros(total, np.int64)
    for step, active in enumerate(active_L):
        at = first_U[:active] + step
        rows = np.arange(active)
        # At step 0 there is no previous event; `follows` is false there, so the row that is read does not matter.
        item, found = _successor(world, items_T[at - 1], returned_T[at], choice_T[at], seen_UV)
        lost = rows[~(found & follows_T[at])]
        while len(lost):
            item[lost] = _popular(cumulative_QV, quarter_T[at[lost]], rng)
            lost = lost[seen_UV[lost, item[lost]]]
        seen_UV[rows, item] = True
        items_T[at] = item
    return items_T


def _successor(
    world: World, last_B: Array, returned_B: Array, choice_B: Array, seen_UV: Array
) -> tuple[Array, Array]:
    """Choose an unseen successor for each of the first B users; the second result says who has one."""
    successors_BK = world.successors_2VK[returned_B.astype(np.int64), last_B]
    rows_B = np.arange(len(last_B))
    cumulative_BK = np.cumsum(SUCCESSOR_WEIGHTS * ~seen_UV[rows_B[:, None], successors_BK], 1)
    pick_B = (cumulative_BK <= (choice_B * cumulative_BK[:, -1])[:, None]).sum(1)
    return successors_BK[rows_B, np.minimum(pick_B, SUCCESSORS - 1)], cumulative_BK[:, -1] > 0


def _quarters(world: World, times_T: Array) -> Array:
    """Return the row of `fashion_QV` for each time."""
    return np.minimum((times_T - FIRST_TIME_S) // QUARTER_S, len(world.fashion_QV) - 1)


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


def _draw_ratings(world: World, lengths_U: Array, items_T: Array, rng: np.random.Generator) -> Array:
    """Draw ratings: quality of the item, leaning of the user, noise; rounded to half stars."""
    leaning_T = np.repeat(0.4 * rng.standard_normal(len(lengths_U)), lengths_U)
    stars_T = world.quality_V[items_T] + leaning_T + 0.7 * rng.standard_normal(len(items_T))
    return np.clip(np.rint(stars_T * 2) / 2, 0.5, 5.0)


def law_quality(world: World, chunk: Chunk) -> dict[str, float]:
    """Rank the last item of up to TRUTH_USERS users by the law that made it; nothing can be better on average.

    `*_with_gap` knows the gap before the last item, `*_without_gap` only how often breaks happen. Items that the user
    has rated are left out of the ranking. Both know the quarter.
    """
    ends_U = np.cumsum(chunk.lengths_U)[:TRUTH_USERS]
    starts_U = ends_U - chunk.lengths_U[:TRUTH_USERS]
    share_break = sum(share for share, shortest, _ in GAP_KINDS if shortest >= BREAK_S)
    ranks: dict[str, list[int]] = {"with_gap": [], "without_gap": []}
    for start, end in zip(starts_U, ends_U, strict=True):
        target, returned = chunk.items_T[end - 1], bool(chunk.returned_T[end - 1])
        history = chunk.items_T[start : end - 1]
        fashion_V = world.fashion_QV[_quarters(world, chunk.times_T[end - 1])]
        visit_V, break_V = (next_item_law(world, fashion_V, history, kind) for kind in (False, True))
        mixed_V = (1 - share_break) * visit_V + share_break * break_V
        for name, law_V in (("with_gap", break_V if returned else visit_V), ("without_gap", mixed_V)):
            ranks[name].append(int((law_V > law_V[target]).sum()))
    quality: dict[str, float] = {"users": len(ends_U)}
    for name, ranks_U in ranks.items():
        gains_U = [1 / np.log2(rank + 2) if rank < 10 else 0.0 for rank in ranks_U]
        quality[f"ndcg@10_{name}"] = round(float(np.mean(gains_U)), 4)
        quality[f"hr@10_{name}"] = round(float(np.mean(np.array(ranks_U) < 10)), 4)
    return quality


def next_item_law(world: World, fashion_V: Array, history: Array, returned: bool) -> Array:
    """Return the exact probability of each next item after `history`; rated items have 0."""
    law_V = fashion_V.copy()
    law_V[history] = 0.0
    law_V /= law_V.sum()
    successors_K = world.successors_2VK[int(returned), history[-1]]
    weights_K = SUCCESSOR_WEIGHTS * ~np.isin(successors_K, history)
    if weights_K.sum() > 0:
        law_V *= 1 - FOLLOW
        law_V[successors_K] += FOLLOW * weights_K / weights_K.sum()
    return law_V


def _check(out: Path, users: int, items: int, mean_len: int) -> None:
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
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out} exists and is not an empty folder; delete it or name another --out")


def _write_movies(path: Path, world: World, seed: int) -> None:
    """Write `movies.csv`: titles in MovieLens' manner (article behind a comma, year in brackets) and 1 to 3 genres."""
    rng = np.random.default_rng([seed, 2])
    titles, genres = [], []
    for movie_id, draw in zip(world.movie_ids_V, rng.random((len(world.movie_ids_V), 7)), strict=True):
        words = f"{ADJECTIVES[int(draw[0] * len(ADJECTIVES))]} {NOUNS[int(draw[1] * len(NOUNS))]} {movie_id}"
        article = ", The" if draw[2] < 0.3 else ""
        titles.append(f"{words}{article} ({1950 + int(draw[3] * 65)})")
        chosen = {GENRES[int(share * len(GENRES))] for share in draw[4:]}
        genres.append("|".join(sorted(chosen)))
    columns = {"movieId": pa.array(world.movie_ids_V), "title": pa.array(titles), "genres": pa.array(genres)}
    _write_csv(path, [pa.table(columns)])


def _write_ratings(path: Path, parts: Iterator[Chunk], world: World) -> dict[str, int]:
    """Write `ratings.csv` chunk by chunk and return the counts of users and ratings."""
    stars = pa.array([f"{half / 2}" for half in range(11)])
    counts = {"users": 0, "ratings": 0}

    def tables() -> Iterator[pa.Table]:
        for part in parts:
            user_ids_U = counts["users"] + 1 + np.arange(len(part.lengths_U))
            columns = {
                "userId": pa.array(np.repeat(user_ids_U, part.lengths_U)),
                "movieId": pa.array(world.movie_ids_V[part.items_T]),
                "rating": stars.take(pa.array((part.ratings_T * 2).astype(np.int64))),
                "timestamp": pa.array(part.times_T),
            }
            counts["users"] += len(part.lengths_U)
            counts["ratings"] += len(part.items_T)
            yield pa.table(columns)

    _write_csv(path, tables())
    return counts


def _write_csv(path: Path, tables: Iterator[pa.Table] | list[pa.Table]) -> None:
    """Write tables of one schema as a CSV file. The header is ours: pyarrow would quote it, GroupLens does not."""
    options = pa_csv.WriteOptions(include_header=False, quoting_style="needed")
    with path.open("wb") as stream:
        for number, table in enumerate(tables):
            if number == 0:
                stream.write((",".join(table.column_names) + "\n").encode())
            pa_csv.write_csv(table, stream, options)


def _write_truth(path: Path, summary: dict[str, Any], world: World) -> None:
    """Write `truth.json`: the summary, then for each movie its successors (movie ids, most likely first)."""
    within_VK, after_VK = world.movie_ids_V[world.successors_2VK]
    table = {
        str(movie): [within_K.tolist(), after_K.tolist()]
        for movie, within_K, after_K in zip(world.movie_ids_V, within_VK, after_VK, strict=True)
    }
    path.write_text(json.dumps({**summary, "successors": table}) + "\n", encoding="utf-8")


def _constants() -> dict[str, Any]:
    """Return the fixed parameters of the law, as `truth.json` names them."""
    return {
        "follow": FOLLOW,
        "successor_weights": SUCCESSOR_WEIGHTS.tolist(),
        "break_s": BREAK_S,
        "gap_kinds": GAP_KINDS,
        "zipf_exponent": ZIPF_EXPONENT,
        "fashion": FASHION,
    }


def _publish(source: Path, out: Path, fmt: Format) -> None:
    """Move the finished data set to `out`; nothing stands there before."""
    finished = source
    if fmt == "shards":
        from ss4rec.data.prepare import prepare

        finished = source.with_name("prepared")
        prepare(source, finished, k_core=5)
        shutil.copy(source / "truth.json", finished)
    finished.replace(out)
