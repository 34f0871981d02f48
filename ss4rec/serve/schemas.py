"""What requests and answers look like; `GET /docs` shows the same."""

from __future__ import annotations

import json
import time
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from ss4rec.data.moments import unix_seconds
from ss4rec.errors import UsageError
from ss4rec.recommender import History, ItemId
from ss4rec.serve.service import Ask
from ss4rec.serve.store import NewEvent

MOST_EVENTS, MOST_HISTORY, MOST_K, MOST_ITEMS, MOST_CONTEXT = 1000, 2000, 1000, 100, 32
AHEAD_S = 86_400
"""Events may be at most this far in the future: a wrong clock must not put a user's history out of order for years."""

Name = Annotated[str, Field(min_length=1, max_length=200, coerce_numbers_to_str=True)]
"""A user's or an item's id of the source, as a text or a number."""


class Part(BaseModel):
    """A part of a request: fields that nobody knows are refused."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)


def _seconds(value: Any, name: str) -> int:
    """Return a moment of JSON as unix seconds."""
    if isinstance(value, str):
        from datetime import datetime

        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            raise ValueError(f"{value!r} is no time; give unix seconds or 2026-01-31T12:00:00Z") from None
    if isinstance(value, bool) or value is None:
        raise ValueError(f"{value!r} is no time; give unix seconds or 2026-01-31T12:00:00Z")
    try:
        return int(unix_seconds([value], name)[0])
    except (UsageError, TypeError) as error:
        raise ValueError(str(error)) from None


class HistoryEvent(Part):
    """An event of a history that comes with a question."""

    item: Name
    time: int
    """Unix seconds, or ISO 8601 (UTC where it names no zone)."""
    rating: float | None = Field(default=None, allow_inf_nan=False)
    context: dict[Name, str | float | None] | None = Field(default=None, max_length=MOST_CONTEXT)
    """What is known about the event, as in `{"device": "phone"}`, where the model reads it."""

    @field_validator("time", mode="before")
    @classmethod
    def _time(cls, value: Any) -> int:
        return _seconds(value, "time")


class EventIn(HistoryEvent):
    """What a user did."""

    user: Name
    id: Name | None = None
    """Your own name for the event: sent again, it is written once. Without one, user, item and time name it."""

    @field_validator("time")
    @classmethod
    def _not_in_the_future(cls, value: int) -> int:
        if value > time.time() + AHEAD_S:
            raise ValueError(f"{value} is more than a day in the future")
        return value

    def new_event(self) -> NewEvent:
        """Return it as the store takes it."""
        told = json.dumps(self.context, sort_keys=True) if self.context else None
        return NewEvent(self.user, self.item, self.time, self.rating, told, self.id)


class EventsIn(Part):
    """Events to be written, all or none."""

    events: list[EventIn] = Field(min_length=1, max_length=MOST_EVENTS)


class ProfileIn(Part):
    """What is known about a user."""

    user: Name
    profile: dict[Name, str | int | float] = Field(max_length=MOST_CONTEXT)
    """As in `{"gender": "F", "age": 25}`; it takes the place of what was known."""


class ProfilesIn(Part):
    """What is known about some users."""

    users: list[ProfileIn] = Field(min_length=1, max_length=MOST_EVENTS)


class AskIn(Part):
    """A question: for a user whose events were sent, or for a history that comes along."""

    user: Name | None = None
    history: list[HistoryEvent] | None = Field(default=None, min_length=1, max_length=MOST_HISTORY)
    profile: dict[str, str | int | float] | None = None
    """What is known about the person of `history`, where the model reads it."""
    at: int | Literal["now"] | None = None
    """Moment for which to recommend; without one, the median training gap after the newest event."""
    k: int = Field(default=10, ge=1, le=MOST_K)
    exclude_seen: bool = True

    @field_validator("at", mode="before")
    @classmethod
    def _at(cls, value: Any) -> Any:
        if isinstance(value, str) and value.isdecimal():  # of a query string
            value = int(value)
        return value if value in (None, "now") else _seconds(value, "at")

    def ask(self) -> Ask:
        """Return the question.

        Raises:
            UnknownUserError: if it names neither a user nor a history, or both.
        """
        if (self.user is None) == (self.history is None):
            raise UsageError("name a user or give a history, one of the two")
        now = self.at == "now"
        at = int(time.time()) if self.at == "now" else self.at
        if self.history is None:
            return Ask(user=self.user, at=at, now=now, k=self.k, exclude_seen=self.exclude_seen)
        items: list[ItemId] = [event.item for event in self.history]
        ratings = [float("nan") if event.rating is None else event.rating for event in self.history]
        names = sorted({name for event in self.history for name in event.context or {}})
        context = {name: [(event.context or {}).get(name) for event in self.history] for name in names}
        times = [event.time for event in self.history]
        history = History(items, times, ratings=ratings, profile=self.profile, context=context)
        return Ask(history=history, at=at, now=now, k=self.k, exclude_seen=self.exclude_seen)


class SimilarIn(Part):
    """Items whose neighbours are wanted."""

    items: list[Name] = Field(min_length=1, max_length=MOST_ITEMS)
    k: int = Field(default=10, ge=1, le=MOST_K)


class Answered(BaseModel):
    """A part of an answer."""

    model_config = ConfigDict(use_attribute_docstrings=True)


class ModelName(Answered):
    """Which model answered."""

    name: str
    fingerprint: str


class EventsOut(Answered):
    """What became of the events: they are on disk."""

    added: int
    repeated: int
    """Events that were there before."""
    unknown_items: list[str]
    """Items that the present model does not know; the events are kept for one that does."""
    unread_context: list[str]
    """Columns about the events that the present model does not read; they are kept for one that does."""
    model: ModelName


class ProfilesOut(Answered):
    """What became of the profiles: they are on disk."""

    written: int
    unread: list[str]
    """Values that the present model does not read, as in `country=NL`; they are kept for one that does."""
    model: ModelName


class ItemOut(Answered):
    """An item of a list."""

    item: ItemId
    title: str | None
    score: float
    """Comparable within one list only."""


class RecommendOut(Answered):
    """A list, best first."""

    user: str | None
    items: list[ItemOut]
    events: int
    """Events of the history that the model knows."""
    newest: int
    """Unix time of the newest of them."""
    model: ModelName


class SimilarOut(Answered):
    """Neighbours of each item, nearest first."""

    similar: dict[str, list[ItemOut]]
    model: ModelName


class ErrorOut(Answered):
    """Why there is no answer, in a sentence."""

    error: str
