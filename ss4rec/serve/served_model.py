"""A model that is served: its states, its name, and how texts of requests become its items."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ss4rec.errors import UsageError
from ss4rec.export.card import model_card
from ss4rec.recommendations.nearest import unit_rows
from ss4rec.recommender import History, ItemId, Recommendation, load
from ss4rec.serve.store import StoredEvent
from ss4rec.states.packed import Precision
from ss4rec.states.state import Event
from ss4rec.states.state_model import StateModel

READY_CALLS = 3


@dataclass(frozen=True)
class ServedModel:
    """One version of a model."""

    name: str
    states: StateModel
    card: dict[str, Any]
    """What `GET /model` says beside the name."""

    @property
    def fingerprint(self) -> str:
        """See `StateModel.fingerprint`."""
        return self.states.fingerprint

    def make_ready(self) -> None:
        """Make now all that is made at the first use, not in front of somebody who waits."""
        states = self.states
        history = History([states.recommender.item_ids[0]], [1_000_000_000])
        state = states.encode(history)
        # A graph's first calls look for what can be made faster.
        for second in range(1_000_000_060, 1_000_000_060 + READY_CALLS):
            state = state.update(Event(history.items[0], second))
            states.recommend(state)
        _ = self.fingerprint, self.unit_rows_VD, self._folded

    @cached_property
    def unit_rows_VD(self) -> Tensor:
        """Item rows of length one; row 0 is padding."""
        with torch.no_grad():
            return unit_rows(self.states.model.item_matrix()).cpu()

    @cached_property
    def _numbers(self) -> bool:
        """Whether the source's item ids are whole numbers."""
        return isinstance(self.states.recommender.item_ids[0], int)

    def item_id(self, text: str) -> ItemId:
        """Return an item as the run knows it.

        Raises:
            UsageError: if it does not.
        """
        item = self._item(text)
        if item is None:
            raise UsageError(f"the model does not know the item {text!r}; ids are those of the ratings file")
        return item

    def knows(self, text: str) -> bool:
        """Return whether a text means an item of this model."""
        return self._item(text) is not None

    def known_events(self, events: Sequence[StoredEvent]) -> list[Event]:
        """Return the events whose items this model knows, with what it reads of them."""
        found = [(self._item(event.item), event) for event in events]
        return [
            Event(item, event.time_s, event.rating, self._read(event.context))
            for item, event in found
            if item is not None
        ]

    def history(self, events: Sequence[Event], profile: Mapping[str, object] | None = None) -> History:
        """Return events as a history; those of the same second keep their order.

        Args:
            events: of one user.
            profile: what the model knows about the person (`known_profile`).
        """
        events = sorted(events, key=lambda event: event.time)
        ratings = [float("nan") if event.rating is None else event.rating for event in events]
        columns = [column.name for column in self.states.model.columns.context]
        context = {name: [(event.context or {}).get(name) for event in events] for name in columns}
        items, times = [event.item for event in events], [event.time for event in events]
        return History(items, times, ratings=ratings, profile=profile, context=context)

    @cached_property
    def reads_profiles(self) -> bool:
        """Whether what is known about a person changes anything."""
        model = self.states.model
        return bool(self._values) and ("profile" in model.config.inputs or bool(model.columns.users))

    def known_profile(self, profile: str | None) -> dict[str, object]:
        """Return what the model can read of a profile as the store has it; the rest is kept for other models."""
        if profile is None or not self.reads_profiles:
            return {}
        return {
            name: value for name, value in json.loads(profile).items() if f"{name}={value}" in self._values
        }

    def unread_profile(self, profile: Mapping[str, object]) -> list[str]:
        """Return the values of a profile that the model does not read, as in `country=NL`."""
        texts = [f"{name}={value}" for name, value in profile.items()]
        return [text for text in texts if not self.reads_profiles or text not in self._values]

    def unread_context(self, names: Iterable[str]) -> list[str]:
        """Return the columns about events that the model does not read."""
        return sorted(set(names) - {column.name for column in self.states.model.columns.context})

    @cached_property
    def _values(self) -> frozenset[str]:
        return frozenset(self.states.recommender.profile_values or ())

    def _read(self, context: str | None) -> dict[str, object] | None:
        """Return what the model reads of an event's context; the rest is kept for other models."""
        columns = {column.name for column in self.states.model.columns.context}
        if context is None or not columns:
            return None
        return {name: value for name, value in json.loads(context).items() if name in columns}

    def known_history(self, history: History) -> History:
        """Return a history of a request, whose items are texts, without what this model does not know.

        Raises:
            UsageError: if nothing is left.
        """
        found = [self._item(str(text)) for text in history.items]
        kept = [(place, item) for place, item in enumerate(found) if item is not None]
        if not kept:
            raise UsageError(
                "the history has no item that the model knows; ids are those of the ratings file"
            )
        places = [place for place, _ in kept]
        ratings = history.ratings and [history.ratings[place] for place in places]
        times = [history.times[place] for place in places]
        context = {
            name: [values[place] for place in places] for name, values in (history.context or {}).items()
        }
        items = [item for _, item in kept]
        return replace(history, items=items, times=times, ratings=ratings, context=context)

    def search(self, text: str, most: int) -> list[Recommendation]:
        """Return items whose title or id has all words of a text, those that begin with it first."""
        recommender, words = self.states.recommender, text.casefold().split()
        found = []
        for item, title, folded in zip(recommender.item_ids, recommender.titles, self._folded, strict=True):
            if words and all(word in folded for word in words):
                found.append((not folded.startswith(text.casefold()), len(folded), item, title))
        best = sorted(found, key=lambda row: row[:2])[:most]
        return [Recommendation(item, 0.0, title) for _, _, item, title in best]

    @cached_property
    def _folded(self) -> list[str]:
        recommender = self.states.recommender
        pairs = zip(recommender.item_ids, recommender.titles, strict=True)
        return [(title or str(item)).casefold() for item, title in pairs]

    def _item(self, text: str) -> ItemId | None:
        """Return the id that a text means, or None."""
        item: ItemId = text
        if self._numbers:
            if not (text.removeprefix("-").isdecimal() and len(text) < 20):
                return None
            item = int(text)
        return item if item in self.states.recommender.index else None


def load_served(
    run: Path,
    precision: Precision = "full",
    name: str | None = None,
    *,
    ready: bool = True,
    graphs: Path | None = None,
) -> ServedModel:
    """Load the best checkpoint of a run to serve it; nothing that the folder holds is run as code.

    Args:
        run: run folder.
        precision: see `StateModel`.
        name: what answers call it; None: the folder's.
        ready: see `ServedModel.make_ready`; otherwise that is left to the caller.
        graphs: see `StateModel`.

    Raises:
        DataError: if it is no run folder.
        CheckpointError: if no checkpoint is intact.
    """
    run = run.resolve()
    states = StateModel(load(run), precision, traced=True, graphs=graphs)
    card = model_card(run).model_dump(mode="json", exclude={"model": {"run"}})
    served = ServedModel(name or run.name, states, card)
    if ready:
        served.make_ready()
    return served
