"""What a worker does that ranks: it holds a model and the shard at hand. It imports little: its start is waited for."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from drift.model.rank import RankTask, rank_chosen
from drift.model.targets import chosen_users
from ss4rec.data.prepared.tables import read_shard
from ss4rec.io.kept_memory import keep_freed_memory
from ss4rec.io.paths import AnyPath
from ss4rec.runs.load import load_model


class Ranker:
    """Holds a model and turns parts of shards into ranks."""

    def __init__(self, run: Path, task: RankTask) -> None:
        keep_freed_memory()
        self.model, _ = load_model(run, "cpu")
        self.task = task
        self.shard = -1
        """Number of the shard at hand."""
        self.chosen: pa.Table | None = None
        """Its users who are ranked for."""

    def run(self, number: int, shard: pa.Table | AnyPath, part: tuple[int, int]) -> pa.Table | None:
        """Choose and rank targets of a part of a shard's users; None if it has none.

        Args:
            number: the shard's; parts of one shard that come one after another read it once.
            shard: its file, or what was read of it.
            part: as in `drift.model.rank.rank_shard`.
        """
        if self.chosen is None or number != self.shard:
            table = shard if isinstance(shard, pa.Table) else read_shard(shard)
            self.shard, self.chosen = number, chosen_users(table, self.task.choice)
        return rank_chosen(self.model, self.chosen, self.task, part)
