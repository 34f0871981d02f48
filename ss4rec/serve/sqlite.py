"""The event store in SQLite: a file beside the server, for one machine."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from ss4rec.serve.store import FORMAT, Accepted, NewEvent, StoredEvent, StoreError, compare, require_format

BUSY_S = 30.0
"""How long a writer waits for another process's transaction."""
NEWEST = "SELECT coalesce(max(number), 0) FROM events WHERE user = ?"
SAME = "SELECT number, item, time_s, rating, context FROM events WHERE user = ? AND key = ?"
PROFILE = "SELECT profile FROM profiles WHERE user = ?"


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
                f"INSERT OR IGNORE INTO facts VALUES ('id', '{uuid4().hex}');"
                "CREATE TABLE IF NOT EXISTS events (user TEXT NOT NULL, number INTEGER NOT NULL, key TEXT NOT NULL,"
                " item TEXT NOT NULL, time_s INTEGER NOT NULL, rating REAL, context TEXT,"
                " PRIMARY KEY (user, number), UNIQUE (user, key)) WITHOUT ROWID;"
                "CREATE TABLE IF NOT EXISTS profiles (user TEXT PRIMARY KEY, profile TEXT NOT NULL) WITHOUT ROWID;"
                "COMMIT;"
            )
            require_format(connection.execute("SELECT value FROM facts WHERE name = 'format'").fetchone()[0])
            self.id: str = connection.execute("SELECT value FROM facts WHERE name = 'id'").fetchone()[0]
            """What tells this store from every other one."""

    def add(self, events: Sequence[NewEvent]) -> list[Accepted]:
        """See `EventStore.add`: one transaction for all."""
        with self._said():
            connection = self._connection()
            connection.execute("BEGIN IMMEDIATE")
            try:
                accepted = self._add(connection, events)
                connection.execute("COMMIT")
            except BaseException:
                connection.execute("ROLLBACK")
                raise
        return accepted

    def since(self, numbers: Mapping[str, int]) -> dict[str, list[StoredEvent]]:
        """See `EventStore.since`."""
        query = "SELECT number, item, time_s, rating, context FROM events WHERE user = ? AND number > ? ORDER BY number"
        with self._said():
            connection = self._connection()
            return {
                user: [StoredEvent(*row) for row in connection.execute(query, (user, number))]
                for user, number in numbers.items()
            }

    def set_profiles(self, profiles: Mapping[str, str]) -> None:
        """See `EventStore.set_profiles`."""
        with self._said():
            connection = self._connection()
            connection.execute("BEGIN IMMEDIATE")
            try:
                connection.executemany(
                    "INSERT OR REPLACE INTO profiles VALUES (?, ?)", list(profiles.items())
                )
                connection.execute("COMMIT")
            except BaseException:
                connection.execute("ROLLBACK")
                raise

    def profiles(self, users: Sequence[str]) -> dict[str, str]:
        """See `EventStore.profiles`."""
        with self._said():
            connection = self._connection()
            found = ((user, connection.execute(PROFILE, (user,)).fetchone()) for user in users)
            return {user: row[0] for user, row in found if row is not None}

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
    def _add(connection: sqlite3.Connection, events: Sequence[NewEvent]) -> list[Accepted]:
        """Add events in a transaction that is open; a user who is new costs one question, not one an event."""
        last: dict[str, int] = {}
        old: set[str] = set()
        coming: dict[tuple[str, str], StoredEvent] = {}
        accepted: list[Accepted] = []
        for event in events:
            user, key = event.user, event.key
            if user not in last:
                (last[user],) = connection.execute(NEWEST, (user,)).fetchone()
                old |= {user} if last[user] else set()
            found = coming.get((user, key))
            if found is None and user in old and (row := connection.execute(SAME, (user, key)).fetchone()):
                found = StoredEvent(*row)
            if found is not None:
                accepted.append(compare(event, found))
                continue
            last[user] += 1
            coming[user, key] = StoredEvent(last[user], event.item, event.time_s, event.rating, event.context)
            accepted.append(Accepted("added", last[user]))
        rows = [
            (user, one.number, key, one.item, one.time_s, one.rating, one.context)
            for (user, key), one in coming.items()
        ]
        connection.executemany("INSERT INTO events VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
        return accepted

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
