"""From shard files to the rows of one worker: what every source does, wherever it runs.

Imports no torch: a worker of Ray that only reads starts two seconds sooner without it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from tempfile import NamedTemporaryFile, gettempdir

import numpy as np
import pyarrow as pa

from ss4rec.config import DataConfig
from ss4rec.data.batches.epoch_order import EpochOrder, Group
from ss4rec.data.batches.replay import Replay
from ss4rec.data.batches.windows import Split, ragged, target_windows, train_windows
from ss4rec.data.prepared.tables import read_shard
from ss4rec.errors import DataError
from ss4rec.io.paths import AnyPath
from ss4rec.protocol.plan import Plan


@dataclass
class ShardReader:
    """The work of a source: from shard files to the rows of one worker, as Arrow tables.

    Args:
        paths: the shard files.
        data: how sequences are cut.
        plan: which events train and which are ranked.
        order: which windows come when.
        rank: this worker.
        world: number of workers.
        num_items: largest item index of the folder.
        replay: which windows train in a warm start; None: all.
        keep: keep every shard's windows once they are made, in a file of its own that is mapped into memory.
    """

    paths: tuple[AnyPath, ...]
    data: DataConfig
    plan: Plan
    order: EpochOrder
    rank: int
    world: int
    num_items: int
    replay: Replay | None = None
    keep: bool = False
    kept: dict[int, pa.Table] = field(default_factory=dict, repr=False)

    def windows(self, shard: int) -> pa.Table:
        """Return all training windows of a shard."""
        if shard in self.kept:
            return self.kept[shard]
        data = self.data
        division = self.plan.divide(read_shard(self.paths[shard], self.num_items))
        histories = division.histories
        holdout_U = np.diff(ragged(histories["items"])[1]) - division.fit_U
        table = train_windows(
            histories,
            max_len=data.max_len,
            overlap=data.overlap,
            target_time=data.target_time,
            holdout=holdout_U,
        )
        if self.replay is not None:
            table = table.filter(pa.array(self.replay.kept(histories, data, holdout_U)))
        if self.keep:
            table = self.kept[shard] = mapped(table)
        return table

    def train_rows(self, work: tuple[Group, int]) -> pa.Table:
        """Return this worker's windows of a group in the order of training, from a step of its epoch on."""
        group, start_step = work
        rows = self.order.share(group, self.rank, self.world, start_step)
        return pa.concat_tables(self.windows(shard) for shard in group.shards).combine_chunks().take(rows)

    def eval_rows(self, work: tuple[int, Split]) -> pa.Table:
        """Return the histories of this worker's users in a shard: those with user % world == rank."""
        shard, split = work
        table = read_shard(self.paths[shard], self.num_items)
        mine = table["user"].to_numpy() % self.world == self.rank
        return eval_rows(table.filter(pa.array(mine)), split, self.plan, self.data)


def eval_rows(shard: pa.Table, split: Split, plan: Plan, data: DataConfig) -> pa.Table:
    """Return the histories of a shard's users with the targets of a split, as `windows.target_windows`."""
    division = plan.divide(shard)
    return target_windows(
        division.histories,
        division.targets(split),
        max_len=plan.history_len(data.max_len),
        target_time=data.target_time,
        share_passes=plan.shares_passes(split),
    )


def mapped(table: pa.Table) -> pa.Table:
    """Return `table` as an Arrow file that is mapped into memory: the system may drop its pages and read them again.

    The file has no name any more when this returns, so it is gone with the last reference to the table.

    Raises:
        DataError: if the folder for temporary files cannot take it.
    """
    try:
        with NamedTemporaryFile(prefix="ss4rec-windows-", suffix=".arrow") as file:
            with pa.ipc.new_file(file.name, table.schema) as writer:
                writer.write_table(table)
            return pa.ipc.open_file(pa.memory_map(file.name)).read_all()
    except OSError as error:
        raise DataError(
            f"{gettempdir()} cannot take {table.nbytes / 2**20:.0f} MiB of windows: {error}; make room there or set "
            "TMPDIR to a folder that has it"
        ) from None
