"""The order of training: which windows make up step s of epoch e, as a pure function of (seed, epoch, step).

Epoch e permutes the shards and puts them into groups; the windows of each group are permuted. This sequence of all
windows is cut into ceil(N / batch_size) batches of nearly equal size, so every epoch has the same number of steps and
a batch may straddle two groups. The number of workers decides nothing but the deal: worker r of W takes rows r::W of
each batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ss4rec.errors import ConfigError

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Group:
    """Shards whose windows are shuffled together in one epoch."""

    epoch: int
    index: int
    shards: tuple[int, ...]
    """Shard numbers in the order in which their windows are concatenated."""
    first: int
    """Place of its first window in the epoch's sequence of windows."""
    windows: int
    """Windows of all its shards."""


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

    @property
    def num_windows(self) -> int:
        """Windows of an epoch N."""
        return sum(self.windows)

    @property
    def steps_per_epoch(self) -> int:
        """Steps of every epoch, ceil(N / batch_size)."""
        return -(-self.num_windows // self.batch_size)

    @property
    def bounds(self) -> IntArray:
        """Where each step's batch begins in the epoch's sequence of windows, and N at the end."""
        small, larger = divmod(self.num_windows, self.steps_per_epoch)
        steps = np.arange(self.steps_per_epoch + 1)
        return np.asarray(steps * small + np.minimum(steps, larger))

    def groups(self, epoch: int) -> list[Group]:
        """Return the epoch's groups, of nearly equal numbers of shards, in the order of training."""
        shards = _permutation(len(self.windows), self.seed, epoch, 0)
        groups, first = [], 0
        for index, part in enumerate(np.array_split(shards, -(-len(shards) // self.shuffle_shards))):
            windows = sum(self.windows[shard] for shard in part)
            groups.append(Group(epoch, index, tuple(part.tolist()), first, windows))
            first += windows
        return groups

    def remaining(self, start_epoch: int, start_step: int, end_epoch: int) -> Iterator[Group]:
        """Yield the groups with a window of step (start_epoch, start_step) or later, before epoch `end_epoch`."""
        start = self.bounds[start_step]
        for epoch in range(start_epoch, end_epoch):
            for group in self.groups(epoch):
                if epoch > start_epoch or group.first + group.windows > start:
                    yield group

    def share(self, group: Group, rank: int, world: int, start_step: int = 0) -> IntArray:
        """Return the rows of the group's concatenated windows that worker `rank` of `world` takes, in order.

        Rows of steps before `start_step` are left out.
        """
        rows = _permutation(group.windows, self.seed, group.epoch, 1 + group.index)
        bounds = self.bounds
        places = group.first + np.arange(group.windows)
        steps = np.searchsorted(bounds, places, side="right") - 1
        mine = (places - bounds[steps]) % world == rank
        return np.asarray(rows[mine & (steps >= start_step)])

    def share_sizes(self, rank: int, world: int) -> IntArray:
        """Return the rows that worker `rank` of `world` takes in each step of an epoch."""
        return -(-(np.diff(self.bounds) - rank) // world)

    def check_world(self, world: int) -> None:
        """Refuse a number of workers that would leave one of them without a row in some step.

        Raises:
            ConfigError: with the numbers.
        """
        if self.num_windows == 0:
            raise ConfigError("no user has the 4 events that one training pair needs; prepare other data")
        smallest = self.num_windows // self.steps_per_epoch
        if smallest < world:
            raise ConfigError(
                f"the {self.num_windows} training windows give batches of {smallest} for {world} workers; set "
                f"resources.workers to at most {smallest}, or train.batch_size ({self.batch_size}) to "
                f"{2 * world} or more if there are that many windows"
            )


def _permutation(size: int, seed: int, epoch: int, stream: int) -> IntArray:
    """Return a permutation of `range(size)`.

    NumPy promises stable streams for bit generators (NEP 19), not for `Generator.permutation`: sort raw draws.
    """
    keys = np.random.Philox(np.random.SeedSequence(seed, spawn_key=(epoch, stream))).random_raw(size)
    return np.argsort(keys, kind="stable")
