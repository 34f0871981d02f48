"""The order of training: which windows make up step s of epoch e, as a pure function of (seed, epoch, step).

Epoch e permutes the shards and puts them into groups; the windows of a group are permuted and split into batches
of nearly equal size. The number of workers decides nothing but the deal: worker r of W takes rows r::W of
each batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ss4rec.errors import ConfigError


@dataclass(frozen=True)
class Group:
    """Shards whose windows are shuffled together in one epoch, and the steps that they fill."""

    epoch: int
    index: int
    shards: tuple[int, ...]
    """Shard numbers in the order in which their windows are concatenated."""
    windows: int
    """Windows of all its shards."""
    first_step: int
    """Step of the epoch that its first batch is."""
    steps: int
    """Number of its batches."""


@dataclass(frozen=True)
class EpochOrder:
    """The whole order of training.

    Args:
        seed: seed of all permutations.
        windows: training windows of each shard.
        batch_size: most windows a step, over all workers.
        shuffle_shards: most shards in a group.
    """

    seed: int
    windows: tuple[int, ...]
    batch_size: int
    shuffle_shards: int

    def groups(self, epoch: int) -> list[Group]:
        """Return the epoch's groups in the order of training; groups without windows have no steps."""
        shards = _permutation(len(self.windows), self.seed, epoch, 0)
        parts = np.array_split(shards, -(-len(shards) // self.shuffle_shards))
        groups, first_step = [], 0
        for index, part in enumerate(parts):
            windows = sum(self.windows[shard] for shard in part)
            steps = -(-windows // self.batch_size)
            groups.append(Group(epoch, index, tuple(part.tolist()), windows, first_step, steps))
            first_step += steps
        return groups

    def steps_per_epoch(self, epoch: int) -> int:
        """Return the steps of `epoch`; epochs can differ by a few where shards are of unequal size."""
        return sum(group.steps for group in self.groups(epoch))

    def batches(self, group: Group) -> list[npt.NDArray[np.int64]]:
        """Return the rows of the group's concatenated windows that each of its steps takes, over all workers."""
        if group.steps == 0:
            return []
        rows = _permutation(group.windows, self.seed, group.epoch, 1 + group.index)
        return np.array_split(rows, group.steps)

    def remaining(self, start_epoch: int, start_step: int, end_epoch: int) -> Iterator[Group]:
        """Yield the groups with a step from (start_epoch, start_step) on, before epoch `end_epoch`."""
        for epoch in range(start_epoch, end_epoch):
            for group in self.groups(epoch):
                if group.steps and (epoch > start_epoch or group.first_step + group.steps > start_step):
                    yield group

    def check_world(self, world: int, start_epoch: int, end_epoch: int) -> None:
        """Refuse a number of workers that would leave one of them without a row in some step.

        Raises:
            ConfigError: with the first such step's group and the numbers.
        """
        for group in self.remaining(start_epoch, 0, end_epoch):
            smallest = group.windows // group.steps
            if smallest < world:
                raise ConfigError(
                    f"epoch {group.epoch}: the {group.windows} windows of shards {list(group.shards)} give a "
                    f"batch of {smallest} for {world} workers; use at most {smallest} workers (resources.workers), "
                    f"or raise train.batch_size ({self.batch_size}) or data.shuffle_shards ({self.shuffle_shards})"
                )


def _permutation(size: int, seed: int, epoch: int, stream: int) -> npt.NDArray[np.int64]:
    """Return a permutation of `range(size)`.

    NumPy promises stable streams for bit generators (NEP 19), not for `Generator.permutation`: sort raw draws.
    """
    keys = np.random.Philox(np.random.SeedSequence(seed, spawn_key=(epoch, stream))).random_raw(size)
    return np.argsort(keys, kind="stable")
