"""A recommender that keeps states: encode once, then one step for each event, for one user or many at a time."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ss4rec.data.batches.windows import HOUR_S
from ss4rec.data.moments import Moment, unix_seconds
from ss4rec.data.prepared.user_profiles import profile_codes
from ss4rec.errors import UsageError
from ss4rec.model.habits import Habits, Held, held_logits
from ss4rec.model.inputs import Context
from ss4rec.model.item_scores import CHUNK_SCORES, ItemScores, SeenItems, best_of
from ss4rec.model.segments import Segments
from ss4rec.model.state import StateLayout, encode_states, read_out
from ss4rec.recommender import History, Recommendation, Recommender
from ss4rec.states.graphs import kept_graph
from ss4rec.states.known import known_events, known_history, require_order
from ss4rec.states.packed import Packed, Precision
from ss4rec.states.state import Event, Known, Seen, State
from ss4rec.states.traced import Question, StateStep, Step, traced_question, traced_step

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
        graphs: folder where recorded graphs are taken from and left (`ss4rec.states.graphs`); None: nowhere.
    """

    def __init__(
        self,
        recommender: Recommender,
        precision: Precision = "full",
        *,
        traced: bool = False,
        graphs: Path | None = None,
    ) -> None:
        self.recommender = recommender
        self.model = recommender.model.eval()
        self.precision = precision
        self.device = recommender.device
        self.traced = traced and self.device.type == "cpu"
        self.graphs = graphs
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
        known = [known_history(self.recommender, history, ignore_unknown) for history in histories]
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
        known = [known_events(self.recommender, some, ignore_unknown) for some in events]
        for state, some in zip(states, known, strict=True):
            require_order([state.newest, *some])
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
            for scores_K, items_K in self._best(states[part], moments[part], k, exclude_seen):
                found.append(
                    [
                        Recommendation(ids[item - 1], score, titles[item - 1])
                        for score, item in zip(scores_K, items_K, strict=True)
                        if score > -np.inf
                    ]
                )
        return found

    def _best(
        self, states: Sequence[State], at: Sequence[Moment | None], k: int, exclude_seen: bool
    ) -> Iterator[tuple[list[float], list[int]]]:
        """Yield scores and items of the best for each user."""
        if not self._at_once or len(states) * len(self._items_VD) > CHUNK_SCORES:
            best = self.scores(states, at).top(k, exclude_seen=exclude_seen)
            yield from zip(*(values_BK.tolist() for values_BK in best), strict=True)
            return
        gaps = self._gaps(states, at)
        elapsed_B = self._floats([-1.0 if gap is None else gap for gap in gaps])
        arguments = self._newest_arguments(states, self._until_asked(gaps))
        with torch.no_grad():
            scores_BV = self._question(elapsed_B, *arguments).numpy()
        for scores_V, state in zip(scores_BV, states, strict=True):
            if exclude_seen:
                scores_V[state.seen.items_X] = -np.inf
            elif self._seen_logit is not None:
                scores_V[state.seen.items_X] += self._seen_logit
            yield best_of(scores_V, k)

    @torch.no_grad()
    def scores(self, states: Sequence[State], at: Sequence[Moment | None] | None = None) -> ItemScores:
        """Return the scores of all items for some users; arguments and errors as for `recommend`."""
        gaps = self._gaps(states, at or [None] * len(states))
        hidden_BD = self._hidden(states, gaps)
        seen = self._seen(states)
        logit = self.model.repeat_logit
        if self.model.config.repeats == "habits":
            logit = self._habit_logits(states, gaps, hidden_BD, seen)
        return ItemScores.of_products(hidden_BD, self._items_VD, seen, logit)

    def _seen(self, states: Sequence[State]) -> SeenItems:
        """Return the items of some histories."""
        items_P = np.concatenate([state.seen.items_X for state in states], dtype=np.int64)
        rows_P = np.repeat(np.arange(len(states)), [len(state.seen.items_X) for state in states])
        order_P = np.argsort(items_P, kind="stable")
        item_P, row_P = (
            torch.from_numpy(values_P[order_P]).to(self.device) for values_P in (items_P, rows_P)
        )
        return SeenItems.in_order(item_P, row_P, len(states), len(self._items_VD))

    def _hidden(self, states: Sequence[State], gaps: Sequence[float | None]) -> Tensor:
        """Return hidden states at the moments of asking, `[B, MD]`."""
        if self.target_time:
            _, outputs_BD = self._look_ahead(*self._newest_arguments(states, self._until_asked(gaps)))
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
            rows_BX, _ = self._one_step(*self._newest_arguments(states, gaps))
            outputs: Sequence[Tensor | None] = [None] * len(states)
        else:
            hours = [event.time_s // HOUR_S for event in events]
            rows_BX, outputs_BD = self._one_step(*self._arguments(states, events, gaps, hours))
            outputs = [output_D.clone() for output_D in outputs_BD]
        packed = Packed.of(rows_BX, self.precision, self.layout)
        return [
            state.after(event, packed.row(user), outputs[user])
            for user, (state, event) in enumerate(zip(states, events, strict=True))
        ]

    def _newest_arguments(self, states: Sequence[State], gaps: Sequence[float]) -> tuple[Tensor, ...]:
        """Return what takes in the event that waits, for gaps in seconds from it to the next moment."""
        hours = [
            (state.newest.time_s + round(float(gap))) // HOUR_S
            for state, gap in zip(states, gaps, strict=True)
        ]
        return self._arguments(states, [state.newest for state in states], gaps, hours)

    def _arguments(
        self, states: Sequence[State], events: Sequence[Known], gaps: Sequence[float], hours: Sequence[int]
    ) -> tuple[Tensor, ...]:
        """Return the arguments of `StateStep` for one event of each user."""
        rows_BX = Packed.join([state.memory for state in states]).rows(self.kind)
        codes = [state.profile + event.codes for state, event in zip(states, events, strict=True)]
        context = self._context(hours, [event.rating for event in events], codes)
        items_B, gaps_B = self._ints([event.item for event in events]), self._floats(gaps)
        return rows_BX, items_B, gaps_B, context.hours_T, context.ratings_T, context.profiles_TF

    def _gaps(self, states: Sequence[State], at: Sequence[Moment | None]) -> list[float | None]:
        """Return the seconds from each newest event to the moment of asking, None where that is not told."""
        for state in states:
            self._require_own(state)
        return [
            None if moment is None else self._gap_s(state, moment)
            for state, moment in zip(states, at, strict=True)
        ]

    def _until_asked(self, gaps: Sequence[float | None]) -> list[float]:
        return [self.recommender.unknown_gap_s if gap is None else gap for gap in gaps]

    @cached_property
    def _at_once(self) -> bool:
        """Whether a question is one recorded graph: each call of torch more may wait for Python's lock."""
        return self.traced and self.target_time and self.model.config.repeats != "habits"

    @cached_property
    def _question(self) -> Callable[..., Tensor]:
        return self._kept("question", lambda: traced_question(Question(self.model, self._items_VD)))

    @cached_property
    def _seen_logit(self) -> float | None:
        logit = self.model.repeat_logit
        return None if logit is None else float(logit.detach())

    @cached_property
    def _one_step(self) -> Step:
        """The step that makes the next state: its rounding adds up."""
        step = StateStep(self.model, exact=self._exact, leave=not self.target_time)
        return self._recorded("step", step)

    @cached_property
    def _look_ahead(self) -> Step:
        """The step of a question, which makes no state."""
        return self._recorded("ahead", StateStep(self.model, keep=False))

    @property
    def _exact(self) -> bool:
        return self.device.type == "cpu" and self.kind == torch.float32

    def _recorded(self, name: str, step: StateStep) -> Step:
        return self._kept(name, lambda: traced_step(step)) if self.traced else step

    def _kept(self, name: str, record: Callable[[], Callable[..., Any]]) -> Callable[..., Any]:
        if self.graphs is None:
            return record()
        return kept_graph(self.graphs, f"{self.fingerprint}-{name}", record)

    def _context(
        self, hours: Sequence[int], ratings: Sequence[float], codes: Sequence[tuple[int, ...]]
    ) -> Context:
        columns = max(map(len, codes))
        rows = [[*some, *[0] * (columns - len(some))] for some in codes]
        codes_BF = torch.from_numpy(np.array(rows, np.int64)).to(self.device)
        return Context(self._ints(hours), self._floats(ratings), codes_BF)

    def _ints(self, values: Sequence[int]) -> Tensor:
        return torch.from_numpy(np.array(values, np.int64)).to(self.device)

    def _floats(self, values: Sequence[float]) -> Tensor:
        return torch.from_numpy(np.array(values, np.float32)).to(self.device)

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

    def _require_own(self, state: State) -> None:
        if state.model is not self and state.fingerprint != self.fingerprint:
            raise UsageError(
                f"the state belongs to model {state.fingerprint}, this is {self.fingerprint}; encode the history again"
            )
