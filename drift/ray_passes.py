"""Ray layer: shards are read once, pass 1 takes one a task, pass 2 gives cells to a few actors; ranking by a model.

Importing torch takes each process more than a second and 100 MiB, so only who ranks imports it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pyarrow as pa
import ray
from ray.exceptions import RayError
from scipy.sparse import csr_matrix

from drift.calendar import Window
from drift.cells.run import run_cell
from drift.cells.types import Cell, CellContext, Row, Wander
from drift.cells.wander import PastPair, Squares, past_squares
from drift.config import DriftConfig
from drift.model.followers import count_pairs
from drift.signals.histograms import HistogramMaker, UserHistograms
from drift.signals.past import PastCounts
from ss4rec.data.prepared.tables import read_shard
from ss4rec.io.paths import AnyPath

if TYPE_CHECKING:
    from drift.model.rank import RankTask

Shard = AnyPath | ray.ObjectRef[pa.Table]
"""Where a shard is: its file, or what was read of it."""
EVENT_BYTES = 16
"""An item, a time and a rating."""
HELD_SHARE = 0.5
"""Share of the cluster's object store that shards may fill; more are read again by each pass."""
HELD_BYTES = 256 << 20
"""Maximum bytes of shards that are held: reading them again takes seconds, holding them memory that the cells need."""


def hold_shards(paths: Sequence[AnyPath], events: int, num_items: int, columns: int = 0) -> Sequence[Shard]:
    """Read each shard once, one a task, and leave it in the object store for all passes.

    Where `events` of them, each with `columns` more about the event, are more than the store should hold, the files are
    returned, and each pass reads them.
    """
    store_bytes = ray.cluster_resources().get("object_store_memory", 0.0)
    if events * (EVENT_BYTES + 4 * columns) > min(HELD_SHARE * store_bytes, HELD_BYTES):
        return paths
    read = ray.remote(read_shard)
    return [read.remote(path, num_items) for path in paths]


def _table(shard: pa.Table | AnyPath, num_items: int) -> pa.Table:
    """Return a shard inside a task: what was read of it arrives as a table."""
    return shard if isinstance(shard, pa.Table) else read_shard(shard, num_items)


def count_past(
    shards: Sequence[Shard], before_s: int, num_items: int, windows: list[Window] | None
) -> PastCounts:
    """Count what came before second `before_s` (`drift.signals.past`), one shard at a time."""
    shared = ray.put(windows)

    def count(shard: pa.Table | AnyPath) -> PastCounts:
        return PastCounts.of_shard(_table(shard, num_items), before_s, num_items, ray.get(shared))

    return cast(PastCounts, _add_up(count, shards))


def count_follow(shards: Sequence[Shard], vocabulary: int, cut_s: int, num_items: int) -> csr_matrix:
    """Count what came right after what in the past, one shard a task."""

    def count(shard: pa.Table | AnyPath) -> csr_matrix:
        return count_pairs(_table(shard, num_items), vocabulary, cut_s)

    return _add_up(count, shards)


def _add_up(count: Callable[[Any], Any], shards: Sequence[Shard]) -> Any:
    """Run `count` on each shard as a task and add up the results as they come, so that few are here at a time."""
    total, pending = None, [ray.remote(count).remote(shard) for shard in shards]
    while pending:
        ready, pending = ray.wait(pending, num_returns=1)
        part = ray.get(ready[0])
        total = part if total is None else total + part
    return total


def make_histograms(shards: Sequence[Shard], maker: HistogramMaker, num_items: int) -> UserHistograms:
    """Run pass 1: one shard a task; return all rows in ascending order.

    A worker holds one shard at a time, and what comes back is a row a user and window, however many events it has.
    """
    shared = ray.put(maker)

    def histograms(shard: pa.Table | AnyPath) -> pa.Table:
        return ray.get(shared)(_table(shard, num_items)).table()

    tables = [ray.remote(histograms).remote(shard) for shard in shards]
    parts = [UserHistograms.of_table(table) for ref in tables if (table := ray.get(ref)).num_rows]
    return UserHistograms.merge(parts)


class CellWorker:
    """Holds the histograms and computes cells; long-lived, since importing a detector library takes seconds."""

    def __init__(self, context: CellContext, wander: Wander | None = None) -> None:
        self.context = replace(context, wander=wander)

    def run(self, cell: Cell) -> list[Row]:
        """Compute one cell."""
        return run_cell(self.context, cell)

    def past(self, pair: PastPair) -> Squares | None:
        """Test one pair of the past."""
        return past_squares(self.context, pair)


Held = CellContext | ray.ObjectRef[CellContext]
"""What `hold_context` returned."""


def hold_context(context: CellContext) -> Held:
    """Leave what every worker needs in the object store, once for both passes: histograms are large."""
    return cast(Held, ray.put(context))


def run_cells(held: Held, wander: Wander, cells: Sequence[Cell], workers: int) -> list[Row]:
    """Run pass 2 on `workers` actors, with the past's wander; rows come back in the order of `cells`."""
    with _actors(CellWorker, min(workers, len(cells)), held, wander) as actors:
        parts = _deal(actors, lambda actor, cell: actor.run.remote(cell), cells)
    return [row for rows in parts for row in rows]


def run_past(held: Held, pairs: Sequence[PastPair], workers: int) -> list[Squares | None]:
    """Test pairs of the past on `workers` actors; results come back in the order of `pairs`."""
    with _actors(CellWorker, min(workers, len(pairs)), held) as actors:
        return _deal(actors, lambda actor, pair: actor.past.remote(pair), pairs)


@contextmanager
def _actors(kind: type, count: int, *given: Any) -> Iterator[list[Any]]:
    """Start actors of a core each for the length of the block."""
    worker: Any = ray.remote(num_cpus=1)(kind)
    actors = [worker.remote(*given) for _ in range(count)]
    try:
        yield actors
    finally:
        # Until their handles are collected actors keep their CPUs, and on a small cluster what follows waits for ever.
        for actor in actors:
            ray.kill(actor)


def _deal(actors: Sequence[Any], run: Callable[..., Any], todo: Sequence[Any]) -> list[Any]:
    """Give the next piece of work to whoever is free; results come back in the order of the work.

    `ray.util.ActorPool.map` deals in order: an actor that has finished waits until those before it have, too.
    """
    found, doing, waiting = [None] * len(todo), {}, iter(enumerate(todo))
    for actor, (number, one) in zip(actors, waiting, strict=False):
        doing[run(actor, one)] = number, actor
    while doing:
        ready = ray.wait(list(doing), num_returns=1)[0][0]
        number, actor = doing.pop(ready)
        for after, one in islice(waiting, 1):
            doing[run(actor, one)] = after, actor
        found[number] = ray.get(ready)
    return found


def run_alibi_on_model(ranks: pa.Table, windows: Sequence[tuple[int, str]], config: DriftConfig) -> list[Row]:
    """Run alibi-detect on the model's states and scores, in a worker of its own: its import takes seconds."""

    def run(table: pa.Table) -> list[Row]:
        from drift.cells.alibi import run_on_model

        return run_on_model(table, windows, config)

    return ray.get(ray.remote(num_cpus=1)(run).remote(ranks))


PARTS = 16
"""Parts of the work for each worker: whoever is free takes the next, so none waits longer than for a small one."""


def rank_windows(shards: Sequence[Shard], run: Path, task: RankTask, workers: int) -> pa.Table | None:
    """Rank all chosen targets on `workers` actors, a part of a shard at a time; batches are those of the shard.

    Returns:
        A row for each target, in order of shards; None if no user of any shard was chosen.
    """
    with rankers(workers) as rank:
        return rank(shards, run, task)


@contextmanager
def rankers(workers: int) -> Iterator[Callable[[Sequence[Shard], Path, RankTask], pa.Table | None]]:
    """Start `workers` actors, which takes seconds, and hand out what ranks on them, for one model after another."""
    from drift.model.ranker import Ranker

    with _actors(Ranker, workers) as actors:
        yield partial(_rank, actors)


def _rank(actors: Sequence[Any], shards: Sequence[Shard], run: Path, task: RankTask) -> pa.Table | None:
    """Rank on actors; see `rank_windows`."""
    shared = ray.put(task)
    loads = [actor.load.remote(run, shared) for actor in actors]
    count = math.ceil(PARTS * len(actors) / len(shards))
    todo = [(*numbered, (part, count)) for numbered in enumerate(shards) for part in range(count)]
    try:  # each begins when it has loaded: the first does not wait for the last
        tables = _deal(actors, lambda actor, one: actor.run.remote(*one), todo)
    except RayError:
        ray.get(loads)  # a model that could not be loaded says why
        raise
    found = [table for table in tables if table is not None]
    return pa.concat_tables(found) if found else None
