"""The event store: what users did, as a database that acknowledges nothing before it is on disk.

Each user's events are numbered from 1 in the order in which they were accepted. The number says what a cached state
has seen already; the place of an event in the history is its time, and among equal times its number.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from ss4rec.errors import SS4RecError, UsageError

FORMAT = 1
"""Version of the tables."""
BUSY_S = 30.0
"""How long a writer of SQLite waits for another process's transaction."""


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

    def size(self) -> tuple[int, int]:
        """Return how many users and events there are."""
        ...

    def close(self) -> None:
        """Let go of the database."""
        ...


class SqliteStore:
    """A file beside the server, for one machine; any number of its processes may share it.

    Args:
        path: the file; it is made if there is none.

    Raises:
        StoreError: if the file is no such database.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._own = threading.local()
        self._all: list[sqlite3.Connection] = []
        with self._said():
            connection = self._connection()
            connection.executescript(
                "BEGIN IMMEDIATE;"
                "CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL);"
                f"INSERT OR IGNORE INTO facts VALUES ('format', '{FORMAT}');"
                "CREATE TABLE IF NOT EXISTS events (user TEXT NOT NULL, number INTEGER NOT NULL, key TEXT NOT NULL,"
                " item TEXT NOT NULL, time_s INTEGER NOT NULL, rating REAL,"
                " PRIMARY KEY (user, number), UNIQUE (user, key)) WITHOUT ROWID;"
                "COMMIT;"
            )
            require_format(connection.execute("SELECT value FROM facts WHERE name = 'format'").fetchone()[0])

    def add(self, events: Sequence[NewEvent]) -> list[Accepted]:
        """See `EventStore.add`: one transaction for all."""
        with self._said():
            connection = self._connection()
            connection.execute("BEGIN IMMEDIATE")
            try:
                accepted = [self._add(connection, event) for event in events]
                connection.execute("COMMIT")
            except BaseException:
                connection.execute("ROLLBACK")
                raise
        return accepted

    def since(self, numbers: Mapping[str, int]) -> dict[str, list[StoredEvent]]:
        """See `EventStore.since`."""
        query = (
            "SELECT number, item, time_s, rating FROM events WHERE user = ? AND number > ? ORDER BY number"
        )
        with self._said():
            connection = self._connection()
            return {
                user: [StoredEvent(*row) for row in connection.execute(query, (user, number))]
                for user, number in numbers.items()
            }

    def size(self) -> tuple[int, int]:
        """See `EventStore.size`."""
        with self._said():
            row = self._connection().execute("SELECT count(DISTINCT user), count(*) FROM events").fetchone()
        return row[0], row[1]

    def close(self) -> None:
        """See `EventStore.close`."""
        for connection in self._all:
            connection.close()
        self._all.clear()

    @staticmethod
    def _add(connection: sqlite3.Connection, event: NewEvent) -> Accepted:
        found = connection.execute(
            "SELECT number, item, time_s, rating FROM events WHERE user = ? AND key = ?",
            (event.user, event.key),
        ).fetchone()
        if found is not None:
            return compare(event, StoredEvent(*found))
        (number,) = connection.execute(
            "SELECT coalesce(max(number), 0) + 1 FROM events WHERE user = ?", (event.user,)
        ).fetchone()
        row = (event.user, number, event.key, event.item, event.time_s, event.rating)
        connection.execute("INSERT INTO events VALUES (?, ?, ?, ?, ?, ?)", row)
        return Accepted("added", number)

    def _connection(self) -> sqlite3.Connection:
        """Return this thread's connection."""
        connection: sqlite3.Connection | None = getattr(self._own, "connection", None)
        if connection is None:
            connection = sqlite3.connect(
                self.path, timeout=BUSY_S, isolation_level=None, check_same_thread=False
            )
            # FULL: a commit returns when the log is on disk; NORMAL would forget the last ones if the power fails.
            connection.executescript("PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;")
            self._own.connection = connection
            self._all.append(connection)
        return connection

    @contextmanager
    def _said(self) -> Iterator[None]:
        """Turn what SQLite raises into one sentence."""
        try:
            yield
        except sqlite3.Error as error:
            raise StoreError(f"the event store {self.path} failed: {error}") from error


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


def open_store(place: str) -> EventStore:
    """Open a store: the path of a file (SQLite) or `postgresql://USER@HOST/DATABASE`.

    Raises:
        UsageError: for another kind of address, or where the driver is missing.
        StoreError: if it cannot be opened.
    """
    if place.startswith(("postgresql://", "postgres://")):
        from ss4rec.serve.postgres import PostgresStore

        return PostgresStore(place)
    if "://" in place:
        raise UsageError(
            f"--store {place}: give a file for SQLite, or an address that begins with postgresql://"
        )
    return SqliteStore(Path(place))
