"""Ray layer: pass 1 streams shards through Ray Data, pass 2 gives cells to a few actors; and ranking by a model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray
from ray.util import ActorPool
from scipy.sparse import csr_matrix

from drift.cells.run import run_cell
from drift.cells.types import Cell, CellContext, Row
from drift.model.followers import count_pairs
from drift.model.quality import QualityTask, rank, targets
from drift.signals.histograms import HistogramMaker, UserHistograms
from ss4rec.data.prepared.tables import read_shard
from ss4rec.io.paths import AnyPath
from ss4rec.runs.load import load_model


def count_follow(shards: Sequence[AnyPath], vocabulary: int, cut_s: int) -> csr_matrix:
    """Count what came right after what in the past, one shard a task."""

    def count(path: AnyPath) -> csr_matrix:
        return count_pairs(read_shard(path), vocabulary, cut_s)

    # As they come, so that only two are here at a time.
    total, pending = None, [ray.remote(count).remote(path) for path in shards]
    while pending:
        ready, pending = ray.wait(pending, num_returns=1)
        part = ray.get(ready[0])
        total = part if total is None else total + part
    return total


def make_histograms(shards: Sequence[AnyPath], maker: HistogramMaker, num_items: int) -> UserHistograms:
    """Run pass 1: read each shard once, one a task; return all rows in ascending order.

    A worker holds one shard at a time, and what comes back is a row a user and window, however many events it has.
    """
    shared = ray.put(maker)

    def histograms(block: pa.Table) -> pa.Table:
        make = ray.get(shared)
        parts = [make(read_shard(shards[number], num_items)) for number in block["shard"].to_pylist()]
        return UserHistograms.merge(parts).table()

    numbers = ray.data.from_items([{"shard": n} for n in range(len(shards))], override_num_blocks=len(shards))
    numbers.context.enable_progress_bars = False
    tables = numbers.map_batches(histograms, batch_size=None, batch_format="pyarrow")
    parts = [UserHistograms.of_table(table) for table in ray.get(tables.to_arrow_refs()) if table.num_rows]
    return UserHistograms.merge(parts)


class CellWorker:
    """Holds the histograms and computes cells; long-lived, since importing a detector library takes seconds."""

    def __init__(self, context: CellContext) -> None:
        self.context = context

    def run(self, cell: Cell) -> list[Row]:
        """Compute one cell."""
        return run_cell(self.context, cell)


def run_cells(context: CellContext, cells: Sequence[Cell], workers: int) -> list[Row]:
    """Run pass 2 on `workers` actors; rows come back in the order of `cells`."""
    shared = ray.put(context)
    worker: Any = ray.remote(num_cpus=1)(CellWorker)
    actors = [worker.remote(shared) for _ in range(min(workers, len(cells)))]
    run: Callable = lambda actor, cell: actor.run.remote(cell)  # noqa: E731
    try:
        return [row for rows in ActorPool(actors).map(run, list(cells)) for row in rows]
    finally:
        # Handles live in the pool's reference cycle until Python collects it; until then the actors keep their CPUs,
        # and on a small cluster the ranking that follows waits for ever.
        for actor in actors:
            ray.kill(actor)


class Ranker:
    """One actor: holds the model and turns shards into ranks."""

    def __init__(self, run: Path, task: QualityTask) -> None:
        self.model, _ = load_model(run, "cpu")
        self.task = task

    def run(self, path: AnyPath) -> pa.Table | None:
        """Choose and rank targets of a shard's users, 256 at a time; None if it has none."""
        chosen = targets(read_shard(path), self.task)
        if chosen is None:
            return None
        starts = range(0, chosen.num_rows, 256)
        return pa.concat_tables([rank(self.model, chosen.slice(at, 256), self.task) for at in starts])


def rank_windows(shards: Sequence[AnyPath], run: Path, task: QualityTask) -> pa.Table | None:
    """Rank all chosen targets with one actor; batches are fixed, so scores do not depend on the cluster.

    Returns:
        A row a target, in order of shards; None if no user of any shard was chosen.
    """
    worker: Any = ray.remote(num_cpus=1)(Ranker)
    actor = worker.remote(run, ray.put(task))
    try:
        tables = ray.get([actor.run.remote(path) for path in shards])
    finally:
        ray.kill(actor)
    found = [table for table in tables if table is not None]
    return pa.concat_tables(found) if found else None
