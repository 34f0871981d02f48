"""Every baseline that stands beside a model in a table, counted from the training events of one protocol."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ss4rec.data.prepared.folder import PreparedFolder
from ss4rec.evaluation.item_cosine import ItemCosine
from ss4rec.evaluation.markov import MarkovChain
from ss4rec.evaluation.own_items import OwnMostFrequent, OwnMostRecent
from ss4rec.evaluation.popularity import DAY_S, MostPopular, RecentlyPopular, TrainingEvents
from ss4rec.evaluation.scorers import Scorer
from ss4rec.evaluation.training import training_parts
from ss4rec.io.paths import AnyPath
from ss4rec.protocol.plan import Plan

WINDOW_DAYS = (7, 30)
"""Windows of recent popularity."""


def baselines(folder: PreparedFolder | AnyPath, plan: Plan) -> dict[str, Scorer]:
    """Return the baselines by name, in the order of tables.

    With a cut in time, `popular in N days` looks at the last days of training, as a model does that is not trained
    again; `popular now, N days` counts all events before the moment of each recommendation, later ones too.
    """
    folder = PreparedFolder.open(folder)
    parts = list(training_parts(folder.shard_paths, folder.manifest.items, plan))
    events = TrainingEvents.of(parts, plan.num_items)
    counts_V = events.counts()
    found: dict[str, Scorer] = {"most popular": MostPopular(counts_V)}
    found |= recent_popularity(folder, plan, events)
    found |= {
        "Markov chain": MarkovChain.of(parts, plan.num_items),
        "item to item": ItemCosine.count(parts, plan.num_items),
        "own frequent": OwnMostFrequent(counts_V),
        "own recent": OwnMostRecent(counts_V),
    }
    return found


def recent_popularity(
    folder: PreparedFolder, plan: Plan, events: TrainingEvents, windows_days: Sequence[int] = WINDOW_DAYS
) -> dict[str, Scorer]:
    """Return popularity in windows of time, by name as in `baselines`."""
    if plan.cut_s is None:
        return {f"popular in {_days(days)}": RecentlyPopular(events, days * DAY_S) for days in windows_days}
    last_s = int(events.times_E[-1])
    later = training_parts(folder.shard_paths, folder.manifest.items, plan, later=True)
    everything = TrainingEvents.of(list(later), plan.num_items)
    found: dict[str, Scorer] = {}
    for days in windows_days:
        recent_E = events.times_E > last_s - days * DAY_S
        counts_V = np.bincount(events.items_E[recent_E], minlength=plan.num_items + 1)
        found[f"popular in {_days(days)}"] = MostPopular(counts_V)
        found[f"popular now, {_days(days)}"] = RecentlyPopular(everything, days * DAY_S)
    return found


def _days(days: int) -> str:
    return f"{days} day{'s' * (days > 1)}"
