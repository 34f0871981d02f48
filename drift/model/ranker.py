"""What a worker does that ranks: it holds a model and the shard at hand. It imports little: its start is waited for."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from drift.model.rank import RankTask, rank_chosen
from drift.model.targets import chosen_users
from ss4rec.data.prepared.tables import read_shard
from ss4rec.io.kept_memory import keep_freed_memory
from ss4rec.io.paths import AnyPath
from ss4rec.model.ss4rec import SequenceModel
from ss4rec.runs.load import load_model


class Ranker:
    """Turns parts of shards into ranks by the model that it holds."""

    model: SequenceModel
    task: RankTask
    shard: int
    """Number of the shard at hand, -1 for none."""
    chosen: pa.Table
    """Its users who are ranked for."""

    def __init__(self) -> None:
        keep_freed_memory()

    def load(self, run: Path, task: RankTask) -> None:
        """Take the best weights of a run and what is to be ranked."""
        self.model, _ = load_model(run, "cpu")
        self.task, self.shard = task, -1

    def run(self, number: int, shard: pa.Table | AnyPath, part: tuple[int, int]) -> pa.Table | None:
        """Choose and rank targets of a part of a shard's users; None if it has none.

        Args:
            number: the shard's; parts of one shard that come one after another read it once.
            shard: its file, or what was read of it.
            part: as in `drift.model.rank.rank_shard`.
        """
        if number != self.shard:
            table = shard if isinstance(shard, pa.Table) else read_shard(shard)
            self.shard, self.chosen = number, chosen_users(table, self.task.choice)
        return rank_chosen(self.model, self.chosen, self.task, part)
