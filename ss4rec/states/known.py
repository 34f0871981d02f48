"""Events of requests in a model's own terms."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from ss4rec.data.moments import unix_seconds
from ss4rec.errors import UsageError
from ss4rec.recommender import History, Recommender
from ss4rec.states.state import Event, Known


def known_history(recommender: Recommender, history: History, ignore_unknown: bool) -> list[Known]:
    """Return the events of a history, oldest first.

    Raises:
        UsageError: as `StateModel.encode` does.
    """
    ratings = history.ratings if history.ratings is not None else [None] * len(history.items)
    for values, name in ((history.times, "time"), (ratings, "rating")):
        if len(history.items) != len(values):
            raise UsageError(
                f"{len(history.items)} items but {len(values)} {name}s; give one {name} for each item"
            )
    if len(history.items):
        recommender.context_codes(history)  # refuses columns of another length
    columns = history.context or {}
    events = [
        Event(item, time, rating, {name: values[place] for name, values in columns.items()})
        for place, (item, time, rating) in enumerate(zip(history.items, history.times, ratings, strict=True))
    ]
    known = sorted(known_events(recommender, events, ignore_unknown), key=lambda event: event.time_s)
    if not known:
        raise UsageError("the history has no known item; a sequential recommender needs at least one")
    return known


def known_events(recommender: Recommender, events: Sequence[Event], ignore_unknown: bool) -> list[Known]:
    """Look up items and times; what the run does not know is left out or refused (UsageError)."""
    if not events:
        return []
    times = unix_seconds([event.time for event in events], "time").tolist()
    index = recommender.index
    unknown = [event.item for event in events if event.item not in index]
    if unknown and not ignore_unknown:
        raise UsageError(
            f"the run does not know {len(unknown)} items: {unknown[:20]}; ids are those of the ratings file, "
            "ignore_unknown=True leaves them out"
        )
    return [
        Known(index[event.item], time, np.nan if event.rating is None else float(event.rating), codes)
        for event, time, codes in zip(events, times, _codes(recommender, events), strict=True)
        if event.item in index
    ]


def _codes(recommender: Recommender, events: Sequence[Event]) -> list[tuple[int, ...]]:
    """Return the codes of what is known about each event."""
    if not recommender.model.columns.context and not any(event.context for event in events):
        return [()] * len(events)
    names = {name for event in events for name in event.context or {}}
    told = {name: [(event.context or {}).get(name) for event in events] for name in sorted(names)}
    history = History([event.item for event in events], [event.time for event in events], context=told)
    return [tuple(codes) for codes in recommender.context_codes(history).tolist()]


def require_order(events: Sequence[Known]) -> None:
    """Refuse an event that is older than the one before it."""
    for earlier, later in pairwise(events):
        if later.time_s < earlier.time_s:
            raise UsageError(
                f"an event at {later.time_s} comes after one at {earlier.time_s}; a state takes events in order: "
                "encode the whole history again to put it in its place"
            )
