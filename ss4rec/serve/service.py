"""Model, states and store together: what the web application does, without a network.

States are made from the store when they are asked for: the events since the last time are taken in one by one; a user
who is new here, has late events or many new ones is encoded anew. So a state is right whoever wrote the events, and
a server that lost everything but the store gives the same answers.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

import numpy as np
import torch

from ss4rec.errors import SS4RecError, UsageError
from ss4rec.recommendations.nearest import most_similar
from ss4rec.recommender import History, Recommendation
from ss4rec.serve.kept_states import KeptStates
from ss4rec.serve.served_model import ServedModel
from ss4rec.serve.store import Accepted, EventStore, NewEvent, StoredEvent
from ss4rec.states.state import Event, State

FEW_STEPS, EVENTS_A_STEP = 4, 4
"""A step costs about as much as encoding three or four events of a history: new events up to a quarter of it, and at
least a few, are taken in one by one."""
SAVE_EVERY = 4
"""New events of a user after which the state is kept on disk again."""
SAVE_TOGETHER = 32
REFRESH_TOGETHER, GIVE_WAY_S = 16, 0.001
"""Users whose new events are taken in together, and the pause while a question waits."""


class UnknownUserError(UsageError):
    """Nothing is known of a user that a list could be made from."""


@dataclass(frozen=True)
class Ask:
    """A list that somebody wants: for a user of the store, or for a bare history."""

    user: str | None = None
    history: History | None = None
    at: int | None = None
    """Unix seconds; None: the median training gap after the newest event."""
    now: bool = False
    """Whether `at` is the moment of asking: an event that is newer by then moves it, rather than being an error."""
    k: int = 10
    exclude_seen: bool = True


@dataclass(frozen=True)
class Answer:
    """A list, and what it was made from."""

    items: list[Recommendation]
    events: int
    """Known events of the history."""
    newest_s: int
    """Time of the newest of them."""
    model: ServedModel


@dataclass
class Counts:
    """What happened since the start."""

    steps: int = 0
    """Events that were taken into a state one by one."""
    rebuilt: int = 0
    """States that were encoded from all events."""
    loaded: int = 0
    """States that another server left on disk."""
    swaps: int = 0
    """Models that were taken over."""
    refused: int = 0
    """Models that could not be loaded, while the old one went on."""


@dataclass
class _Cached:
    """What is known of a user."""

    number: int
    """Number of the last event that was looked at."""
    state: State | None
    """None where no event has an item that the model knows."""
    on_disk: int = -SAVE_EVERY
    """Events of the state that is on disk, or about to be."""


@dataclass
class _Current:
    """A model with the states that belong to it, the user of longest ago first."""

    model: ServedModel
    cache: OrderedDict[str, _Cached] = field(default_factory=OrderedDict)
    made: KeptStates | None = None
    """Where else than in the service's own file states of it may lie."""
    unsaved: dict[str, tuple[int, State]] = field(default_factory=dict)
    """States that are to be kept on disk, with the numbers of their last events."""


class Service:
    """Takes events and answers questions, many at a time. Threads may call it at the same time.

    Args:
        store: where events lie.
        model: what answers.
        cache_users: states that are kept; those of users who were not asked for longest go first.
        kept: states on disk; None: a server that starts anew makes all from the events. They become the service's.
    """

    def __init__(
        self,
        store: EventStore,
        model: ServedModel,
        cache_users: int = 20_000,
        kept: KeptStates | None = None,
    ) -> None:
        self.store = store
        self.cache_users = cache_users
        self.kept = kept
        """States on disk."""
        self.counts = Counts()
        self._current = _Current(model)
        self._asking = threading.Lock()
        self._waiting = False
        """Whether a question waits for the lock."""

    @property
    def model(self) -> ServedModel:
        """The model that answers now."""
        return self._current.model

    @property
    def cached_users(self) -> int:
        """States that are kept."""
        return len(self._current.cache)

    def add_events(self, events: Sequence[NewEvent]) -> list[Accepted]:
        """Write events; they are safe when this returns.

        Raises:
            StoreError: if the store does not take them.
        """
        return self.store.add(events)

    def set_profiles(self, profiles: Mapping[str, str]) -> None:
        """Write what is known about users; their next lists go by it. Raises as `add_events` does."""
        self.store.set_profiles(profiles)

    @property
    def users(self) -> list[str]:
        """Whose states are kept in memory, those who were asked for last at the end."""
        return list(self._current.cache)

    def warm(self, users: Iterable[str]) -> None:
        """Make the states of some users, or bring them up to date, before anybody asks."""
        with self._asking:
            self._cached(self._current, dict.fromkeys(users))

    def refresh(self, users: Iterable[str]) -> None:
        """Take new events of those of these users that are kept into their states, before anybody asks.

        A few users at a time, and beside the questions, which do not wait for it: where a question was quicker, its
        state stays.
        """
        left = list(users)
        while left:
            while self._waiting:
                time.sleep(GIVE_WAY_S)
            some, left = left[:REFRESH_TOGETHER], left[REFRESH_TOGETHER:]
            with self._asking:
                current = self._current
                before = {user: current.cache[user] for user in some if user in current.cache}
            aside = _Current(current.model, OrderedDict(before))
            self._cached(aside, before)
            with self._asking:
                for user, after in aside.cache.items():
                    if current.cache.get(user) is before[user]:
                        current.cache[user] = after
                        if user in aside.unsaved:
                            current.unsaved[user] = aside.unsaved[user]

    def recommend(self, asks: Sequence[Ask]) -> list[Answer | SS4RecError]:
        """Return a list for each question, or why there is none."""
        self._waiting = True
        with self._asking:
            self._waiting = False
            current = self._current
            cached = self._cached(current, dict.fromkeys(ask.user for ask in asks if ask.user is not None))
            found: list[Answer | SS4RecError] = [UnknownUserError("no question was asked") for _ in asks]
            states: dict[int, State] = {}
            for place, ask in enumerate(asks):
                try:
                    states[place] = self._state_for(current.model, ask, cached)
                except SS4RecError as error:
                    found[place] = error
            for shape in {(asks[place].k, asks[place].exclude_seen) for place in states}:
                places = [p for p in states if (asks[p].k, asks[p].exclude_seen) == shape]
                lists = current.model.states.recommend_many(
                    [states[p] for p in places],
                    [_moment(asks[p], states[p]) for p in places],
                    shape[0],
                    exclude_seen=shape[1],
                )
                for place, items in zip(places, lists, strict=True):
                    state = states[place]
                    found[place] = Answer(items, state.events, state.newest.time_s, current.model)
            return found

    def save_states(self) -> None:
        """Keep on disk what changed, for a server that starts after this one."""
        current = self._current
        while self.kept is not None and current.unsaved:
            with self._asking:
                users = list(current.unsaved)[:SAVE_TOGETHER]
                states = {user: current.unsaved.pop(user) for user in users}
            self.kept.save(current.model.states, states)

    def close(self) -> None:
        """Keep what changed on disk, and let go of it and of the store; nobody may ask any more."""
        self.save_states()
        if self.kept is not None:
            self.kept.close()
        self.store.close()

    def similar(self, items: Sequence[str], k: int) -> tuple[list[list[Recommendation]], ServedModel]:
        """Return the `k` items nearest to each item, by the cosine of the model's item rows.

        Raises:
            UsageError: for an item that the model does not know.
        """
        model = self.model
        recommender = model.states.recommender
        numbers_N = np.array([recommender.index[model.item_id(item)] for item in items])
        with torch.no_grad():
            items_NK, best_NK = most_similar(model.unit_rows_VD, numbers_N, k)
        ids, titles = recommender.item_ids, recommender.titles
        return [
            [
                Recommendation(ids[item - 1], score, titles[item - 1])
                for score, item in zip(scores_K, items_K, strict=True)
                if item
            ]
            for scores_K, items_K in zip(best_NK.tolist(), items_NK.tolist(), strict=True)
        ], model

    def take_over(
        self, model: ServedModel, made: KeptStates | None = None, batch_users: int = 4, share: float = 1.0
    ) -> None:
        """Answer with another model from now on; requests go on meanwhile.

        The states of all users that are kept are taken up or made for the new model first, so that the first questions
        to it are as quick as the last ones to the old one.

        Args:
            model: the new model.
            made: where states of it lie (`ss4rec.serve.warm`), beside those of the service's own file.
            batch_users: users whose states are taken up at a time.
            share: of a core that this takes; the rest of the time is left to requests.
        """
        coming = _Current(model, made=made)
        done: set[str] = set()
        while todo := [user for user in self.users if user not in done][:batch_users]:
            began = time.monotonic()
            self._cached(coming, dict.fromkeys(todo))
            done.update(todo)
            time.sleep((time.monotonic() - began) * (1 / share - 1))
        coming.made = None
        with self._asking:
            self._current = coming
            self.counts.swaps += 1

    def _state_for(self, model: ServedModel, ask: Ask, cached: dict[str, _Cached]) -> State:
        """Return the state from which a question is answered; raises what is wrong with the question."""
        if ask.history is not None:
            state = model.states.encode(model.known_history(ask.history))
        else:
            assert ask.user is not None
            kept = cached[ask.user]
            if kept.number == 0:
                raise UnknownUserError(
                    f"nothing is known of user {ask.user!r}; send events or ask with a history"
                )
            if kept.state is None:
                raise UnknownUserError(
                    f"none of the {kept.number} events of user {ask.user!r} has an item that the model knows"
                )
            state = kept.state
        if ask.at is not None and not ask.now and ask.at < state.newest.time_s:
            raise UsageError(
                f"at is {ask.at}, before the newest event ({state.newest.time_s}); give a later moment or none"
            )
        return state

    def _cached(self, current: _Current, users: Iterable[str]) -> dict[str, _Cached]:
        """Return what is known of some users, with all that the store has of them."""
        users = list(users)
        cache, model = current.cache, current.model
        found = {user: cache.get(user) or _Cached(0, None) for user in users}
        strange = [user for user in users if user not in cache]
        for file in dict.fromkeys((current.made, self.kept)):
            for user, (number, left) in file.load(model.states, strange).items() if file else ():
                found[user] = _Cached(number, left, left.events)
                self.counts.loaded += 1
        told = self.store.profiles(users) if model.reads_profiles else {}
        events = self.store.since({user: kept.number for user, kept in found.items()})
        steps: list[tuple[str, list[Event]]] = []
        anew: list[str] = []
        for user, new in events.items():
            known, state = model.known_events(new), found[user].state
            if state is not None and state.profile != self._profile(model, told.get(user), state):
                anew.append(user)  # each event was read together with the profile
                continue
            if not known:
                continue
            late = state is not None and any(cast(int, event.time) < state.newest.time_s for event in known)
            if state is None or late or len(known) > FEW_STEPS + state.events // EVENTS_A_STEP:
                anew.append(user)
            else:
                steps.append((user, sorted(known, key=lambda event: event.time)))
        states = self._step(model, steps, found) | self._encode(model, anew, found, events, told)
        for user, new in events.items():
            number = new[-1].number if new else found[user].number
            found[user] = _Cached(number, states.get(user, found[user].state), found[user].on_disk)
            self._mark(current, user, found[user])
            if number:
                cache[user] = found[user]
                cache.move_to_end(user)
        while len(cache) > self.cache_users:
            cache.popitem(last=False)
        return found

    @staticmethod
    def _profile(model: ServedModel, told: str | None, state: State) -> tuple[int, ...]:
        """Return the profile that a state should have."""
        if not model.reads_profiles:
            return state.profile
        return model.states.profile_codes(model.known_profile(told))

    def _mark(self, current: _Current, user: str, cached: _Cached) -> None:
        """Note that a state is to be kept on disk, if enough is new in it."""
        state = cached.state
        if self.kept is None or state is None or abs(state.events - cached.on_disk) < SAVE_EVERY:
            return
        current.unsaved[user] = cached.number, state
        cached.on_disk = state.events

    def _step(
        self, model: ServedModel, steps: Sequence[tuple[str, list[Event]]], found: dict[str, _Cached]
    ) -> dict[str, State]:
        """Take new events into states."""
        before = [found[user].state for user, _ in steps]
        after = model.states.update_many(
            [state for state in before if state is not None], [new for _, new in steps]
        )
        self.counts.steps += sum(len(new) for _, new in steps)
        return dict(zip((user for user, _ in steps), after, strict=True))

    def _encode(
        self,
        model: ServedModel,
        users: Sequence[str],
        found: dict[str, _Cached],
        new: dict[str, list[StoredEvent]],
        told: Mapping[str, str],
    ) -> dict[str, State]:
        """Make states from all events; the numbers that were looked at become those of the whole history."""
        older = {user: 0 for user in users if found[user].number > 0}
        whole = new | (self.store.since(older) if older else {})
        # Events that arrived between the two looks are taken in now, and their numbers with them.
        new.update({user: whole[user] for user in users})
        histories = [
            model.history(model.known_events(whole[user]), model.known_profile(told.get(user)))
            for user in users
        ]
        self.counts.rebuilt += len(users)
        return dict(zip(users, model.states.encode_many(histories), strict=True)) if users else {}


def _moment(ask: Ask, state: State) -> int | None:
    """Return the moment that is asked for."""
    return max(ask.at, state.newest.time_s) if ask.now and ask.at is not None else ask.at
