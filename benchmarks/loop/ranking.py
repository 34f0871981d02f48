"""Ranks of a gate by several processes, each with a part of the batches; the result is that of one process."""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path

import pyarrow as pa
import torch

from drift.model.rank import RankTask, rank_shard
from ss4rec.data.prepared.tables import read_shard
from ss4rec.io.paths import AnyPath
from ss4rec.loop.compare import rank_here
from ss4rec.model.ss4rec import SequenceModel
from ss4rec.runs.load import load_model

PARTS = 3
"""Parts of the work for each process."""


@dataclass
class Ranking:
    """Ranks on so many processes, which stay for the next call; 1: in this process."""

    processes: int = 1
    _pool: ProcessPoolExecutor | None = field(default=None, repr=False)

    def __call__(self, shards: Sequence[AnyPath], run: Path, task: RankTask) -> pa.Table | None:
        """Rank what a task chooses; rows in order of shards."""
        if self.processes == 1:
            return rank_here(shards, run, task)
        if self._pool is None:
            self._pool = ProcessPoolExecutor(self.processes, mp_context=get_context("spawn"))
        count = math.ceil(PARTS * self.processes / len(shards))
        parts = [(path, (number, count)) for path in shards for number in range(count)]
        waiting = [self._pool.submit(_ranked, run, task, path, part) for path, part in parts]
        found = [table for one in waiting if (table := one.result()) is not None]
        return pa.concat_tables(found) if found else None


def _ranked(run: Path, task: RankTask, path: AnyPath, part: tuple[int, int]) -> pa.Table | None:
    torch.set_num_threads(1)
    return rank_shard(_model(run), read_shard(path), task, part)


@lru_cache(maxsize=1)
def _model(run: Path) -> SequenceModel:
    return load_model(run)[0]
