"""Events of a prepared folder into an event store: the users that a model was trained on."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

from ss4rec.data.prepared.folder import PreparedFolder
from ss4rec.data.prepared.manifest import Feature
from ss4rec.data.prepared.tables import read_shard
from ss4rec.data.prepared.user_profiles import profile_columns
from ss4rec.data.sources.rows import CONTEXT
from ss4rec.serve.store import EventStore, NewEvent

BATCH_EVENTS = 20_000
"""Events of one transaction."""
OTHER = "(another value)"
"""What an event has in a column whose rare values were not kept: no value that the model knows."""


def import_histories(folder: PreparedFolder, store: EventStore) -> int:
    """Write the events of all users, what is known about each event, and their profiles; returns how many events were
    new. Doing it again adds nothing.

    An item that a user took twice in the same second is one event: nothing tells the two apart.
    """
    items = folder.items["source_id"].to_pylist()
    users = folder.users["source_id"].to_pylist()
    waiting: list[NewEvent] = []
    added = 0
    for path in folder.shard_paths:
        for row in read_shard(path).to_pylist():
            user = str(users[row["user"]])
            told = _contexts(row, folder.manifest.context or ())
            events = zip(row["items"], row["timestamps"], row["ratings"], told, strict=True)
            for item, time_s, rating, context in events:
                known = None if rating is None or math.isnan(rating) else rating
                waiting.append(NewEvent(user, str(items[item - 1]), time_s, known, context))
            if len(waiting) >= BATCH_EVENTS:
                added += _write(store, waiting)
                waiting = []
    _write_profiles(folder, [str(user) for user in users], store)
    return added + _write(store, waiting)


def _contexts(row: dict[str, Any], features: Sequence[Feature]) -> list[str | None]:
    """Return what is known about each event of a user beside item, time and rating, a JSON object each."""
    told: list[dict[str, str | float]] = [{} for _ in row["items"]]
    for feature in features:
        for known, value in zip(told, row[CONTEXT + feature.name], strict=True):
            if feature.kind == "number":
                if value is not None and not math.isnan(value):
                    known[feature.name] = value
            elif value:
                values = feature.values or ()
                known[feature.name] = values[value - 1] if value <= len(values) else OTHER
    return [json.dumps(known, sort_keys=True) if known else None for known in told]


def _write_profiles(folder: PreparedFolder, users: list[str], store: EventStore) -> None:
    """Write what a prepared folder says about its users."""
    columns = profile_columns(folder.path, folder.manifest)
    profiles = {}
    for place, user in enumerate(users):
        known = {name: values[place] for name, values in columns.items() if values[place] is not None}
        if known:
            profiles[user] = json.dumps(known, sort_keys=True)
    if profiles:
        store.set_profiles(profiles)


def _write(store: EventStore, events: list[NewEvent]) -> int:
    return sum(one.outcome == "added" for one in store.add(events)) if events else 0
