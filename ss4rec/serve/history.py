"""Events of a prepared folder into an event store: the users that a model was trained on."""

from __future__ import annotations

import math

from ss4rec.data.prepared.folder import PreparedFolder
from ss4rec.data.prepared.tables import read_shard
from ss4rec.serve.store import EventStore, NewEvent

BATCH_EVENTS = 20_000
"""Events of one transaction."""


def import_histories(folder: PreparedFolder, store: EventStore) -> int:
    """Write the events of all users; returns how many were new. Doing it again adds nothing.

    An item that a user took twice in the same second is one event: nothing tells the two apart.
    """
    items = folder.items["source_id"].to_pylist()
    users = folder.users["source_id"].to_pylist()
    waiting: list[NewEvent] = []
    added = 0
    for path in folder.shard_paths:
        for row in read_shard(path).to_pylist():
            user = str(users[row["user"]])
            for item, time_s, rating in zip(row["items"], row["timestamps"], row["ratings"], strict=True):
                known = None if rating is None or math.isnan(rating) else rating
                waiting.append(NewEvent(user, str(items[item - 1]), time_s, known))
            if len(waiting) >= BATCH_EVENTS:
                added += _write(store, waiting)
                waiting = []
    return added + _write(store, waiting)


def _write(store: EventStore, events: list[NewEvent]) -> int:
    return sum(one.outcome == "added" for one in store.add(events)) if events else 0
