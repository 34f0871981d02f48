"""What a protocol makes of a folder: cold targets, and how much of the future its training sees."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from ss4rec.data.audit.facts import Division, IntArray
from ss4rec.data.audit.scan import Scan
from ss4rec.data.batches.windows import ragged
from ss4rec.data.ties import hashed
from ss4rec.io.moments import DAY_S
from ss4rec.protocol import divide as dividing
from ss4rec.protocol.named import describe
from ss4rec.protocol.plan import Plan


@dataclass
class Tally:
    """Counts over shards.

    Args:
        scan: the first pass.
        plan: the protocol, worked out.
    """

    scan: Scan
    plan: Plan
    in_history: int = 0
    twins: int = 0
    training_D: IntArray = field(init=False)
    """Training events of each day."""
    targets_D: IntArray = field(init=False)
    training_V: IntArray = field(init=False)
    """Training events of each item of the folder."""
    targets_V: IntArray = field(init=False)
    future_V: IntArray = field(init=False)
    """Targets of each item that no event before them has."""

    def __post_init__(self) -> None:
        days, items = len(self.scan.events_D), self.scan.folder.manifest.items + 1
        self.training_D, self.targets_D = np.zeros(days, np.int64), np.zeros(days, np.int64)
        self.training_V, self.targets_V, self.future_V = (np.zeros(items, np.int64) for _ in range(3))

    def add(self, division: dividing.Division) -> None:
        """Count a shard."""
        items_E, offsets_U1 = ragged(division.histories["items"])
        times_E, _ = ragged(division.histories["timestamps"])
        if self.plan.items_I is not None:
            items_E = np.append(np.int32(0), self.plan.items_I)[items_E]
        lengths_U = np.diff(offsets_U1)
        row_E = np.repeat(np.arange(len(lengths_U)), lengths_U)
        place_E = np.arange(len(items_E)) - offsets_U1[row_E]
        trains_E = place_E < division.fit_U[row_E]
        self.training_V += np.bincount(items_E[trains_E], minlength=len(self.training_V))
        self.training_D += self._by_day(times_E[trains_E])
        test = division.test
        self.targets_D += self._by_day(test.times_N)
        self.targets_V += np.bincount(test.source_N, minlength=len(self.targets_V))
        is_future_N = self.scan.first_V[test.source_N] >= test.times_N
        self.future_V += np.bincount(test.source_N[is_future_N], minlength=len(self.future_V))
        ends_N = offsets_U1[test.row_N] + test.ends_N
        keys = (row_E << 32 | items_E, test.row_N << 32 | test.source_N)
        self.in_history += _before(*keys, ends_N)
        # One number for user, item and second: two events share it by chance once in 2^64.
        with_time = (hashed(row_E, items_E) ^ hashed(times_E, times_E), hashed(test.row_N, test.source_N))
        self.twins += _before(with_time[0], with_time[1] ^ hashed(test.times_N, test.times_N), ends_N)

    def _by_day(self, times_N: IntArray) -> IntArray:
        return np.bincount(times_N // DAY_S - self.scan.first_day, minlength=len(self.scan.events_D))

    def division(self) -> Division:
        """Return what was counted."""
        protocol, facts = self.plan.protocol, self.plan.facts
        targets, training = int(self.targets_D.sum()), int(self.training_D.sum())
        later_D = training - np.cumsum(self.training_D)
        users = self.scan.folder.manifest.users
        asked = facts.get("later_users", users)
        unranked = facts.get("later_users_unranked", users - facts["test_users"])
        new = int(((self.plan.fit_U == 0) & (np.diff(self.plan.test.offsets_U1) > 0)).sum())
        core = max(protocol.k_core, self.scan.folder.manifest.filters.k_core)
        return Division(
            protocol=protocol.name,
            about=describe(protocol),
            training_events=training,
            targets=targets,
            cold_targets=float(self.targets_V[self.training_V == 0].sum() / max(1, targets)),
            cold_users=(new + unranked) / max(1, asked),
            unranked_users=unranked / max(1, asked),
            future_training=float((self.targets_D * later_D).sum() / max(1, targets * training)),
            future_items=float(self.future_V[self.training_V > 0].sum() / max(1, targets)),
            in_history=self.in_history / max(1, targets),
            twins=self.twins / max(1, targets),
            core_looked_ahead=core > 0 and (protocol.kind != "global_time" or protocol.core == "before"),
        )


def _before(keys_E: npt.NDArray[Any], keys_N: npt.NDArray[Any], ends_N: IntArray) -> int:
    """Count targets whose key an event has that comes before the place `ends_N` among all events."""
    if not len(keys_E) or not len(keys_N):
        return 0
    known, first = np.unique(keys_E, return_index=True)
    place_N = np.minimum(np.searchsorted(known, keys_N), len(known) - 1)
    return int(((known[place_N] == keys_N) & (first[place_N] < ends_N)).sum())


def tally(scan: Scan, plan: Plan) -> Division:
    """Divide all shards and count.

    Raises:
        DataError: if a shard is missing or damaged.
    """
    found = Tally(scan, plan)
    for number in range(len(scan.folder.manifest.shards)):
        found.add(plan.divide(scan.folder.read_shard(number)))
    return found.division()
