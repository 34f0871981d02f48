"""The event store: what users did, as a database that acknowledges nothing before it is on disk.

Each user's events are numbered from 1 in the order in which they were accepted. The number says what a cached state
has seen already; the place of an event in the history is its time, and among equal times its number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from ss4rec.errors import SS4RecError

FORMAT = 1
"""Version of the tables."""


class StoreError(SS4RecError):
    """The event store cannot be reached or written just now; nothing was acknowledged."""


@dataclass(frozen=True)
class NewEvent:
    """An event that somebody sends."""

    user: str
    item: str
    """Source id as text."""
    time_s: int
    rating: float | None = None
    context: str | None = None
    """What is known about the event beside, as a JSON object."""
    id: str | None = None
    """The sender's own name for it: sent again, it is the same event. None: user, item and time name it."""

    @property
    def key(self) -> str:
        """What makes it the same event as another of the same user."""
        return f"id:{self.id}" if self.id is not None else f"at:{self.time_s}:{self.item}"


@dataclass(frozen=True)
class StoredEvent:
    """An event of a known user."""

    number: int
    item: str
    time_s: int
    rating: float | None
    context: str | None


@dataclass(frozen=True)
class Accepted:
    """What became of a new event."""

    outcome: Literal["added", "repeated", "conflict"]
    """`conflict`: the id belongs to another event of this user; nothing was written."""
    number: int
    """Number of the stored event."""


class EventStore(Protocol):
    """A database of events. Threads may share one."""

    def add(self, events: Sequence[NewEvent]) -> list[Accepted]:
        """Write events; when this returns, they survive the end of every process and of the machine's power.

        Raises:
            StoreError: if that cannot be had; some may be written, and sending all again is safe.
        """
        ...

    def since(self, numbers: Mapping[str, int]) -> dict[str, list[StoredEvent]]:
        """Return for each user the events with numbers above the given one, by number; users without any too."""
        ...

    def set_profiles(self, profiles: Mapping[str, str]) -> None:
        """Write what is known about users, a JSON object each, in the place of what was known.

        Raises:
            StoreError: if that cannot be had.
        """
        ...

    def profiles(self, users: Sequence[str]) -> dict[str, str]:
        """Return what is known about these users; only those of whom something is."""
        ...

    def size(self) -> tuple[int, int]:
        """Return how many users and events there are."""
        ...

    def close(self) -> None:
        """Let go of the database."""
        ...


def compare(event: NewEvent, stored: StoredEvent) -> Accepted:
    """Say whether an event whose key is taken is the one that took it."""
    same = (event.item, event.time_s) == (stored.item, stored.time_s)
    return Accepted("repeated" if same else "conflict", stored.number)


def require_format(found: str) -> None:
    """Refuse tables of another version."""
    if found != str(FORMAT):
        raise StoreError(
            f"the event store has tables of version {found}, this is {FORMAT}; use another ss4rec or a new store"
        )
