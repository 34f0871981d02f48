"""Where batches come from: one interface, and the source that reads shards in the worker's own process.

Every source does the same pure work (`ShardReader`) and differs only in where it runs, so all give the same batches.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Required, TypedDict, TypeVar, Unpack

import numpy as np
import pyarrow as pa

from ss4rec.config import DataConfig, RunConfig
from ss4rec.data.batches.batch import EvalBatch, PackedBatch, collate_eval, collate_train
from ss4rec.data.batches.epoch_order import EpochOrder
from ss4rec.data.batches.reader import ShardReader
from ss4rec.data.batches.replay import Replay, replay_of
from ss4rec.data.batches.windows import Split, num_train_windows
from ss4rec.data.prepared.folder import PreparedFolder
from ss4rec.io.paths import AnyPath
from ss4rec.protocol.plan import Plan, make_plan, plan_of_run
from ss4rec.protocol.settings import Protocol

KEPT_BYTES = 1 << 30
"""`LocalSource` keeps the windows of all shards, in mapped Arrow files, if they take no more than this."""
EVENT_BYTES = 20
"""Bytes of one event in a window: item, target, gap, hour and rating."""

Item = TypeVar("Item")


class SourceOptions(TypedDict, total=False):
    """The keywords of every source; `SequenceSource` says what they mean."""

    batch_size: Required[int]
    seed: Required[int]
    rank: int
    world: int
    plan: Plan | None
    replay: Replay | None


class SequenceSource(ABC):
    """One worker's batches. Close a generator (`contextlib.closing`) that is left before its end.

    Args:
        folder: the prepared folder; on a cluster, on storage that every node sees.
        data: how sequences are cut and shuffled.
        batch_size: windows a step over all workers.
        seed: seed of the order.
        rank: this worker.
        world: number of workers.
        plan: which events train and which are ranked; None: leave-one-out.
        replay: which windows train in a warm start, counted; None: all.

    Raises:
        ConfigError: if a step would leave a worker without a window.
        DataError: if the prepared folder cannot be read.
    """

    def __init__(
        self,
        folder: PreparedFolder | AnyPath,
        data: DataConfig,
        *,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
        plan: Plan | None = None,
        replay: Replay | None = None,
    ) -> None:
        self.folder = PreparedFolder.open(folder)
        self.plan = plan or make_plan(Protocol(), self.folder)
        self.nothing_new = replay is not None and not replay.new_windows
        """Whether a warm start has nothing to learn: then no batch is asked for."""
        replay = None if self.nothing_new else replay
        self.order = training_order(self.folder, self.plan, data, batch_size, seed, replay)
        self.order.check_world(world)
        self.profiles_UF = self.folder.profiles_UF
        manifest = self.folder.manifest
        repeats = data.max_len / (data.max_len - data.overlap)
        self.epoch_bytes = int(manifest.interactions * EVENT_BYTES * repeats)
        """Maximum bytes that the windows of all shards take."""
        paths = tuple(path.absolute() for path in self.folder.shard_paths)
        self.reader = ShardReader(paths, data, self.plan, self.order, rank, world, manifest.items, replay)

    @abstractmethod
    def _map(
        self, function: Callable[[Item], pa.Table], items: list[Item]
    ) -> Generator[pa.Table, None, None]:
        """Yield `function(item)` of each item in order, in blocks of any size."""

    def leave_out_profiles(self) -> None:
        """Give batches without profiles: for a model that reads none they are columns of every token for nothing."""
        self.profiles_UF = None

    def steps_per_epoch(self, epoch: int) -> int:
        """Return the steps of an epoch; they are the same for all."""
        return self.order.steps_per_epoch

    def train_batches(
        self, start_epoch: int, start_step: int, end_epoch: int
    ) -> Generator[tuple[int, int, PackedBatch], None, None]:
        """Yield (epoch, step, batch) from one step on to the end of epoch `end_epoch - 1`.

        Groups of shards that lie wholly before the first step are not read.
        """
        reader = self.reader
        groups = self.order.remaining(start_epoch, start_step, end_epoch)
        work = [(group, start_step if group.epoch == start_epoch else 0) for group in groups]
        steps = [
            (epoch, step)
            for epoch in range(start_epoch, end_epoch)
            for step in range(start_step if epoch == start_epoch else 0, self.order.steps_per_epoch)
        ]
        sizes = self.order.share_sizes(reader.rank, reader.world)
        tables = self._map(reader.train_rows, work)
        try:
            rows = rebatch(tables, (int(sizes[step]) for _, step in steps))
            for (epoch, step), table in zip(steps, rows, strict=True):
                yield epoch, step, collate_train(table, self.profiles_UF)
        finally:
            tables.close()

    def eval_batches(self, split: Split, batch_users: int) -> Generator[EvalBatch, None, None]:
        """Yield the targets of this worker's users once each, `batch_users` a batch; over all workers every user's.

        Shards are read here, whatever reads those of training: that one may be busy with the next epoch.
        """
        reader = self.reader
        sizes = self.plan.batch_rows(split, reader.data.max_len, batch_users, reader.rank, reader.world)
        tables = _one_ahead(reader.eval_rows, [(shard, split) for shard in range(len(reader.paths))])
        try:
            for table in rebatch(tables, sizes):
                yield collate_eval(table, self.profiles_UF)
        finally:
            tables.close()


class LocalSource(SequenceSource):
    """Reads shards in this process.

    Holds the windows of one group of shards (`data.shuffle_shards`) at a time; from the first epoch on the windows of
    all shards are read from Arrow files that are mapped into memory, if they take less than `KEPT_BYTES`.
    """

    def __init__(
        self, folder: PreparedFolder | AnyPath, data: DataConfig, **options: Unpack[SourceOptions]
    ) -> None:
        super().__init__(folder, data, **options)
        self.reader.keep = self.epoch_bytes <= KEPT_BYTES

    @classmethod
    def of(
        cls, config: RunConfig, folder: PreparedFolder | AnyPath, plan: Plan | None = None, **place: int
    ) -> LocalSource:
        """Return the batches of a run (`plan`: if it is made; `place`: `rank` and `world`). Raises as the class."""
        folder, train = PreparedFolder.open(folder), config.train
        plan = plan or plan_of_run(config, folder)
        sizes = {"batch_size": train.batch_size, "seed": train.seed, **place}
        return cls(folder, config.data, **sizes, plan=plan, replay=replay_of(config, folder, plan))

    def _map(
        self, function: Callable[[Item], pa.Table], items: list[Item]
    ) -> Generator[pa.Table, None, None]:
        yield from map(function, items)


def _one_ahead(
    function: Callable[[Item], pa.Table], items: Sequence[Item]
) -> Generator[pa.Table, None, None]:
    """Yield `function(item)` of each item in order; the next one is made in a thread meanwhile."""
    coming = None
    with ThreadPoolExecutor(1) as pool:
        for item in items:
            made, coming = coming, pool.submit(function, item)
            if made is not None:
                yield made.result()
        if coming is not None:
            yield coming.result()


def training_order(
    folder: PreparedFolder,
    plan: Plan,
    data: DataConfig,
    batch_size: int,
    seed: int,
    replay: Replay | None = None,
) -> EpochOrder:
    """Return the order of training on a prepared folder, from the lengths of its histories alone.

    Args:
        folder: the data.
        plan: which events train.
        data: how sequences are cut and shuffled.
        batch_size: windows per step, over all workers.
        seed: seed of the order.
        replay: which windows train in a warm start, counted; None: all.
    """
    if replay is not None:
        return EpochOrder(seed, replay.counts, batch_size, data.shuffle_shards)
    windows_U = num_train_windows(plan.fit_U, data.max_len, data.overlap, holdout=0)
    shards = len(folder.manifest.shards)
    windows = np.bincount(folder.users["shard"].to_numpy(), weights=windows_U, minlength=shards)
    return EpochOrder(seed, tuple(int(n) for n in windows), batch_size, data.shuffle_shards)


def check_trainable(folder: PreparedFolder, protocol: Protocol) -> None:
    """Refuse a folder without a single training pair: nobody has more than the events that are held out.

    Raises:
        ConfigError: saying how many events are needed.
    """
    training_order(folder, make_plan(protocol, folder), DataConfig(), batch_size=1, seed=0).check_world(1)


def check_max_workers(folder: PreparedFolder, config: RunConfig) -> None:
    """Refuse a number of workers, for an elastic run its largest, of which one would be left without a window.

    Raises:
        ConfigError: with the numbers.
    """
    plan = plan_of_run(config, folder)
    replay = replay_of(config, folder, plan)
    if replay is not None and not replay.new_windows:
        return
    order = training_order(folder, plan, config.data, config.train.batch_size, config.train.seed, replay)
    order.check_world(config.resources.max_workers or config.resources.workers)


def rebatch(tables: Iterable[pa.Table], sizes: Iterable[int]) -> Iterator[pa.Table]:
    """Cut a stream of tables of any size into tables of the given sizes, which must add up to at most the stream."""
    stream, parts, have = iter(tables), [], 0
    for size in sizes:
        while have < size:
            table = next(stream)
            parts.append(table)
            have += table.num_rows
        merged = pa.concat_tables(parts) if len(parts) > 1 else parts[0]
        yield merged.slice(0, size)
        have -= size
        parts = [merged.slice(size)] if have else []
