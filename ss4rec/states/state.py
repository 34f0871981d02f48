"""One user's state, and one event that is taken into it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from torch import Tensor

from ss4rec.data.moments import Moment
from ss4rec.recommender import ItemId
from ss4rec.states.packed import Packed

if TYPE_CHECKING:
    from ss4rec.states.state_model import StateModel

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Event:
    """What a user did."""

    item: ItemId
    """Source id."""
    time: Moment
    """Unix seconds, or a datetime (UTC where it names no zone)."""
    rating: float | None = None
    """Rating, where the model reads it; None: unknown."""
    context: Mapping[str, object] | None = None
    """What is known about the event, as in `{"device": "phone"}`, where the model reads it; None: nothing."""


@dataclass(frozen=True)
class Known:
    """An event in the model's terms."""

    item: int
    """Index, at least 1."""
    time_s: int
    rating: float
    """NaN where it is unknown."""
    codes: tuple[int, ...] = ()
    """Of the event's context (`Recommender.context_codes`)."""


@dataclass(frozen=True)
class Seen:
    """The items of a history, each once, by rising index."""

    items_X: npt.NDArray[np.int32]
    facts_X3: IntArray | None
    """Count, seconds from the first event to the last occurrence, and its number among the events (from 0); None where
    the model does not read them."""

    @classmethod
    def of(cls, items_T: IntArray, clocks_s_T: IntArray, with_facts: bool) -> Seen:
        """Collect the items of a whole history, oldest event first."""
        found_X, places_X, counts_X = np.unique(items_T[::-1], return_index=True, return_counts=True)
        last_X = len(items_T) - 1 - places_X
        facts_X3 = np.stack([counts_X, clocks_s_T[last_X], last_X], axis=1) if with_facts else None
        return cls(found_X.astype(np.int32), facts_X3)

    def add(self, item: int, clock_s: int, number: int) -> Seen:
        """Return it with one more event, the one of this number."""
        place = int(np.searchsorted(self.items_X, item))
        known = place < len(self.items_X) and self.items_X[place] == item
        items_X = self.items_X if known else np.insert(self.items_X, place, item)
        if self.facts_X3 is None:
            return Seen(items_X, None)
        if not known:
            return Seen(items_X, np.insert(self.facts_X3, place, (1, clock_s, number), axis=0))
        facts_X3 = self.facts_X3.copy()
        facts_X3[place] = facts_X3[place, 0] + 1, clock_s, number
        return Seen(items_X, facts_X3)

    @property
    def nbytes(self) -> int:
        """Bytes."""
        return self.items_X.nbytes + (0 if self.facts_X3 is None else self.facts_X3.nbytes)


@dataclass(frozen=True)
class State:
    """What a model remembers of one user's history; it never changes, `update` returns another one.

    With `DataConfig.target_time` the newest event waits: how a model takes it in depends on the time to the next
    moment, so that step is taken when an event or a question says when that is.
    """

    model: StateModel = field(repr=False, compare=False)
    """The model that it belongs to."""
    memory: Packed = field(repr=False)
    """One row (`ss4rec.model.state`)."""
    output_D: Tensor | None = field(repr=False)
    """What left the blocks after the newest event; None where that one waits."""
    newest: Known
    """The newest event."""
    profile: tuple[int, ...]
    """Codes of the user's profile, at least one."""
    events: int
    """Events of the history."""
    clock_s: int
    """Seconds from the first event to the newest, each gap rounded as the model sees it."""
    seen: Seen = field(repr=False)
    """Which items the history holds."""

    def update(self, event: Event) -> State:
        """Return the state after one more event, which may not be older than the newest.

        Raises:
            UsageError: for an item that the run does not know, or an event that comes late: encode the history again.
        """
        return self.model.update_many([self], [[event]])[0]

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the model that it belongs to."""
        return self.model.fingerprint

    @property
    def nbytes(self) -> int:
        """Bytes of all that grows with the model or the history."""
        output = 0 if self.output_D is None else int(self.output_D.nbytes)
        return self.memory.nbytes + output + self.seen.nbytes + 8 * (5 + len(self.profile))

    def after(self, event: Known, memory: Packed, output_D: Tensor | None) -> State:
        """Return the state after an event, given what the model made of it."""
        clock_s = self.clock_s + int(np.float32(event.time_s - self.newest.time_s))
        return replace(
            self,
            memory=memory,
            output_D=output_D,
            newest=event,
            events=self.events + 1,
            clock_s=clock_s,
            seen=self.seen.add(event.item, clock_s, self.events),
        )
