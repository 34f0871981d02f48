"""Baselines without learning: the most popular items, of all time and of the last days.

With leave-one-out both count training events only (all but the last two of each user), so no held-out event is counted.
`MostPopular` still counts events later than the target; `RecentlyPopular` counts nothing at or after the
moment of recommendation, so the comparison with it is fair in time.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from ss4rec.data.batches.batch import EvalBatch
from ss4rec.evaluation.training import TrainingPart, training_parts
from ss4rec.io.paths import AnyPath
from ss4rec.model.item_scores import ItemScores

DAY_S = 86_400
WINDOW_S = 30 * DAY_S


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
        """Collect the training events of leave-one-out from the shards of a folder with `num_items` items.

        Raises:
            DataError: if a shard is missing or damaged.
        """
        return cls.of(list(training_parts(shards, num_items)), num_items)

    @classmethod
    def of(cls, parts: Sequence[TrainingPart], num_items: int) -> TrainingEvents:
        """Put the training events of all users in order of time; of several kinds those that may be targets."""
        items_E = np.concatenate([part.items_E[part.counted_E] for part in parts])
        times_E = np.concatenate([part.times_E[part.counted_E] for part in parts])
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
