"""States on disk beside the event store: a replica that starts anew takes them up where another one left them.

They are a cache of a cache. What is missing, damaged, of another model or of another store is made from the events.
"""

from __future__ import annotations

import logging
import random
import sqlite3
import threading
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from ss4rec.errors import CheckpointError
from ss4rec.serve.sqlite import SqliteStore
from ss4rec.states.files import states_from_bytes, states_to_bytes
from ss4rec.states.state import State
from ss4rec.states.state_model import StateModel

logger = logging.getLogger(__name__)
BUSY_S = 5.0
"""How long one waits for another process's writing."""
ATTEMPTS = 5
SURPLUS = (
    "DELETE FROM states WHERE rowid IN (SELECT rowid FROM states ORDER BY rowid "
    "LIMIT max(0, (SELECT count(*) FROM states) - ?))"
)


class KeptStates:
    """A file of SQLite with a row for each user and model; any number of processes of a machine may share it.

    Nothing here is an error to whoever asks for a list: the log says what went wrong, and states are made anew.

    Args:
        path: the file; it is made if there is none.
        store_id: of the event store; states of another one are thrown away.
        most: rows that are kept; those that were written longest ago go first.
    """

    def __init__(self, path: Path, store_id: str, most: int = 20_000) -> None:
        self.path = path
        self.store_id = store_id
        self.most = most
        # Who writes may wait for another process; who reads never does, and has a connection of its own.
        self._writing, self._reading = threading.Lock(), threading.Lock()
        self._connection, self._reader = (
            sqlite3.connect(path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
            for _ in range(2)
        )
        # NORMAL: the last rows may be lost with the machine's power, and no commit waits for the disk.
        self._connection.executescript(
            "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;"
            "BEGIN IMMEDIATE;"
            "CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL);"
            "CREATE TABLE IF NOT EXISTS states (user TEXT NOT NULL, model TEXT NOT NULL, number INTEGER NOT NULL,"
            " data BLOB NOT NULL, PRIMARY KEY (user, model));"
            "COMMIT;"
        )
        found = self._connection.execute("SELECT value FROM facts WHERE name = 'store'").fetchone()
        if found != (store_id,):
            self._connection.execute("DELETE FROM states")
            self._connection.execute("INSERT OR REPLACE INTO facts VALUES ('store', ?)", (store_id,))

    @property
    def graphs(self) -> Path:
        """Folder for the recorded graphs of models (`ss4rec.states.graphs`)."""
        return self.path.with_name(self.path.name + ".graphs")

    def save(self, model: StateModel, states: Mapping[str, tuple[int, State]]) -> None:
        """Keep the states of some users, each with the number of the last event that was looked at."""
        rows = [
            (user, _key(model), number, states_to_bytes({user: state}, model))
            for user, (number, state) in states.items()
        ]
        try:
            with self._writing:
                self._connection.execute("BEGIN IMMEDIATE")
                try:
                    # A row that is replaced gets a new rowid, the largest, so rowids are in the order of writing.
                    self._connection.executemany("INSERT OR REPLACE INTO states VALUES (?, ?, ?, ?)", rows)
                    self._connection.execute(SURPLUS, (self.most,))
                    self._connection.execute("COMMIT")
                except BaseException:
                    self._connection.execute("ROLLBACK")
                    raise
        except sqlite3.Error as error:
            logger.warning("states of %d users were not kept in %s: %s", len(rows), self.path, error)

    def load(self, model: StateModel, users: Iterable[str]) -> dict[str, tuple[int, State]]:
        """Return what is kept of some users for a model: number of the last event that was looked at, and state."""
        found: dict[str, tuple[int, State]] = {}
        query = "SELECT number, data FROM states WHERE user = ? AND model = ?"
        for user in users:
            try:
                with self._reading:
                    row = self._reader.execute(query, (user, _key(model))).fetchone()
                if row is not None:
                    found[user] = row[0], states_from_bytes(row[1], model, str(self.path))[user]
            except (sqlite3.Error, CheckpointError, KeyError) as error:
                logger.warning("the state of user %r in %s is made anew: %s", user, self.path, error)
        return found

    def users(self) -> list[str]:
        """Return whose states are kept, for any model; those that were written last come first."""
        query = "SELECT user FROM states GROUP BY user ORDER BY max(rowid) DESC"
        try:
            with self._reading:
                return [user for (user,) in self._reader.execute(query)]
        except sqlite3.Error as error:
            logger.warning("whose states are kept in %s cannot be read: %s", self.path, error)
            return []

    def numbers(self, model: StateModel, users: Iterable[str]) -> dict[str, int]:
        """Return the numbers of the last events of kept states, 0 where there is none."""
        query = "SELECT user, number FROM states WHERE model = ?"
        try:
            with self._reading:
                there = dict(self._reader.execute(query, (_key(model),)).fetchall())
        except sqlite3.Error as error:
            logger.warning("states kept in %s cannot be read: %s", self.path, error)
            there = {}
        return {user: there.get(user, 0) for user in users}

    def lacking(self, model: StateModel, users: Iterable[str]) -> list[str]:
        """Return those of some users of whom no state is kept for a model."""
        return [user for user, number in self.numbers(model, users).items() if not number]

    def close(self) -> None:
        """Let go of the file."""
        with self._writing, self._reading:
            self._connection.close()
            self._reader.close()


def open_kept_states(store: SqliteStore, most: int) -> KeptStates | None:
    """Open the states beside a store in SQLite; a damaged file is replaced, None where none can be had."""
    path = store.path.with_name(store.path.name + ".states")
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return KeptStates(path, store.id, most)
        except sqlite3.DatabaseError as error:
            locked = isinstance(error, sqlite3.OperationalError)
            if not locked or attempt == ATTEMPTS:
                logger.warning("the states in %s are not used: %s", path, error)
            if locked:  # replicas that start together make the file at the same moment
                time.sleep(random.uniform(0.1, 0.5))  # nosec B311  # no secret
                continue
            for end in ("", "-wal", "-shm"):
                path.with_name(path.name + end).unlink(missing_ok=True)
    return None


def _key(model: StateModel) -> str:
    return f"{model.fingerprint}-{model.precision}"
