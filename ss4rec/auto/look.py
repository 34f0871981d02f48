"""What of a prepared folder decides a configuration: sizes, density, lengths, times, repeats, columns.

Only events that train are looked at, as the protocol divides them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ss4rec.data.batches.windows import ragged
from ss4rec.data.prepared.event_columns import chosen_context
from ss4rec.data.prepared.folder import PreparedFolder
from ss4rec.data.prepared.item_codes import chosen_features
from ss4rec.data.prepared.tables import read_shard
from ss4rec.data.prepared.user_profiles import chosen_columns
from ss4rec.evaluation.training import TrainingPart, training_parts
from ss4rec.io.moments import DAY_S
from ss4rec.io.paths import AnyPath
from ss4rec.protocol.plan import Plan

SAMPLE_SHARDS = 16
"""Shards whose events are looked at one by one, spread evenly; counts come from the tables of users and items."""
RESOLUTIONS_S = (DAY_S, 3_600, 60)
"""Steps of time that are tried, coarse ones first."""


@dataclass(frozen=True)
class Facts:
    """What was seen."""

    name: str
    users: int
    """Users with training events."""
    items: int
    events: int
    """Training events."""
    user_events: tuple[float, float, float]
    """Training events of a user: median, 90 % and 98 % quantile."""
    zero_gaps: float
    """Share of gaps within users that are 0 s."""
    resolution_s: int
    """Step of nearly all times: a day, an hour, a minute or a second."""
    span_days: float
    """Days between the first and the last event."""
    repeats: float
    """Share of events on an item that the user had before."""
    has_ratings: bool
    """Whether ratings say anything."""
    has_attributes: bool
    """Whether items have genres, or years behind their titles."""
    item_features: tuple[str, ...] = ()
    """Features of items that the data were prepared with."""
    user_features: tuple[str, ...] = ()
    """Columns about users that they were prepared with."""
    context: tuple[str, ...] = ()
    """Columns about events."""
    cold: float = 0.0
    """Share of validation targets whose item never trains."""

    @property
    def per_item(self) -> float:
        """Training events for each item."""
        return self.events / max(1, self.items)

    @property
    def per_user(self) -> float:
        """Training events for each user."""
        return self.events / max(1, self.users)


def look(data: PreparedFolder, plan: Plan) -> Facts:
    """Look at a prepared folder.

    Args:
        data: the folder.
        plan: what of it trains.

    Raises:
        DataError: if a shard is missing or damaged.
    """
    manifest, shards = data.manifest, data.shard_paths
    chosen = shards[:: max(1, -(-len(shards) // SAMPLE_SHARDS))]
    parts = list(training_parts(chosen, manifest.items, plan))
    lengths_U = plan.fit_U[plan.fit_U > 0]
    quantiles = tuple(float(q) for q in np.quantile(lengths_U, (0.5, 0.9, 0.98)))
    gaps_E = np.concatenate([_within_users(part, np.diff(part.times_E)) for part in parts])
    times_E = np.concatenate([part.times_E for part in parts])
    return Facts(
        name=manifest.name,
        users=len(lengths_U),
        items=plan.num_items,
        events=int(lengths_U.sum()),
        user_events=(quantiles[0], quantiles[1], quantiles[2]),
        zero_gaps=float((gaps_E == 0).mean()) if len(gaps_E) else 0.0,
        resolution_s=time_step_s(np.bincount(times_E % DAY_S, minlength=DAY_S)),
        span_days=float(times_E.max() - times_E.min()) / 86_400,
        repeats=_repeats(parts),
        has_ratings=_ratings_say_something(chosen[0], manifest.items),
        has_attributes=bool(plan.attributes(data).any()),
        item_features=chosen_features("auto", manifest),
        user_features=chosen_columns("auto", manifest),
        context=tuple(column.name for column in chosen_context("auto", manifest)),
        cold=plan.facts["valid_cold_targets"] / max(1, plan.facts["valid_targets"]),
    )


def _within_users(part: TrainingPart, between_E1: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Leave out what lies between the last event of one user and the first of the next."""
    inside_E1 = np.ones(len(between_E1), bool)
    firsts_U = part.offsets_U1[1:-1]
    inside_E1[firsts_U[(firsts_U > 0) & (firsts_U <= len(between_E1))] - 1] = False
    return np.asarray(between_E1[inside_E1])


def time_step_s(clock_S: npt.NDArray[np.int64]) -> int:
    """Return the coarsest step, in seconds, that nearly all times keep, whatever the time zone.

    Args:
        clock_S: events of each second of the day, so that counts of shards add up.
    """
    for step in RESOLUTIONS_S:
        if clock_S.reshape(-1, step).sum(0).max() >= 0.99 * clock_S.sum():
            return step
    return 1


def _repeats(parts: list[TrainingPart]) -> float:
    """Return the share of events on an item that the user had before."""
    events, different = 0, 0
    for part in parts:
        user_E = np.repeat(np.arange(len(part.offsets_U1) - 1), np.diff(part.offsets_U1))
        keys_E = user_E.astype(np.int64) << 32 | part.items_E.astype(np.int64)
        events += len(keys_E)
        different += len(np.unique(keys_E))
    return 1 - different / max(1, events)


def _ratings_say_something(shard: AnyPath, num_items: int) -> bool:
    """Whether the first shard's ratings are numbers, and more than one."""
    ratings_E = ragged(read_shard(shard, num_items)["ratings"])[0]
    known_E = ratings_E[np.isfinite(ratings_E)]
    return len(known_E) > len(ratings_E) / 2 and len(np.unique(known_E[:100_000])) > 1
