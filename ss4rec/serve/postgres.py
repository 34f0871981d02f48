"""The event store in PostgreSQL, for servers on several machines."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from ss4rec.errors import UsageError
from ss4rec.serve.store import FORMAT, Accepted, NewEvent, StoredEvent, StoreError, compare, require_format

if TYPE_CHECKING:
    import psycopg

Result = TypeVar("Result")
CONNECT_S = 10
TABLES = (
    "CREATE TABLE IF NOT EXISTS ss4rec_facts (name TEXT PRIMARY KEY, value TEXT NOT NULL)",
    f"INSERT INTO ss4rec_facts VALUES ('format', '{FORMAT}') ON CONFLICT DO NOTHING",  # nosec B608  # a constant
    'CREATE TABLE IF NOT EXISTS ss4rec_events ("user" TEXT NOT NULL, number BIGINT NOT NULL, key TEXT NOT NULL,'
    " item TEXT NOT NULL, time_s BIGINT NOT NULL, rating DOUBLE PRECISION, context TEXT,"
    ' PRIMARY KEY ("user", number), UNIQUE ("user", key))',
    'CREATE TABLE IF NOT EXISTS ss4rec_profiles ("user" TEXT PRIMARY KEY, profile TEXT NOT NULL)',
)
SET_UP_LOCK = 5_004_000
"""Number of the lock under which tables are made: two servers may start at the same moment."""


class PostgresStore:
    """Tables `ss4rec_events`, `ss4rec_profiles` and `ss4rec_facts` of a database; any number of servers may share it.

    A user's events are numbered under a lock of that user, so that a number is visible when all below it are.

    Args:
        address: `postgresql://USER@HOST/DATABASE`, with or without a password (or in ~/.pgpass).

    Raises:
        UsageError: if the driver is missing.
        StoreError: if the server does not answer, or has tables of another version.
    """

    def __init__(self, address: str) -> None:
        try:
            import psycopg  # noqa: F401  # without its binary part it wants libpq, and says so
        except ImportError as error:
            raise UsageError(
                f"a store in PostgreSQL needs psycopg ({error}); pip install 'ss4rec[postgres]'"
            ) from None
        self._address = address
        self._own = threading.local()
        self._all: list[psycopg.Connection[Any]] = []
        self._run(self._set_up)

    def add(self, events: Sequence[NewEvent]) -> list[Accepted]:
        """See `EventStore.add`: one transaction for all."""
        return self._run(lambda connection: self._add_all(connection, events))

    def since(self, numbers: Mapping[str, int]) -> dict[str, list[StoredEvent]]:
        """See `EventStore.since`."""

        def read(connection: psycopg.Connection[Any]) -> dict[str, list[StoredEvent]]:
            rows = connection.execute(
                'SELECT e."user", number, item, time_s, rating, context FROM ss4rec_events e'
                ' JOIN unnest(%s::text[], %s::bigint[]) AS asked("user", after) ON e."user" = asked."user"'
                ' WHERE number > after ORDER BY e."user", number',
                (list(numbers), list(numbers.values())),
            )
            found: dict[str, list[StoredEvent]] = {user: [] for user in numbers}
            for user, *event in rows:
                found[user].append(StoredEvent(*event))
            return found

        return self._run(read)

    def set_profiles(self, profiles: Mapping[str, str]) -> None:
        """See `EventStore.set_profiles`."""
        query = (
            "INSERT INTO ss4rec_profiles SELECT * FROM unnest(%s::text[], %s::text[])"
            ' ON CONFLICT ("user") DO UPDATE SET profile = EXCLUDED.profile'
        )
        rows = sorted(profiles.items())  # in one order for all, so that two writers never wait for each other
        columns = ([user for user, _ in rows], [profile for _, profile in rows])
        self._run(lambda connection: connection.execute(query, columns))

    def profiles(self, users: Sequence[str]) -> dict[str, str]:
        """See `EventStore.profiles`."""
        query = 'SELECT "user", profile FROM ss4rec_profiles WHERE "user" = ANY(%s)'
        return dict(self._run(lambda connection: connection.execute(query, (list(users),)).fetchall()))

    def size(self) -> tuple[int, int]:
        """See `EventStore.size`."""
        query = 'SELECT count(DISTINCT "user"), count(*) FROM ss4rec_events'
        users, events = self._run(lambda connection: connection.execute(query).fetchall())[0]
        return users, events

    def close(self) -> None:
        """See `EventStore.close`."""
        for connection in self._all:
            connection.close()
        self._all.clear()

    @staticmethod
    def _set_up(connection: psycopg.Connection[Any]) -> None:
        with connection.transaction():
            connection.execute("SELECT pg_advisory_xact_lock(%s)", (SET_UP_LOCK,))
            for statement in TABLES:
                connection.execute(statement)
            found = connection.execute("SELECT value FROM ss4rec_facts WHERE name = 'format'").fetchall()
        require_format(found[0][0])

    @staticmethod
    def _add_all(connection: psycopg.Connection[Any], events: Sequence[NewEvent]) -> list[Accepted]:
        with connection.transaction():
            # In one order for all, so that two transactions never wait for each other.
            for user in sorted({event.user for event in events}):
                connection.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", (user,))
            return [_add(connection, event) for event in events]

    def _run(self, work: Callable[[psycopg.Connection[Any]], Result]) -> Result:
        """Do some work; once more on a new connection if the old one was lost, which is safe for what is done here."""
        import psycopg

        with self._said():
            try:
                return work(self._connection())
            except psycopg.OperationalError:
                self._own.connection = None
                return work(self._connection())

    def _connection(self) -> psycopg.Connection[Any]:
        """Return this thread's connection."""
        import psycopg

        connection: psycopg.Connection[Any] | None = getattr(self._own, "connection", None)
        if connection is None or connection.closed:
            connection = psycopg.connect(self._address, autocommit=True, connect_timeout=CONNECT_S)
            self._own.connection = connection
            self._all = [one for one in self._all if not one.closed] + [connection]
        return connection

    @contextmanager
    def _said(self) -> Iterator[None]:
        """Turn what the driver raises into one sentence, without the address, which may hold a password."""
        import psycopg

        try:
            yield
        except psycopg.Error as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise StoreError(f"the event store in PostgreSQL failed: {reason}") from None


def _add(connection: psycopg.Connection[Any], event: NewEvent) -> Accepted:
    found = connection.execute(
        'SELECT number, item, time_s, rating, context FROM ss4rec_events WHERE "user" = %s AND key = %s',
        (event.user, event.key),
    ).fetchone()
    if found is not None:
        return compare(event, StoredEvent(*found))
    added = connection.execute(
        "INSERT INTO ss4rec_events SELECT %(user)s, coalesce(max(number), 0) + 1, %(key)s, %(item)s, %(time_s)s,"
        ' %(rating)s, %(context)s FROM ss4rec_events WHERE "user" = %(user)s RETURNING number',
        {**vars(event), "key": event.key},
    ).fetchone()
    assert added is not None
    return Accepted("added", added[0])
