"""A recommender that keeps states: encode once, then one step for each event, for one user or many at a time."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from ss4rec.data.batches.windows import HOUR_S
from ss4rec.data.moments import Moment, unix_seconds
from ss4rec.data.prepared.user_profiles import profile_codes
from ss4rec.errors import UsageError
from ss4rec.model.habits import Habits, Held, held_logits
from ss4rec.model.inputs import Context
from ss4rec.model.item_scores import ItemScores, SeenItems
from ss4rec.model.segments import Segments
from ss4rec.model.state import StateLayout, encode_states, read_out
from ss4rec.recommender import History, Recommendation, Recommender
from ss4rec.states.packed import Packed, Precision
from ss4rec.states.state import Event, Known, Seen, State
from ss4rec.states.traced import StateStep, Step, traced_step

BATCH_USERS = 1024
"""Users that one step takes together."""
BATCH_TOKENS = 1 << 15
"""Events that one scan takes together."""


class StateModel:
    """The states of one model, whose weights must not change any more. Threads may share it: it is only read.

    Args:
        recommender: the model with its vocabulary.
        precision: how states are kept between events. `full` is the model's own type; the others lose a little at
            every event and cost a half (`bf16`) or a quarter (`int8`) of the memory.
        traced: record the step as a graph at the first event: half of the time for a single user, after a second or
            two of preparation. On a CPU only: a GPU's own kernels cannot be recorded, and its step is run as it is.
    """

    def __init__(
        self, recommender: Recommender, precision: Precision = "full", *, traced: bool = False
    ) -> None:
        self.recommender = recommender
        self.model = recommender.model.eval()
        self.precision = precision
        self.device = recommender.device
        self.traced = traced and self.device.type == "cpu"
        self.target_time = recommender.data.target_time
        self.kind = next(self.model.parameters()).dtype
        self.layout = StateLayout.of(self.model.config)

    @cached_property
    def fingerprint(self) -> str:
        """First 16 hex digits of the SHA-256 of all that decides what a state means: weights, shape, vocabulary."""
        digest = hashlib.sha256(self.model.config.model_dump_json().encode())
        digest.update(self.model.columns.model_dump_json().encode())
        digest.update(repr((self.target_time, self.recommender.item_ids)).encode())
        for name, tensor in sorted(self.model.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]

    @cached_property
    def _items_VD(self) -> Tensor:
        with torch.no_grad():
            return self.model.item_matrix().detach()

    def encode(self, history: History, *, ignore_unknown: bool = False) -> State:
        """Return the state after a whole history; `target_time` of the history is not looked at.

        Raises:
            UsageError: as `Recommender.scores` does.
        """
        return self.encode_many([history], ignore_unknown=ignore_unknown)[0]

    def encode_many(self, histories: Sequence[History], *, ignore_unknown: bool = False) -> list[State]:
        """Return the states after whole histories; arguments and errors as for `encode`."""
        known = [self._known_history(history, ignore_unknown) for history in histories]
        profiles = [self.profile_codes(history.profile) for history in histories]
        states: list[State] = []
        first, tokens = 0, 0
        for stop, events in enumerate([*known, []], start=1):
            tokens += len(events)
            if stop > len(known) or tokens > BATCH_TOKENS:
                part = slice(first, min(stop, len(known)))
                states += self._encode(known[part], profiles[part]) if known[part] else []
                first, tokens = stop, 0
        return states

    def update_many(
        self, states: Sequence[State], events: Sequence[Sequence[Event]], *, ignore_unknown: bool = False
    ) -> list[State]:
        """Return the states after further events of each user, in the order of time, as many as there are for each.

        Raises:
            UsageError: for an unknown item, or an event that is older than one before it.
        """
        if len(states) != len(events):
            raise UsageError(f"{len(states)} states and {len(events)} lists of events; give one list a state")
        for state in states:
            self._require_own(state)
        known = [self._known(some, ignore_unknown) for some in events]
        for state, some in zip(states, known, strict=True):
            _require_order([state.newest, *some])
        new = list(states)
        for step in range(max(map(len, known), default=0)):
            active = [user for user, some in enumerate(known) if len(some) > step]
            for first in range(0, len(active), BATCH_USERS):
                users = active[first : first + BATCH_USERS]
                stepped = self._step([new[user] for user in users], [known[user][step] for user in users])
                for user, state in zip(users, stepped, strict=True):
                    new[user] = state
        return new

    def recommend(
        self, state: State, at: Moment | None = None, k: int = 10, *, exclude_seen: bool = True
    ) -> list[Recommendation]:
        """Return the `k` best items for one user, best first.

        Args:
            state: what is remembered of the user.
            at: moment for which to recommend; None: the median training gap after the newest event.
            k: items.
            exclude_seen: whether items of the history are left out.

        Raises:
            UsageError: for a moment before the newest event.
        """
        return self.recommend_many([state], [at], k, exclude_seen=exclude_seen)[0]

    def recommend_many(
        self,
        states: Sequence[State],
        at: Sequence[Moment | None] | None = None,
        k: int = 10,
        *,
        exclude_seen: bool = True,
    ) -> list[list[Recommendation]]:
        """Return the `k` best items for each user; arguments and errors as for `recommend`."""
        if k < 1:
            raise UsageError(f"k is {k}; ask for at least 1 recommendation")
        moments = list(at) if at is not None else [None] * len(states)
        ids, titles = self.recommender.item_ids, self.recommender.titles
        found = []
        for first in range(0, len(states), BATCH_USERS):
            part = slice(first, first + BATCH_USERS)
            best = self.scores(states[part], moments[part]).top(k, exclude_seen=exclude_seen)
            for scores_K, items_K in zip(*(x.tolist() for x in best), strict=True):
                found.append(
                    [
                        Recommendation(ids[item - 1], score, titles[item - 1])
                        for score, item in zip(scores_K, items_K, strict=True)
                        if score > -np.inf
                    ]
                )
        return found

    @torch.no_grad()
    def scores(self, states: Sequence[State], at: Sequence[Moment | None] | None = None) -> ItemScores:
        """Return the scores of all items for some users; arguments and errors as for `recommend`."""
        for state in states:
            self._require_own(state)
        gaps = [
            None if moment is None else self._gap_s(state, moment)
            for state, moment in zip(states, at or [None] * len(states), strict=True)
        ]
        hidden_BD = self._hidden(states, gaps)
        lengths = torch.tensor([0, *(len(state.seen.items_X) for state in states)])
        seen_X = torch.from_numpy(np.concatenate([state.seen.items_X for state in states]))
        seen = SeenItems(seen_X, lengths.cumsum(0), len(self._items_VD), self.device)
        logit = self.model.repeat_logit
        if self.model.config.repeats == "habits":
            logit = self._habit_logits(states, gaps, hidden_BD, seen)
        return ItemScores.of_products(hidden_BD, self._items_VD, seen, logit)

    def _hidden(self, states: Sequence[State], gaps: Sequence[float | None]) -> Tensor:
        """Return hidden states at the moments of asking, `[B, MD]`."""
        if self.target_time:
            gap_s = [self.recommender.unknown_gap_s if gap is None else gap for gap in gaps]
            _, outputs_BD = self._take_newest(states, gap_s, self._look_ahead)
        else:
            outputs_BD = torch.stack([state.output_D for state in states if state.output_D is not None])
        elapsed_B = torch.tensor([-1.0 if gap is None else gap for gap in gaps], device=self.device)
        return read_out(self.model, outputs_BD, elapsed_B)

    def _habit_logits(
        self, states: Sequence[State], gaps: Sequence[float | None], hidden_BD: Tensor, seen: SeenItems
    ) -> Tensor:
        """Return what is added to the score of each pair of `seen`."""
        counts = [len(state.seen.items_X) for state in states]
        facts_X3 = np.concatenate(
            [state.seen.facts_X3 for state in states if state.seen.facts_X3 is not None]
        )
        asked_s = np.array(
            [state.clock_s + self._asked_after_s(gap) for state, gap in zip(states, gaps, strict=True)]
        )
        last = np.array([state.events - 1 for state in states])
        items_X = np.concatenate([state.seen.items_X for state in states])
        held = Held(
            *(
                torch.from_numpy(values.astype(np.int64)).to(self.device)
                for values in (
                    np.repeat(np.arange(len(states)), counts),
                    items_X,
                    facts_X3[:, 0],
                    np.repeat(asked_s, counts) - facts_X3[:, 1],
                    np.repeat(last, counts) - facts_X3[:, 2],
                )
            )
        )
        members = list(self.model.members)
        parts = hidden_BD.chunk(len(members), dim=1)
        habits: list[tuple[Habits, Tensor]] = [
            (member.habits, part)
            for member, part in zip(members, parts, strict=True)
            if member.habits is not None
        ]
        return held_logits(habits, held, seen, 1 / len(members))

    def _asked_after_s(self, gap_s: float | None) -> int:
        """Return the seconds from the newest event to the moment that ages count to: as in training, the event's own
        where models are not told the next one's."""
        if not self.target_time:
            return 0
        return round(float(np.float32(self.recommender.unknown_gap_s if gap_s is None else gap_s)))

    @torch.no_grad()
    def _encode(self, known: Sequence[Sequence[Known]], profiles: Sequence[tuple[int, ...]]) -> list[State]:
        """Return the states after whole histories that are in order."""
        taken = [events[:-1] if self.target_time else events for events in known]
        users = [user for user, events in enumerate(taken) if events]
        rows_BX = torch.zeros(len(known), self.layout.width, dtype=self.kind, device=self.device)
        outputs: list[Tensor | None] = [None] * len(known)
        if users:
            items, gaps, hours, ratings, codes = [], [], [], [], []
            for user in users:
                times = [event.time_s for event in known[user]]
                between = [later - earlier for earlier, later in pairwise(times)]
                gaps += between if self.target_time else [0, *between]
                hours += [time // HOUR_S for time in (times[1:] if self.target_time else times)]
                items += [event.item for event in taken[user]]
                ratings += [event.rating for event in taken[user]]
                codes += [profiles[user] + event.codes for event in taken[user]]
            segments = Segments.from_lengths([len(taken[user]) for user in users], self.device)
            context = self._context(hours, ratings, codes)
            new_SX, outputs_SD = encode_states(
                self.model, self._ints(items), self._floats(gaps), segments, context
            )
            rows_BX[users] = new_SX
            if not self.target_time:
                for user, output_D in zip(users, outputs_SD, strict=True):
                    outputs[user] = output_D.clone()
        packed = Packed.of(rows_BX, self.precision, self.layout)
        return [
            self._state(events, packed.row(user), outputs[user], profiles[user])
            for user, events in enumerate(known)
        ]

    def _state(
        self, events: Sequence[Known], memory: Packed, output_D: Tensor | None, profile: tuple[int, ...]
    ) -> State:
        """Put a state together from what was remembered of all its events."""
        times_T = np.array([event.time_s for event in events])
        clocks_T = np.append(0, np.diff(times_T).astype(np.float32).astype(np.int64).cumsum())
        items_T = np.array([event.item for event in events])
        seen = Seen.of(items_T, clocks_T, self.model.config.repeats == "habits")
        return State(self, memory, output_D, events[-1], profile, len(events), int(clocks_T[-1]), seen)

    @torch.no_grad()
    def _step(self, states: Sequence[State], events: Sequence[Known]) -> list[State]:
        """Return the states after one more event of each user."""
        gaps = [event.time_s - state.newest.time_s for state, event in zip(states, events, strict=True)]
        if self.target_time:
            rows_BX, _ = self._take_newest(states, gaps, self._one_step)
            outputs: Sequence[Tensor | None] = [None] * len(states)
        else:
            hours = [event.time_s // HOUR_S for event in events]
            rows_BX, outputs_BD = self._take(states, events, gaps, hours, self._one_step)
            outputs = [output_D.clone() for output_D in outputs_BD]
        packed = Packed.of(rows_BX, self.precision, self.layout)
        return [
            state.after(event, packed.row(user), outputs[user])
            for user, (state, event) in enumerate(zip(states, events, strict=True))
        ]

    def _take_newest(
        self, states: Sequence[State], gaps: Sequence[float], take: Step
    ) -> tuple[Tensor, Tensor]:
        """Take the event that waits, for gaps in seconds from it to the next moment."""
        hours = [
            (state.newest.time_s + round(float(gap))) // HOUR_S
            for state, gap in zip(states, gaps, strict=True)
        ]
        return self._take(states, [state.newest for state in states], gaps, hours, take)

    def _take(
        self,
        states: Sequence[State],
        events: Sequence[Known],
        gaps: Sequence[float],
        hours: Sequence[int],
        take: Step,
    ) -> tuple[Tensor, Tensor]:
        """Return `step_states` of one event of each user."""
        rows_BX = Packed.join([state.memory for state in states]).rows(self.kind)
        codes = [state.profile + event.codes for state, event in zip(states, events, strict=True)]
        context = self._context(hours, [event.rating for event in events], codes)
        items_B, gaps_B = self._ints([event.item for event in events]), self._floats(gaps)
        return take(rows_BX, items_B, gaps_B, context.hours_T, context.ratings_T, context.profiles_TF)

    @cached_property
    def _one_step(self) -> Step:
        """The step that makes the next state: its rounding adds up."""
        return self._recorded(exact=self._exact)

    @cached_property
    def _look_ahead(self) -> Step:
        """The step of a question, which makes no state."""
        return self._recorded(exact=False) if self._exact else self._one_step

    @property
    def _exact(self) -> bool:
        return self.device.type == "cpu" and self.kind == torch.float32

    def _recorded(self, *, exact: bool) -> Step:
        step = StateStep(self.model, exact=exact)
        return traced_step(step) if self.traced else step

    def _context(
        self, hours: Sequence[int], ratings: Sequence[float], codes: Sequence[tuple[int, ...]]
    ) -> Context:
        columns = max(map(len, codes))
        rows = [[*some, *[0] * (columns - len(some))] for some in codes]
        return Context(self._ints(hours), self._floats(ratings), torch.tensor(rows, device=self.device))

    def _ints(self, values: Sequence[int]) -> Tensor:
        return torch.tensor(values, dtype=torch.int64, device=self.device)

    def _floats(self, values: Sequence[float]) -> Tensor:
        return torch.tensor(values, dtype=torch.float32, device=self.device)

    def _gap_s(self, state: State, moment: Moment) -> float:
        """Return the seconds from the newest event to a moment."""
        gap_s = float(unix_seconds([moment], "at")[0] - state.newest.time_s)
        if gap_s < 0:
            raise UsageError(
                f"at is {state.newest.time_s + gap_s:.0f}, before the newest event ({state.newest.time_s}); "
                "give a later moment or none"
            )
        return gap_s

    def profile_codes(self, profile: Mapping[str, object] | None) -> tuple[int, ...]:
        """Return a person's profile as states hold it (`State.profile`).

        Raises:
            UsageError: for a value that training did not know.
        """
        return tuple(profile_codes(profile or {}, self.recommender.profile_values)) or (0,)

    def _known_history(self, history: History, ignore_unknown: bool) -> list[Known]:
        """Return the events of a history, oldest first."""
        ratings = history.ratings if history.ratings is not None else [None] * len(history.items)
        for values, name in ((history.times, "time"), (ratings, "rating")):
            if len(history.items) != len(values):
                raise UsageError(
                    f"{len(history.items)} items but {len(values)} {name}s; give one {name} for each item"
                )
        if len(history.items):
            self.recommender.context_codes(history)  # refuses columns of another length
        columns = history.context or {}
        events = [
            Event(item, time, rating, {name: values[place] for name, values in columns.items()})
            for place, (item, time, rating) in enumerate(
                zip(history.items, history.times, ratings, strict=True)
            )
        ]
        known = sorted(self._known(events, ignore_unknown), key=lambda event: event.time_s)
        if not known:
            raise UsageError("the history has no known item; a sequential recommender needs at least one")
        return known

    def _known(self, events: Sequence[Event], ignore_unknown: bool) -> list[Known]:
        """Look up items and times; what the run does not know is left out or refused."""
        if not events:
            return []
        times = unix_seconds([event.time for event in events], "time").tolist()
        index = self.recommender.index
        unknown = [event.item for event in events if event.item not in index]
        if unknown and not ignore_unknown:
            raise UsageError(
                f"the run does not know {len(unknown)} items: {unknown[:20]}; ids are those of the ratings file, "
                "ignore_unknown=True leaves them out"
            )
        return [
            Known(index[event.item], time, np.nan if event.rating is None else float(event.rating), codes)
            for event, time, codes in zip(events, times, self._codes(events), strict=True)
            if event.item in index
        ]

    def _codes(self, events: Sequence[Event]) -> list[tuple[int, ...]]:
        """Return the codes of what is known about each event."""
        if not self.model.columns.context and not any(event.context for event in events):
            return [()] * len(events)
        names = {name for event in events for name in event.context or {}}
        told = {name: [(event.context or {}).get(name) for event in events] for name in sorted(names)}
        history = History([event.item for event in events], [event.time for event in events], context=told)
        return [tuple(codes) for codes in self.recommender.context_codes(history).tolist()]

    def _require_own(self, state: State) -> None:
        if state.model is not self and state.fingerprint != self.fingerprint:
            raise UsageError(
                f"the state belongs to model {state.fingerprint}, this is {self.fingerprint}; encode the history again"
            )


def _require_order(events: Sequence[Known]) -> None:
    """Refuse an event that is older than the one before it."""
    for earlier, later in pairwise(events):
        if later.time_s < earlier.time_s:
            raise UsageError(
                f"an event at {later.time_s} comes after one at {earlier.time_s}; a state takes events in order: "
                "encode the whole history again to put it in its place"
            )
