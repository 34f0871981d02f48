"""From what `--store` says to an event store."""

from __future__ import annotations

from pathlib import Path

from ss4rec.errors import UsageError
from ss4rec.serve.postgres import PostgresStore
from ss4rec.serve.sqlite import SqliteStore
from ss4rec.serve.store import EventStore


def open_store(place: str) -> EventStore:
    """Open a store: the path of a file (SQLite) or `postgresql://USER@HOST/DATABASE`.

    Raises:
        UsageError: for another kind of address, or where the driver is missing.
        StoreError: if it cannot be opened.
    """
    if place.startswith(("postgresql://", "postgres://")):
        return PostgresStore(place)
    if "://" in place:
        raise UsageError(
            f"--store {place}: give a file for SQLite, or an address that begins with postgresql://"
        )
    return SqliteStore(Path(place))
