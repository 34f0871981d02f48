"""The same batches as `LocalSource` through Ray Data: shards are read and cut in tasks anywhere on the cluster.

One pipeline spans all remaining epochs, so nothing starts anew between them. Its rows are work items, one task each;
the order of training is part of the items, and Ray only has to keep it (`preserve_order`). Each worker runs a pipeline
of its own. The first item is read in the worker itself, while the tasks of the others start: their processes need two
seconds to import what reads.
"""

from __future__ import annotations

import pickle  # nosec B403
from collections.abc import Callable, Generator
from concurrent.futures import Future
from contextlib import closing
from threading import Lock, Thread
from typing import TYPE_CHECKING, Any, Unpack

import pyarrow as pa

from ss4rec.cluster.pool import dataset_name
from ss4rec.config import DataConfig
from ss4rec.data.batches.source import Item, SequenceSource, SourceOptions
from ss4rec.data.prepared.folder import PreparedFolder
from ss4rec.io.paths import AnyPath

if TYPE_CHECKING:
    from ray.data import DataContext

TASK_CPUS = 0.5
"""CPUs that one task asks for; less if a worker's share of the CPUs is less."""
NODE_LABEL = "ray.io/node-id"
"""Ray gives each node this label."""
LOOK_AHEAD_BYTES = 64 << 20
"""Object store that a pipeline may fill, or three of its tables if they take more; beside `data.prefetch_batches`."""


class RaySource(SequenceSource):
    """Reads the shards of training in Ray Data tasks.

    Args:
        cpu_limit: CPUs that the data tasks of all workers may use together.
        reserve: whether the tasks ask Ray for these CPUs. Not where the worker has reserved them, and not beside an
            elastic group: it takes whatever there is, and Ray Data would wait for the rest for ever. The tasks then ask
            for none and are as few at a time.
        node_id: Ray's node on which the tasks run, where the worker has reserved the CPUs there; None: any.
        others: as in `SequenceSource`.
    """

    def __init__(
        self,
        folder: PreparedFolder | AnyPath,
        data: DataConfig,
        *,
        cpu_limit: float = 1.0,
        reserve: bool = True,
        node_id: str | None = None,
        **options: Unpack[SourceOptions],
    ) -> None:
        super().__init__(folder, data, **options)
        self.prefetch = data.prefetch_batches
        rank, world = options.get("rank", 0), options.get("world", 1)
        self.cpus = cpu_limit / world
        self.task_cpus = min(TASK_CPUS, self.cpus)
        self.reserve, self.node_id = reserve, node_id
        self.name = dataset_name(self.folder.manifest.name, f"rank{rank}")
        groups = -(-len(self.reader.paths) // data.shuffle_shards)
        self.look_ahead_bytes = max(LOOK_AHEAD_BYTES, 3 * self.epoch_bytes // (groups * world))

    def _map(
        self, function: Callable[[Item], pa.Table], items: list[Item]
    ) -> Generator[pa.Table, None, None]:
        if not items:
            return
        rest = _Started(self._tasks(function, items[1:])) if len(items) > 1 else None
        try:
            yield function(items[0])
            if rest is not None:
                yield from rest.values()
        finally:
            if rest is not None:
                rest.close()

    def _tasks(
        self, function: Callable[[Item], pa.Table], items: list[Item]
    ) -> Generator[pa.Table, None, None]:
        """Yield `function(item)` of each item in order, from tasks of Ray Data that start when it is asked."""
        import ray.data

        # Bytes, since Ray would store a tuple of dataclasses as objects of an extension type.
        items_dataset = ray.data.from_items(
            [{"item": pickle.dumps(item)} for item in items], override_num_blocks=len(items)
        )
        self._configure(items_dataset.context)

        def read_windows(block: pa.Table) -> pa.Table:
            return function(pickle.loads(block["item"][0].as_py()))  # nosec B301

        tasks = ray.data.TaskPoolStrategy(size=round(self.cpus / self.task_cpus))
        dataset = items_dataset.map_batches(
            read_windows,  # Ray's dashboard shows the name
            batch_size=None,
            batch_format="pyarrow",
            num_cpus=self.task_cpus if self.reserve else 0,
            compute=None if self.reserve else tasks,
            label_selector=None if self.node_id is None else {NODE_LABEL: self.node_id},
        )
        dataset.set_name(self.name)
        # A generator, whose close() ends Ray's executor; `iter_batches` is annotated as less.
        batches: Any = iter(
            dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=self.prefetch)
        )
        with closing(batches):
            yield from batches

    def _configure(self, context: DataContext) -> None:
        """Make a pipeline quiet, in order, and bounded in CPUs and look-ahead."""
        from ray.data import ExecutionOptions, ExecutionResources

        context.enable_progress_bars = False
        context.print_on_execution_start = False
        # One block a task: a task that waits for its next block to be fetched would keep its CPU, and a worker that
        # waits for another in a collective operation could then starve that other one for ever.
        context.target_max_block_size = None
        context.execution_options = ExecutionOptions(
            preserve_order=True,
            resource_limits=ExecutionResources(cpu=self.cpus, object_store_memory=self.look_ahead_bytes),
        )


class _Started:
    """A generator whose first value a thread draws, so that what it starts runs beside the caller."""

    def __init__(self, values: Generator[pa.Table, None, None]) -> None:
        self._values = values
        self._first: Future[pa.Table] = Future()
        self._lock = Lock()
        self._left = False
        Thread(target=self._draw, name="first-table-of-tasks", daemon=True).start()

    def _draw(self) -> None:
        try:
            first = next(self._values)
        except BaseException as error:
            self._first.set_exception(error)
            return
        with self._lock:
            self._first.set_result(first)
            if self._left:
                self._values.close()

    def values(self) -> Generator[pa.Table, None, None]:
        """Yield all values; what was raised for the first is raised here."""
        yield self._first.result()
        yield from self._values

    def close(self) -> None:
        """End the generator: now, or where its first value is still awaited, as soon as that is there."""
        with self._lock:
            self._left = True
            if self._first.done():
                self._values.close()
