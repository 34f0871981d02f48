"""From a protocol and users' events to what trains, what validates and what tests: pure functions on whole columns.

`divide` is the one place where a protocol meets events. It works on a shard as well as on a whole folder, since no user
lies in two shards; what it needs to know of the whole folder (`Rules`) is found once, by `ss4rec.protocol.plan`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ss4rec.data.batches.windows import Ranked, Split, list_array, ragged
from ss4rec.data.prepared.event_columns import Wanted
from ss4rec.data.sources.rows import CODES, CONTEXT
from ss4rec.data.ties import hash_order, hashed
from ss4rec.errors import DataError
from ss4rec.model.columns import EventColumn
from ss4rec.protocol.settings import Protocol, TargetChoice

IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]
MIN_TRAINING = 2
"""`global_time`: events up to the cut that a user needs to train; one makes no pair."""
HELD_OUT = 2
"""`leave_one_out`: events at the end of each history that never train."""


@dataclass(frozen=True)
class Events:
    """Events of some users, user after user, each in the order of the folder."""

    users_U: npt.NDArray[np.int32]
    """Index of each user in the folder."""
    offsets_U1: IntArray
    """First event of each user, and at the end the number of events."""
    items_E: npt.NDArray[np.int32]
    times_E: IntArray
    """Unix seconds."""
    ratings_E: npt.NDArray[np.float32]
    context: dict[str, npt.NDArray[Any]] = field(default_factory=dict)
    """Columns about the event, as shards hold them."""

    @classmethod
    def of(cls, shard: pa.Table) -> Events:
        """Take the columns of a shard."""
        items_E, offsets_U1 = ragged(shard["items"])
        times_E, ratings_E = ragged(shard["timestamps"])[0], ragged(shard["ratings"])[0]
        names = [name for name in shard.column_names if name.startswith(CONTEXT)]
        context = {name: ragged(shard[name])[0] for name in names}
        return cls(shard["user"].to_numpy(), offsets_U1, items_E, times_E, ratings_E, context)

    @property
    def counts_U(self) -> IntArray:
        """Events of each user."""
        return np.diff(self.offsets_U1)

    @property
    def row_E(self) -> IntArray:
        """Place of each event's user among `users_U`."""
        return np.repeat(np.arange(len(self.users_U)), self.counts_U)

    @property
    def user_E(self) -> npt.NDArray[np.int32]:
        """Index in the folder of each event's user."""
        return np.repeat(self.users_U, self.counts_U)

    def keep(self, keep_E: BoolArray) -> Events:
        """Return these events only; a user without any stays, with none."""
        offsets_U1 = np.concatenate([[0], np.cumsum(keep_E)])[self.offsets_U1]
        return replace(self.at(keep_E), offsets_U1=offsets_U1)

    def at(self, place_E: npt.NDArray[Any]) -> Events:
        """Return the events at some places, or those of a mask; the users' bounds are as before."""
        return replace(
            self,
            items_E=self.items_E[place_E],
            times_E=self.times_E[place_E],
            ratings_E=self.ratings_E[place_E],
            context={name: values_E[place_E] for name, values_E in self.context.items()},
        )

    def told(self, codes: Mapping[str, npt.NDArray[np.int32]]) -> pa.Table:
        """Return the events as a shard that says what a model is told of them (`EventColumn.codes`), by column."""
        table = replace(self, context={}).table()
        for name, codes_E in codes.items():
            table = table.append_column(CODES + name, list_array(codes_E, self.offsets_U1))
        return table

    def table(self) -> pa.Table:
        """Return the events as a shard."""
        columns: dict[str, npt.NDArray[Any]] = {
            "items": self.items_E,
            "timestamps": self.times_E,
            "ratings": self.ratings_E,
            **self.context,
        }
        lists = {name: list_array(values_E, self.offsets_U1) for name, values_E in columns.items()}
        return pa.table({"user": self.users_U, **lists})


@dataclass(frozen=True)
class Rules:
    """What a protocol means for one folder; small enough to be sent wherever shards are read.

    Masks by user or item have an entry for each user or item of the folder (items: with padding, entry 0). None: all.
    """

    protocol: Protocol
    cut_s: int | None = None
    """Last second of training and validation."""
    valid_cut_s: int | None = None
    """`validation=time`: last second of training."""
    users_N: BoolArray | None = None
    """Users whose events count at all (k-core before the cut)."""
    items_V: BoolArray | None = None
    """Items whose events count at all (k-core before the cut)."""
    train_users_N: BoolArray | None = None
    """Users in the k-core after the cut."""
    train_items_V: BoolArray | None = None
    """Items in the k-core after the cut."""
    withheld_N: BoolArray | None = None
    """`validation=user`: users who do not train. `held_out_users`: those whose last events are held out."""
    index_V: npt.NDArray[np.int32] | None = None
    """The model's index of each item of the folder, 0 for items that it does not know. None: the folder's own."""
    trained: int | None = None
    """The model's items 1 to this number have training events; the others are known by their features alone. None: all
    have."""

    context: tuple[EventColumn, ...] = ()
    """Columns about the event that the model reads."""
    wanted: Wanted | None = None
    """Which events are targets; None: all."""

    def is_wanted(self, events: Events) -> BoolArray:
        """Return which events may be targets."""
        if self.wanted is None:
            return np.ones(len(events.items_E), bool)
        wanted_E: BoolArray = np.isin(events.context[CONTEXT + self.wanted[0]], self.wanted[1])
        return wanted_E

    def cold(self, items_X: npt.NDArray[np.int32]) -> BoolArray:
        """Return which of the model's items have no training events."""
        unknown_X = items_X == 0
        return np.asarray(unknown_X if self.trained is None else unknown_X | (items_X > self.trained))


@dataclass(frozen=True)
class Targets(Ranked):
    """Events that are ranked, by user and time."""

    source_N: npt.NDArray[np.int32]
    """The folder's own index of the target, of an item that never trained too."""

    def counts(self, users: int) -> IntArray:
        """Return the targets of each of `users` users."""
        return np.bincount(self.row_N, minlength=users)


@dataclass(frozen=True)
class Division:
    """A shard as a protocol divides it."""

    histories: pa.Table
    """A shard of the events whose items the model knows, by its own indices. Columns about the event that the model
    reads are lists of whole numbers (`EventColumn.codes`); `wanted` says which events are targets, unless all are."""
    fit_U: IntArray
    """Events at the begin of each history that train."""
    valid: Targets
    test: Targets

    def targets(self, split: Split) -> Targets:
        """Return the targets of a split."""
        return self.valid if split == "valid" else self.test


def arrange(events: Events, protocol: Protocol) -> Events:
    """Put events of one second in order and leave immediate repeats out, as the protocol says."""
    if protocol.ties == "hash":
        order_E = hash_order(events.user_E, events.items_E, events.times_E)
        if (np.diff(events.users_U) < 0).any():
            raise ValueError("users must be in ascending order")
        events = events.at(order_E)
    if protocol.repeats == "drop" and len(events.items_E):
        row_E = events.row_E
        again_E = (events.items_E[1:] == events.items_E[:-1]) & (row_E[1:] == row_E[:-1])
        events = events.keep(~np.concatenate([[False], again_E]))
    return events


def counted(events: Events, rules: Rules) -> Events:
    """Return the events that count, in the protocol's order: `arrange`, then the k-core before the cut."""
    events = arrange(events, rules.protocol)
    if rules.users_N is None or rules.items_V is None:
        return events
    return events.keep(rules.users_N[events.user_E] & rules.items_V[events.items_E])


@dataclass(frozen=True)
class Parts:
    """Which counted events belong to which part, `global_time`."""

    train_E: BoolArray
    """Up to the cut, of users who have enough of them: what trains or validates."""
    fit_E: BoolArray
    """What trains."""
    valid_E: BoolArray
    """What may be ranked to choose the model."""
    test_E: BoolArray
    """What may be ranked in the test."""


def parts(events: Events, rules: Rules) -> Parts:
    """Divide counted events by `global_time`."""
    protocol, row_E, users = rules.protocol, events.row_E, len(events.users_U)
    assert rules.cut_s is not None

    def enough(chosen_E: BoolArray, minimum: int) -> BoolArray:
        """Leave out the events of users who have too few of the chosen ones."""
        return chosen_E & (np.bincount(row_E[chosen_E], minlength=users) >= minimum)[row_E]

    past_E = events.times_E <= rules.cut_s
    train_E = past_E
    if rules.train_users_N is not None and rules.train_items_V is not None:
        train_E = past_E & rules.train_users_N[events.user_E] & rules.train_items_V[events.items_E]
    train_E = enough(train_E, MIN_TRAINING)
    fit_E, valid_E = train_E, np.zeros_like(train_E)
    if protocol.validation == "time" and rules.valid_cut_s is not None:
        early_E = events.times_E <= rules.valid_cut_s
        fit_E, valid_E = enough(train_E & early_E, MIN_TRAINING), train_E & ~early_E
    elif protocol.validation == "user" and rules.withheld_N is not None:
        valid_E = train_E & rules.withheld_N[events.user_E]
        fit_E = train_E & ~valid_E
    elif protocol.validation == "last_train_item":
        places = np.flatnonzero(train_E)
        last_E = np.zeros_like(train_E)
        last_E[places[np.append(np.diff(row_E[places]) > 0, True)] if len(places) else places] = True
        fit_E, valid_E = enough(train_E & ~last_E, MIN_TRAINING), last_E
    if protocol.refit:
        fit_E = train_E
    return Parts(train_E, fit_E, valid_E, ~past_E)


def divide(shard: pa.Table, rules: Rules) -> Division:
    """Return what of a shard trains, validates and tests.

    Raises:
        DataError: leave-one-out of a prepared folder as it is, if a user has fewer than 3 events.
    """
    division = (_leave_one_out if rules.protocol.kind == "leave_one_out" else _global_time)(shard, rules)
    histories = division.histories
    names = [name for name in histories.column_names if name.startswith(CONTEXT)]
    if not names:
        return division
    own = Events.of(histories)
    told = {column.name: column.codes(own.context[CONTEXT + column.name]) for column in rules.context}
    histories = own.told(told)
    if rules.wanted is not None:
        histories = histories.append_column("wanted", list_array(rules.is_wanted(own), own.offsets_U1))
    return replace(division, histories=histories)


def _global_time(shard: pa.Table, rules: Rules) -> Division:
    """Divide by moments that are the same for all users."""
    protocol, events = rules.protocol, counted(Events.of(shard), rules)
    part = parts(events, rules)
    index_E = _index(events, rules)
    known_E = index_E > 0
    before_E1 = np.concatenate([[0], np.cumsum(known_E)])
    history_E = before_E1[:-1] - before_E1[events.offsets_U1[:-1]][events.row_E]
    enough_E = (history_E >= protocol.min_history) & rules.is_wanted(events)
    histories = replace(events, items_E=index_E).keep(known_E)
    valid_choice: TargetChoice = (
        "last" if protocol.validation == "last_train_item" else protocol.validation_targets
    )

    def targets(allowed_E: BoolArray, choice: TargetChoice) -> Targets:
        places_N = choose(events, allowed_E & enough_E, choice, protocol.seed)
        row_N, end_N = events.row_E[places_N], history_E[places_N]
        return Targets(row_N, end_N, index_E[places_N], events.times_E[places_N], events.items_E[places_N])

    return Division(
        histories.table(),
        np.bincount(events.row_E[part.fit_E], minlength=len(events.users_U)),
        targets(part.valid_E, valid_choice),
        targets(part.test_E, protocol.targets),
    )


def choose(events: Events, allowed_E: BoolArray, choice: TargetChoice, seed: int) -> IntArray:
    """Return the places of the allowed events that are ranked, rising."""
    places = np.flatnonzero(allowed_E)
    if choice == "successive" or not len(places):
        return places
    row_P = events.row_E[places]
    firsts = np.flatnonzero(np.append(True, np.diff(row_P) > 0))
    counts = np.diff(np.append(firsts, len(places)))
    if choice == "first":
        return places[firsts]
    if choice == "last":
        return np.asarray(places[firsts + counts - 1])
    drawn = hashed(events.users_U[row_P[firsts]], np.full(len(firsts), seed))
    return np.asarray(places[firsts + (drawn % counts.astype(np.uint64)).astype(np.int64)])


def _leave_one_out(shard: pa.Table, rules: Rules) -> Division:
    """Hold out the last two events of each user who has three."""
    events, protocol = Events.of(shard), rules.protocol
    as_it_is = rules.index_V is None and rules.users_N is None and rules.wanted is None
    if not (as_it_is and protocol.ties != "hash" and protocol.repeats == "keep"):
        events = counted(events, rules)
        shard = replace(events, items_E=_index(events, rules)).table()
    elif rules.withheld_N is None and (short_U := events.counts_U < HELD_OUT + 1).any():
        row = int(np.argmax(short_U))
        raise DataError(
            f"user {events.users_U[row]} has {events.counts_U[row]} events; leave-one-out needs 3: "
            "prepare the data again with a k-core of at least 3"
        )
    index_E = _index(events, rules)
    fit_U, row_N, valid_N, test_N = held_out(events, rules)

    def targets(places_N: IntArray) -> Targets:
        columns = (index_E[places_N], events.times_E[places_N], events.items_E[places_N])
        return Targets(row_N, places_N - events.offsets_U1[row_N], *columns)

    return Division(shard, fit_U, targets(valid_N), targets(test_N))


def held_out(events: Events, rules: Rules) -> tuple[IntArray, IntArray, IntArray, IntArray]:
    """Return what leave-one-out holds out: each user's last wanted event tests, the one before it validates.

    Returns:
        Events of each user that train; rows of the users who have enough; places of their validation and test events.
    """
    counts_U = events.counts_U
    chosen_U = np.ones(len(counts_U), bool) if rules.withheld_N is None else rules.withheld_N[events.users_U]
    if rules.wanted is None:
        row_N = np.flatnonzero(chosen_U & (counts_U > HELD_OUT))
        ends_N = events.offsets_U1[1:][row_N]
        return np.where(chosen_U, np.maximum(counts_U - HELD_OUT, 0), counts_U), row_N, ends_N - 2, ends_N - 1
    # What comes before a user's second event has no history to be ranked from.
    place_E = np.arange(len(events.items_E)) - np.repeat(events.offsets_U1[:-1], counts_U)
    places = np.flatnonzero(rules.is_wanted(events) & (place_E > 0))
    ends_U = np.searchsorted(places, events.offsets_U1[1:])
    enough_U = ends_U - np.searchsorted(places, events.offsets_U1[:-1]) >= HELD_OUT
    row_N = np.flatnonzero(chosen_U & enough_U)
    valid_N, test_N = places[ends_U[row_N] - 2], places[ends_U[row_N] - 1]
    fit_U = counts_U.copy()
    fit_U[row_N] = place_E[valid_N]
    return fit_U, row_N, valid_N, test_N


def _index(events: Events, rules: Rules) -> npt.NDArray[np.int32]:
    """Return the model's item of each event, 0 for items that never train."""
    return events.items_E if rules.index_V is None else rules.index_V[events.items_E]
