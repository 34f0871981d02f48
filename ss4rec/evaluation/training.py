"""The events that a protocol trains on, as baselines count them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ss4rec.data.batches.windows import ragged
from ss4rec.data.prepared.tables import read_shard
from ss4rec.io.paths import AnyPath
from ss4rec.protocol.divide import Rules, divide
from ss4rec.protocol.plan import Plan
from ss4rec.protocol.settings import Protocol


@dataclass(frozen=True)
class TrainingPart:
    """Training events of some users, user after user, each in order."""

    offsets_U1: npt.NDArray[np.int64]
    """First event of each user, and at the end the number of events."""
    items_E: npt.NDArray[np.int32]
    """The model's index of each item."""
    times_E: npt.NDArray[np.int64]
    """Unix seconds."""
    wanted_E: npt.NDArray[np.bool_] | None = None
    """Which events may be targets, and so count as popular; None: all."""

    @property
    def counted_E(self) -> npt.NDArray[np.bool_]:
        """Which events count as popular."""
        return np.ones(len(self.items_E), bool) if self.wanted_E is None else self.wanted_E


def training_parts(
    shards: Iterable[AnyPath], num_items: int, plan: Plan | None = None, *, later: bool = False
) -> Iterator[TrainingPart]:
    """Yield the training events of each shard; one shard is in memory at a time.

    Args:
        shards: paths of shards.
        num_items: items of the prepared folder.
        plan: which events train; None: all but each user's last two.
        later: take all events on items that the model knows, after the cut too (for what is counted up to a moment).

    Raises:
        DataError: if a shard is missing or damaged.
    """
    rules = Rules(Protocol()) if plan is None else plan.rules
    for path in shards:
        division = divide(read_shard(path, num_items), rules)
        items_E, offsets_U1 = ragged(division.histories["items"])
        times_E, _ = ragged(division.histories["timestamps"])
        kept_U = np.diff(offsets_U1) if later else division.fit_U
        place_E = np.arange(len(items_E)) - np.repeat(offsets_U1[:-1], np.diff(offsets_U1))
        kept_E = place_E < np.repeat(kept_U, np.diff(offsets_U1))
        wanted_E = None
        if "wanted" in division.histories.column_names:
            column = division.histories["wanted"].combine_chunks()
            wanted_E = column.flatten().to_numpy(zero_copy_only=False)[kept_E]
        bounds_U1 = np.concatenate([[0], np.cumsum(kept_U)])
        yield TrainingPart(bounds_U1, items_E[kept_E], times_E[kept_E], wanted_E)
