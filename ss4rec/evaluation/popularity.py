"""Baselines without learning: the most popular items, of all time and of the last 30 days.

Both count training events only (all but the last two of each user), so no held-out event is ever counted.
`MostPopular` still counts events later than the target; `RecentlyPopular` counts nothing at or after the
moment of recommendation, so the comparison with it is fair in time.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from ss4rec.data.batches.batch import EvalBatch
from ss4rec.data.batches.windows import ragged
from ss4rec.data.prepared.tables import read_shard
from ss4rec.io.paths import AnyPath
from ss4rec.model.item_scores import ItemScores

HELD_OUT_EVENTS = 2
WINDOW_S = 30 * 24 * 3600


@dataclass(frozen=True)
class TrainingEvents:
    """Item and time of every training event, in order of time."""

    items_E: npt.NDArray[np.int32]
    times_E: npt.NDArray[np.int64]
    """Unix seconds, never falling."""
    num_items: int
    """Items I of the vocabulary; indices are 1..I."""

    @classmethod
    def read(cls, shards: Iterable[AnyPath], num_items: int) -> TrainingEvents:
        """Collect the training events of all users from their shards, one shard in memory at a time.

        Raises:
            DataError: if a shard is missing or damaged.
        """
        parts = [_training_part(path, num_items) for path in shards]
        items_E = np.concatenate([items for items, _ in parts])
        times_E = np.concatenate([times for _, times in parts])
        order_E = np.argsort(times_E, kind="stable")
        return cls(items_E[order_E], times_E[order_E], num_items)

    def counts(self) -> npt.NDArray[np.int64]:
        """Return how often each item occurs, `[V]`."""
        return np.bincount(self.items_E, minlength=self.num_items + 1)


class MostPopular:
    """Scores each item by its number of training events, the same for every user.

    Args:
        counts_V: training events of each item; entry 0 is ignored.
    """

    uses_target_time = False

    def __init__(self, counts_V: npt.NDArray[np.int64]) -> None:
        self.scores_V = torch.from_numpy(counts_V.astype(np.float64))

    def scores(self, batch: EvalBatch, *, target_time_known: bool) -> ItemScores:
        """Return the same counts for every user."""
        scores_BV = self.scores_V.expand(batch.num_sequences, -1)
        return ItemScores.of_matrix(scores_BV, batch.seen_X, batch.seen_offsets_S1)


class RecentlyPopular:
    """Scores each item by its training events of the `window_s` seconds before the moment of recommendation.

    The moment is the target's time where that is known, else the user's last event; the window is
    [moment - window_s, moment), so an event at the moment itself does not count.
    """

    uses_target_time = True

    def __init__(self, events: TrainingEvents, window_s: int = WINDOW_S) -> None:
        self.events = events
        self.window_s = window_s

    def scores(self, batch: EvalBatch, *, target_time_known: bool) -> ItemScores:
        """Return each user's counts; users are taken in order of time with a sliding window."""
        moments_B = (batch.target_times_S if target_time_known else batch.last_times_S).cpu().numpy()
        starts_B = np.searchsorted(self.events.times_E, moments_B - self.window_s)
        stops_B = np.searchsorted(self.events.times_E, moments_B)
        scores_BV = np.empty((len(moments_B), self.events.num_items + 1), dtype=np.float32)
        counts_V, start, stop = self._counts(0, 0), 0, 0
        for row in np.argsort(moments_B):
            next_start, next_stop = int(starts_B[row]), int(stops_B[row])
            if next_start < stop:
                counts_V += self._counts(stop, next_stop) - self._counts(start, next_start)
            else:  # the two windows share nothing
                counts_V = self._counts(next_start, next_stop)
            start, stop = next_start, next_stop
            scores_BV[row] = counts_V
        return ItemScores.of_matrix(torch.from_numpy(scores_BV), batch.seen_X, batch.seen_offsets_S1)

    def _counts(self, start: int, stop: int) -> npt.NDArray[np.int64]:
        """Count the items of events `start` to `stop`, `[V]`."""
        return np.bincount(self.events.items_E[start:stop], minlength=self.events.num_items + 1)


def _training_part(path: AnyPath, num_items: int) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]:
    """Return items and times of a shard's events without the last two of each user."""
    shard = read_shard(path, num_items)
    items_E, offsets_U1 = ragged(shard["items"])
    times_E, _ = ragged(shard["timestamps"])
    ends_E = np.repeat(offsets_U1[1:], np.diff(offsets_U1))
    kept_E = np.arange(len(items_E)) < ends_E - HELD_OUT_EVENTS
    return items_E[kept_E], times_E[kept_E]
