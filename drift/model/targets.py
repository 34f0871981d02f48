"""Which events a model is asked for, and the histories that lead to them: up to 20 events per user in one causal pass.

A target is ranked from everything that the user did before it. A model that is causal gives the state after each event
of a history in one pass over it, so all targets of a user cost little more than one.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from drift.calendar import Window, window_of
from drift.model.names import BEFORE_CUT
from ss4rec.config import DataConfig
from ss4rec.data.batches.batch import Histories
from ss4rec.data.batches.windows import HOUR_S, ragged
from ss4rec.data.prepared.event_columns import Wanted, told_of
from ss4rec.data.prepared.manifest import Feature
from ss4rec.data.sources.rows import CONTEXT
from ss4rec.model.columns import EVENT_CODES, EventColumn

MIN_HISTORY = 2


@dataclass(frozen=True)
class TargetChoice:
    """What is ranked, and from what."""

    data: DataConfig
    windows: list[Window]
    users: dict[int, NDArray[np.int64]]
    """User indices that are ranked in each window; `BEFORE_CUT` for the held-out events before it."""
    cut_s: int
    vocabulary: int
    per_user: int = 20
    """Maximum targets per user and window."""
    reference_s: int = 0
    """Held-out events count from this second on."""
    remap_V: NDArray[np.int32] | None = None
    """The model's index of each item of the timeline, vocabulary + 1 for those it does not know; None: the same."""
    told: tuple[EventColumn, ...] = ()
    """Columns about events that the model reads."""
    context: tuple[Feature, ...] = ()
    """What the timeline's columns about events mean."""
    wanted: Wanted | None = None
    """Which events are targets; None: all. The others are history."""


@dataclass(frozen=True)
class Pass:
    """One history that is encoded once, in the model's own items: tokens, and which of them lead to a target."""

    items_T: NDArray[np.int64]
    times_T: NDArray[np.int64]
    """One more than there are items: the time of the event after the last token, for the gap to it."""
    ratings_T: NDArray[np.float32]
    first_gap_s: int
    """Seconds before the first token."""
    at_R: NDArray[np.int64]
    """The last token before each target."""
    codes_TC: NDArray[np.int64]
    """What the model is told of each token beside its item, as in `PackedBatch.profiles_TF`."""


@dataclass
class Targets:
    """Targets of some users; lists grow together."""

    user: list[int] = field(default_factory=list)
    window: list[int] = field(default_factory=list)
    event_s: list[int] = field(default_factory=list)
    """Time of the target."""
    item: list[int] = field(default_factory=list)
    """The model's index, 0 for an item outside its vocabulary."""
    known: list[bool] = field(default_factory=list)
    """Whether the user had an event by the cut."""
    history: list[int] = field(default_factory=list)
    """Known events before the target."""
    seen: list[NDArray[np.int64]] = field(default_factory=list)
    """Known items before the target."""
    passes: list[tuple[Pass, list[int]]] = field(default_factory=list)
    """Histories, each with the rows that it leads to; rows of unseen items are in none."""

    def __len__(self) -> int:
        return len(self.user)


def chosen_users(shard: pa.Table, choice: TargetChoice) -> pa.Table:
    """Return the histories of a shard's users who are to be ranked, in their order."""
    anyone = np.concatenate([np.zeros(0, np.int64), *choice.users.values()])
    mask = pa.array(np.isin(shard["user"].to_numpy(), anyone))
    return shard.filter(mask).combine_chunks()


def choose_targets(shard: pa.Table, choice: TargetChoice) -> list[Targets]:
    """Return the targets of each user of a shard who is to be ranked, one entry per user."""
    (items_E, offsets_U1), (times_E, _), (ratings_E, _) = (
        ragged(shard[name]) for name in ("items", "timestamps", "ratings")
    )
    if choice.remap_V is not None:
        items_E = choice.remap_V[items_E]
    codes_EC, wanted_E = _codes(shard, choice), _wanted(shard, choice)
    window_E = window_of(times_E, choice.windows)
    wanted = {window: set(users.tolist()) for window, users in choice.users.items()}
    anyone = set().union(*wanted.values()) if wanted else set()
    found = []
    for user, start, stop in zip(shard["user"].to_pylist(), offsets_U1[:-1], offsets_U1[1:], strict=True):
        if user not in anyone:
            continue
        part = slice(start, stop)
        history = _History(
            items_E[part], times_E[part], ratings_E[part], codes_EC[part], wanted_E[part], choice
        )
        made = Targets()
        for window in sorted(window for window in wanted if user in wanted[window]):
            inside_E = (window_E[part] == window) & wanted_E[part]
            places = history.held_out() if window == BEFORE_CUT else np.flatnonzero(inside_E)
            history.add(made, user, window, spread(places, choice.per_user))
        if len(made):
            found.append(made)
    return found


def _codes(shard: pa.Table, choice: TargetChoice) -> NDArray[np.int64]:
    """Return what a model is told of each event, a column for each that it reads."""
    context = {name: ragged(shard[name])[0] for name in shard.column_names if name.startswith(CONTEXT)}
    told = told_of(choice.told, context, choice.context)
    codes = [np.where(codes_E > 0, codes_E + EVENT_CODES, 0) for codes_E in told.values()]
    events = len(ragged(shard["items"])[0])
    return np.stack(codes, axis=1).astype(np.int64) if codes else np.zeros((events, 0), np.int64)


def _wanted(shard: pa.Table, choice: TargetChoice) -> NDArray[np.bool_]:
    """Return which events are targets."""
    if choice.wanted is None:
        return np.ones(len(ragged(shard["items"])[0]), bool)
    column, codes = choice.wanted
    return np.isin(ragged(shard[CONTEXT + column])[0], codes)


def spread(places_N: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Return up to `count` of the places, evenly spread; the same ones every time."""
    if len(places_N) <= count:
        return places_N
    return np.asarray(places_N[(np.arange(count) * len(places_N) + len(places_N) // 2) // count])


class _History:
    """One user's events, and those of them that the model knows."""

    def __init__(
        self,
        items_E: NDArray[Any],
        times_E: NDArray[Any],
        ratings_E: NDArray[Any],
        codes_EC: NDArray[np.int64],
        wanted_E: NDArray[np.bool_],
        choice: TargetChoice,
    ) -> None:
        self.items_E, self.times_E, self.wanted_E, self.choice = items_E, times_E, wanted_E, choice
        self.known_E = items_E <= choice.vocabulary
        self.before_E: NDArray[np.int64] = np.cumsum(self.known_E) - self.known_E
        self.items_K, self.times_K = items_E[self.known_E].astype(np.int64), times_E[self.known_E]
        self.ratings_K, self.codes_KC = ratings_E[self.known_E], codes_EC[self.known_E]

    def held_out(self) -> NDArray[np.int64]:
        """Return the last known event by the cut, which no training sees, if it is late enough."""
        before_E = self.known_E & (self.times_E <= self.choice.cut_s)
        places = np.flatnonzero(before_E & self.wanted_E)
        if before_E.sum() <= MIN_HISTORY or not len(places):
            return places[:0]
        return places[-1:] if self.times_E[places[-1]] >= self.choice.reference_s else places[:0]

    def add(self, made: Targets, user: int, window: int, places: NDArray[np.int64]) -> None:
        """Add the targets at these places of the history."""
        rows, positions = [], []
        for place in places.tolist():
            position = int(self.before_E[place])
            if position < MIN_HISTORY:
                continue
            known = bool(self.known_E[place])
            if known:
                rows.append(len(made))
                positions.append(position)
            made.user.append(user)
            made.window.append(window)
            made.event_s.append(int(self.times_E[place]))
            made.item.append(int(self.items_E[place]) if known else 0)
            made.known.append(bool(self.times_E[0] <= self.choice.cut_s))
            made.history.append(position)
            made.seen.append(self.items_K[:position])
        for first, last in _groups(positions, self.choice.data.max_len):
            made.passes.append((self._pass(positions[first:last]), rows[first:last]))

    def _pass(self, positions: list[int]) -> Pass:
        """Return the history that leads to these positions; the first target has `max_len` events before it."""
        start, stop = max(0, positions[0] - self.choice.data.max_len), positions[-1]
        before_s = int(self.times_K[start] - self.times_K[start - 1]) if start else 0
        return Pass(
            self.items_K[start:stop],
            self.times_K[start : stop + 1],
            self.ratings_K[start:stop],
            before_s,
            np.array(positions) - 1 - start,
            self.codes_KC[start:stop],
        )


def _groups(positions: list[int], max_len: int) -> list[tuple[int, int]]:
    """Cut rising positions into groups that span at most `max_len`, so that no pass is longer than twice that."""
    groups, first = [], 0
    for number, position in enumerate(positions):
        if position - positions[first] > max_len:
            groups.append((first, number))
            first = number
    return [*groups, (first, len(positions))] if positions else []


def pack(
    passes: list[Pass], users: list[int], target_time: bool, profiles_UF: NDArray[Any] | None
) -> Histories:
    """Pack histories as a model takes them; what each target has seen is given apart."""
    lengths = [len(one.items_T) for one in passes]
    offsets_S1 = np.concatenate([[0], np.cumsum(lengths)])
    gaps, hours = [], []
    for one in passes:
        after_T = np.diff(one.times_T)
        gaps.append(after_T if target_time else np.r_[one.first_gap_s, after_T[:-1]])
        hours.append((one.times_T[1:] if target_time else one.times_T[:-1]) // HOUR_S)
    codes_SF = np.zeros((len(users), 0), np.int64) if profiles_UF is None else profiles_UF[users]
    profiles_TF = np.repeat(codes_SF.astype(np.int64), lengths, axis=0)
    codes_TC = np.concatenate([one.codes_TC[: len(one.items_T)] for one in passes])
    profiles_TF = np.concatenate([profiles_TF, codes_TC], axis=1)
    empty = torch.zeros(0, dtype=torch.int64)
    return Histories(
        items_T=torch.from_numpy(np.concatenate([one.items_T for one in passes])),
        gaps_T=torch.from_numpy(np.concatenate(gaps).astype(np.float32)),
        hours_T=torch.from_numpy(np.concatenate(hours).astype(np.int64)),
        ratings_T=torch.from_numpy(np.concatenate([one.ratings_T for one in passes]).astype(np.float32)),
        profiles_TF=torch.from_numpy(profiles_TF),
        offsets_S1=torch.from_numpy(offsets_S1.astype(np.int64)),
        seen_X=empty,
        seen_offsets_S1=torch.zeros(len(passes) + 1, dtype=torch.int64),
    )
