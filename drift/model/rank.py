"""Ranks of all targets by the model and by everything that it is compared with, and what the model recommends."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from torch import Tensor

from drift.model.count_ranks import Seen, count_ranks, follower_ranks
from drift.model.names import FOLLOW, FROZEN, MODEL, RANKINGS, ROLLING, SHUFFLED, K
from drift.model.targets import Pass, TargetChoice, Targets, choose_targets, chosen_users, pack
from ss4rec.evaluation.ranks import target_ranks
from ss4rec.model.habits import Asked
from ss4rec.model.item_scores import ItemScores
from ss4rec.model.last_state import Encoder, encode_all, encode_last, events_of

BATCH_USERS = 32


@dataclass(frozen=True)
class Baselines:
    """What a model is compared with."""

    frozen_V: NDArray[np.int64]
    """Events of the past by item of the vocabulary; entry 0 is padding."""
    rolling_WV: dict[int, NDArray[np.int64]]
    """Events before each window (`drift.calendar.LOOKBACK`)."""
    follow_VV: csr_matrix
    """`drift.model.followers.count_pairs` of the past."""


@dataclass(frozen=True)
class RankTask:
    """What a worker needs besides the model."""

    choice: TargetChoice
    seed: int
    baselines: Baselines | None = None
    """None: rank by the model alone."""
    profiles_UF: NDArray[np.int32] | None = None
    """Codes of the timeline's users (`ss4rec.data.prepared.user_profiles`), if the data has them."""
    genres_VG: NDArray[np.uint8] | None = None
    """Genres of the model's items, for the calibration of its lists."""


def rank_shard(
    model: Encoder, shard: pa.Table, task: RankTask, part: tuple[int, int] = (0, 1)
) -> pa.Table | None:
    """Rank the targets of a shard's users; a row for each target, None without any.

    Args:
        model: the model.
        shard: histories.
        task: who is ranked for, and what else is ranked with.
        part: which of how many equal parts of the shard's batches. Batches are the same in any number of parts, and the
            tables of all parts, in their order, are that of the whole.

    Returns:
        `user`, `window`, `event_s`, `unseen`, `known`, `history`; ranks by name of `RANKINGS` (infinite for unseen
        items; the model's alone without baselines; `shuffled` for the last target of a user and window alone). On the
        same last targets: `top10` items, `top10_mass` and `entropy` of the softmax (float64), `hidden` state, and of
        the list `list_popularity`, `novelty` and `miscalibration`. Null elsewhere.
    """
    return rank_chosen(model, chosen_users(shard, task.choice), task, part)


def rank_chosen(
    model: Encoder, chosen: pa.Table, task: RankTask, part: tuple[int, int] = (0, 1)
) -> pa.Table | None:
    """Rank the targets of histories from `chosen_users`; see `rank_shard`."""
    number, count = part
    every = range(0, chosen.num_rows, BATCH_USERS)
    starts = every[number * len(every) // count : (number + 1) * len(every) // count]
    batches = (choose_targets(chosen.slice(at, BATCH_USERS), task.choice) for at in starts)
    tables = [rank(model, users, task) for users in batches if users]
    return pa.concat_tables(tables) if tables else None


@torch.inference_mode()
def rank(model: Encoder, users: list[Targets], task: RankTask) -> pa.Table:
    """Rank the targets of some users; see `rank_shard`."""
    flat = _flatten(users)
    targets_R = np.array(flat.item, np.int64)
    ranks = {name: np.full(len(flat), np.inf) for name in RANKINGS}
    extras: dict[int, dict[str, Any]] = {}
    if flat.passes:
        passes = [one for one, _ in flat.passes]
        rows_Q = np.concatenate([rows for _, rows in flat.passes]).astype(np.int64)
        hidden_QD, asked, last_Q = _states(model, flat, passes, task)
        own_Q = targets_R[rows_Q]
        scores = _scores(model, hidden_QD, [flat.seen[row] for row in rows_Q], asked)
        ranks[MODEL][rows_Q] = target_ranks(scores, torch.from_numpy(own_Q))[1].numpy()
        final_Q = _final(flat, rows_Q)
        if task.baselines is not None:
            _rank_baselines(ranks, flat, rows_Q, last_Q, task.baselines)
            ranks[SHUFFLED][rows_Q[final_Q]] = _shuffled_ranks(model, flat, rows_Q[final_Q], task)
        chosen = torch.from_numpy(final_Q)
        asked = replace(asked, last_S=asked.last_S[chosen])
        extras = _lists(model, hidden_QD[chosen], asked, flat, rows_Q[final_Q], task)
    return _table(flat, ranks, extras, task.baselines is not None)


def _flatten(users: list[Targets]) -> Targets:
    """Put the targets of several users into one list."""
    flat = Targets()
    for one in users:
        first = len(flat)
        for name in ("user", "window", "event_s", "item", "known", "history", "seen"):
            getattr(flat, name).extend(getattr(one, name))
        flat.passes.extend((made, [first + row for row in rows]) for made, rows in one.passes)
    return flat


def _states(
    model: Encoder, flat: Targets, passes: list[Pass], task: RankTask
) -> tuple[Tensor, Asked, NDArray[np.int64]]:
    """Return the state before each target, after which event it is, and that event's item, as the passes stand."""
    users = [flat.user[rows[0]] for _, rows in flat.passes]
    packed = pack(passes, users, task.choice.data.target_time, task.profiles_UF)
    starts = packed.offsets_S1[:-1].numpy()
    at_Q = np.concatenate([start + one.at_R for start, one in zip(starts, passes, strict=True)])
    asked = Asked(events_of(packed), torch.from_numpy(at_Q))
    return encode_all(model, packed)[asked.last_S], asked, packed.items_T.numpy()[at_Q]


def _scores(model: Encoder, hidden_QD: Tensor, seen: list[NDArray[np.int64]], asked: Asked) -> ItemScores:
    offsets = np.concatenate([[0], np.cumsum([len(items) for items in seen])])
    return model.scores(hidden_QD, torch.from_numpy(np.concatenate(seen)), torch.from_numpy(offsets), asked)


def _final(flat: Targets, rows_Q: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the place of the last ranked target of each user and window."""
    last = {(flat.user[row], flat.window[row]): place for place, row in enumerate(rows_Q.tolist())}
    return np.array(sorted(last.values()), np.int64)


def _rank_baselines(
    ranks: dict[str, NDArray[Any]],
    flat: Targets,
    rows_Q: NDArray[Any],
    last_Q: NDArray[Any],
    baselines: Baselines,
) -> None:
    """Fill in the ranks by popularity and followers."""
    own_Q = np.array(flat.item, np.int64)[rows_Q]
    width = len(baselines.frozen_V)
    seen = [flat.seen[row] for row in rows_Q]
    together = Seen.of(seen, own_Q, width)
    ranks[FROZEN][rows_Q] = count_ranks(baselines.frozen_V, own_Q, together)
    ranks[FOLLOW][rows_Q] = follower_ranks(baselines.follow_VV, baselines.frozen_V, last_Q, own_Q, together)
    window_Q = np.array(flat.window)[rows_Q]
    for window in np.unique(window_Q).tolist():
        chosen = np.flatnonzero(window_Q == window)
        part = Seen.of([seen[place] for place in chosen], own_Q[chosen], width)
        ranks[ROLLING][rows_Q[chosen]] = count_ranks(baselines.rolling_WV[window], own_Q[chosen], part)


def _shuffled_ranks(model: Encoder, flat: Targets, rows: NDArray[np.int64], task: RankTask) -> NDArray[Any]:
    """Rank with the items of each history in random order; times stay. Who loses nothing by it ignores order."""
    passes, of_row = [], {row: one for one, group in flat.passes for row in group}
    place = {row: at for one, group in flat.passes for row, at in zip(group, one.at_R, strict=True)}
    for row in rows.tolist():
        one, stop = of_row[row], int(place[row]) + 1
        rng = np.random.default_rng([task.seed, flat.event_s[row], flat.history[row]])
        items_T = rng.permutation(one.items_T[:stop])
        passes.append(
            replace(
                one,
                items_T=items_T,
                times_T=one.times_T[: stop + 1],
                ratings_T=one.ratings_T[:stop],
                codes_TC=one.codes_TC[:stop],
                at_R=np.array([stop - 1]),
            )
        )
    packed = pack(passes, [flat.user[row] for row in rows], task.choice.data.target_time, task.profiles_UF)
    asked = Asked.after(events_of(packed))
    scores = _scores(model, encode_last(model, packed), [flat.seen[row] for row in rows], asked)
    return target_ranks(scores, torch.tensor([flat.item[row] for row in rows]))[1].numpy()


def _lists(
    model: Encoder, hidden_SD: Tensor, asked: Asked, flat: Targets, rows: NDArray[np.int64], task: RankTask
) -> dict[int, dict[str, Any]]:
    """Return what the model recommends to each user, and how sure it is."""
    scores = _scores(model, hidden_SD, [flat.seen[row] for row in rows], asked)
    chance_SV = torch.softmax(scores.matrix().double(), dim=1)
    mass_S = chance_SV.topk(min(K, chance_SV.shape[1]), dim=1).values.sum(1)
    entropy_S = torch.special.entr(chance_SV).sum(1)
    items_SK = scores.top(K, exclude_seen=True)[1].numpy()
    found = {}
    for s, row in enumerate(rows.tolist()):
        found[row] = {
            "top10": items_SK[s].astype(np.int32),
            "top10_mass": float(mass_S[s]),
            "entropy": float(entropy_S[s]),
            "hidden": hidden_SD[s].float().numpy(),
            **_list_figures(items_SK[s], flat.seen[row], task),
        }
    return found


def _list_figures(items_K: NDArray[Any], history: NDArray[Any], task: RankTask) -> dict[str, float | None]:
    """Return popularity (mean percentile), novelty (mean bits) and miscalibration (KL of genres) of a list.

    Novelty is -log2 of the item's share of past events (Vargas & Castells 2011); miscalibration is the divergence of
    the list's genres from the history's, smoothed with 1 % of the latter (Steck 2018).
    """
    found: dict[str, float | None] = dict.fromkeys(("list_popularity", "novelty", "miscalibration"))
    if task.baselines is not None:
        counts_V = task.baselines.frozen_V
        rising = np.sort(counts_V[1:])
        found["list_popularity"] = float(np.searchsorted(rising, counts_V[items_K]).mean() / len(rising))
        share_K = np.maximum(counts_V[items_K], 0.5) / max(counts_V.sum(), 1)
        found["novelty"] = float(-np.log2(share_K).mean())
    if task.genres_VG is not None and task.genres_VG.shape[1] > 1:
        mixes = []
        for items in (history, items_K):
            genres_XG = task.genres_VG[items].astype(float)
            mixes.append((genres_XG / np.maximum(genres_XG.sum(axis=1, keepdims=True), 1)).mean(axis=0))
        own_G, given_G = mixes[0], 0.99 * mixes[1] + 0.01 * mixes[0]
        has_G = own_G > 0
        found["miscalibration"] = float((own_G[has_G] * np.log2(own_G[has_G] / given_G[has_G])).sum())
    return found


def _table(
    flat: Targets, ranks: dict[str, NDArray[Any]], extras: dict[int, Any], with_baselines: bool
) -> pa.Table:
    """Return the table that `rank_shard` describes."""
    columns: dict[str, Any] = {
        "user": pa.array(flat.user, pa.int64()),
        "window": pa.array(flat.window, pa.int32()),
        "event_s": pa.array(flat.event_s, pa.int64()),
        "unseen": pa.array(np.array(flat.item) == 0),
        "known": pa.array(flat.known, pa.bool_()),
        "history": pa.array(flat.history, pa.int64()),
    }
    names = RANKINGS if with_baselines else (MODEL,)
    columns |= {name: pa.array(ranks[name]) for name in names}
    lists = {"top10": pa.list_(pa.int32()), "hidden": pa.list_(pa.float32())}
    figures = ("top10_mass", "entropy", "list_popularity", "novelty", "miscalibration")
    for name in (*lists, *figures):
        values = [extras.get(row, {}).get(name) for row in range(len(flat))]
        columns[name] = pa.array(values, lists.get(name, pa.float64()))
    return pa.table(columns)
