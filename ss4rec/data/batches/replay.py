"""Which windows train in a warm start: all that hold something new, and a share of the others against forgetting."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ss4rec.config import DataConfig, RunConfig
from ss4rec.data.batches.windows import last_target_times, ragged
from ss4rec.data.prepared.folder import PreparedFolder
from ss4rec.data.prepared.tables import read_shard
from ss4rec.data.ties import hashed
from ss4rec.protocol.plan import Plan

_WORD = 2.0**64


def replay_of(config: RunConfig, folder: PreparedFolder, plan: Plan) -> Replay | None:
    """Return which windows of a run train, counted; None where all do."""
    if config.data.new_after_s is None:
        return None
    train = config.train
    return Replay(config.data.new_after_s, train.replay_share, train.seed).counted(folder, plan, config.data)


@dataclass(frozen=True)
class Replay:
    """The choice of windows; a function of user, window and seed, so all workers and all epochs make the same."""

    after_s: int
    """A window is new if its last target is later than this second (unix time)."""
    share: float
    """Share of the other windows that train too."""
    seed: int
    counts: tuple[int, ...] = field(default=(), repr=False)
    """Windows of each shard that train (`counted`)."""
    new_windows: int = 0
    """Windows that hold something new (`counted`)."""

    def kept(
        self, histories: pa.Table, data: DataConfig, holdout_U: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.bool_]:
        """Return which windows of a shard train, in the order of `train_windows`."""
        new_W, drawn_W = self._masks(histories, data, holdout_U)
        return new_W | drawn_W

    def counted(self, folder: PreparedFolder, plan: Plan, data: DataConfig) -> Replay:
        """Return the same choice with its numbers, for which every shard is read once."""
        counts, new = [], 0
        for path in folder.shard_paths:
            division = plan.divide(read_shard(path, folder.manifest.items))
            holdout_U = np.diff(ragged(division.histories["items"])[1]) - division.fit_U
            new_W, drawn_W = self._masks(division.histories, data, holdout_U)
            counts.append(int((new_W | drawn_W).sum()))
            new += int(new_W.sum())
        return Replay(self.after_s, self.share, self.seed, tuple(counts), new)

    def _masks(
        self, histories: pa.Table, data: DataConfig, holdout_U: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
        """Return which windows are new, and which are drawn."""
        users_W, number_W, times_W = last_target_times(
            histories, max_len=data.max_len, overlap=data.overlap, holdout=holdout_U
        )
        drawn_W = hashed(hashed(users_W, number_W), np.full(len(users_W), self.seed))
        return times_W > self.after_s, (drawn_W < self.share * _WORD) | (self.share == 1.0)
