"""Two passes over the shards of a folder; in memory are one shard, and arrays of users, items and days."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from ss4rec.auto.look import time_step_s
from ss4rec.data.audit.facts import Copies, IntArray, Repeats, Ties
from ss4rec.data.prepared.folder import PreparedFolder
from ss4rec.data.prepared.gap_median import GapCounts
from ss4rec.data.ties import hashed
from ss4rec.io.moments import DAY_S
from ss4rec.protocol.divide import Events

MAX_TIED = 4_000_000
"""Pairs of one second that are kept to see their order; of more, evenly spread shards."""
FREQUENT = 10
"""Occurrences from which a pair of items counts."""
COPY_EVENTS = 10
"""Events of a history from which another one with the same items is no coincidence."""
CLOCK_PAUSES = 20
"""Pauses of the same length, and no other, that only a machine makes."""


@dataclass
class Scan:
    """What the first pass counts.

    Args:
        folder: the prepared folder.
    """

    folder: PreparedFolder
    gaps: GapCounts = field(default_factory=GapCounts)
    repeated: int = 0
    at_once: int = 0
    duplicates: int = 0
    clockwork: int = 0

    def __post_init__(self) -> None:
        manifest = self.folder.manifest
        self.first_day = manifest.first_time_s // DAY_S
        self.events_D = np.zeros(manifest.last_time_s // DAY_S - self.first_day + 1, np.int64)
        """Events of each day."""
        self.clock_S = np.zeros(DAY_S, np.int64)
        """Events of each second of the day."""
        self.first_V = np.full(manifest.items + 1, np.iinfo(np.int64).max)
        """First event of each item, unix seconds."""
        self.first_U = np.zeros(manifest.users, np.int64)
        """First event of each user, unix seconds."""
        self.prints_U = np.zeros(manifest.users, np.uint64)
        """A number that users with the same items in the same order share."""
        self.tied: list[IntArray] = []
        tied = manifest.zero_gaps * manifest.interactions / max(1, manifest.training_gaps)
        self.tied_every = max(1, -(-int(tied) // MAX_TIED))

    @classmethod
    def of(cls, folder: PreparedFolder) -> Scan:
        """Read all shards.

        Raises:
            DataError: if a shard is missing or damaged.
        """
        scan = cls(folder)
        for number in range(len(folder.manifest.shards)):
            scan._add(Events.of(folder.read_shard(number)), number)
        return scan

    def _add(self, events: Events, number: int) -> None:
        """Count the events of a shard."""
        items_E, times_E = events.items_E.astype(np.int64), events.times_E
        row_E, firsts_U = events.row_E, events.offsets_U1[:-1]
        self.events_D += np.bincount(times_E // DAY_S - self.first_day, minlength=len(self.events_D))
        self.clock_S += np.bincount(times_E % DAY_S, minlength=DAY_S)
        np.minimum.at(self.first_V, items_E, times_E)
        self.first_U[events.users_U] = times_E[firsts_U]
        place_E = np.arange(len(items_E)) - firsts_U[row_E]
        self.prints_U[events.users_U] = np.add.reduceat(hashed(place_E, items_E), firsts_U)
        same_P = row_E[1:] == row_E[:-1]
        gaps_P = np.diff(times_E)[same_P]
        self.gaps.add(GapCounts.of(gaps_P))
        self._add_repeats(row_E, items_E, times_E)
        self.at_once += int((items_E[1:] == items_E[:-1])[same_P].sum())
        self.clockwork += _clockwork(gaps_P, row_E[1:][same_P], len(events.users_U))
        if number % self.tied_every == 0:
            tied_P = np.flatnonzero(same_P)[gaps_P == 0]
            self.tied.append(items_E[tied_P] << 32 | items_E[tied_P + 1])

    def _add_repeats(self, row_E: IntArray, items_E: IntArray, times_E: IntArray) -> None:
        """Count events on an item that the user had before, and those of the same second too."""
        order_E = np.argsort(row_E << 32 | items_E, kind="stable")  # times keep their order within a pair
        key_E, times_E = (row_E << 32 | items_E)[order_E], times_E[order_E]
        again_P = key_E[1:] == key_E[:-1]
        self.repeated += int(again_P.sum())
        self.duplicates += int((again_P & (times_E[1:] == times_E[:-1])).sum())

    @property
    def step_s(self) -> int:
        """Step that nearly all times keep, in seconds."""
        return time_step_s(self.clock_S)

    @property
    def repeats(self) -> Repeats:
        """Events that come again."""
        events = self.folder.manifest.interactions
        return Repeats(self.repeated / events, self.at_once / events, self.duplicates / events)

    def ties(self) -> Ties:
        """Return what the order of events in one second gives away."""
        keys_P = np.concatenate(self.tied) if self.tied else np.zeros(0, np.int64)
        left_P, right_P = keys_P >> 32, keys_P & 0xFFFFFFFF
        other_P = left_P != right_P
        rises_P = (left_P < right_P)[other_P]
        both_P = (np.minimum(left_P, right_P) << 32 | np.maximum(left_P, right_P))[other_P]
        _, pair_P, counts = np.unique(both_P, return_inverse=True, return_counts=True)
        rising = np.bincount(pair_P, weights=rises_P, minlength=len(counts))
        enough = counts >= FREQUENT
        total = int(counts[enough].sum())
        usual = np.maximum(rising, counts - rising)[enough].sum()
        return Ties(
            pairs=len(keys_P),
            frequent=total,
            usual_order=float(usual / total) if total else 0.0,
            by_chance=float(_usual_by_chance(counts[enough]).sum() / total) if total else 0.0,
            ascending=float(rises_P.mean()) if len(rises_P) else 0.0,
        )

    def copies(self) -> Copies:
        """Return who has the same history as somebody else."""
        counts_U = self.folder.users["count"].to_numpy()
        long_L = np.flatnonzero(counts_U >= COPY_EVENTS)
        _, group_L, sizes = np.unique(self.prints_U[long_L], return_inverse=True, return_counts=True)
        several = sizes > 1
        largest = int(sizes.max()) if several.any() else 0
        example = long_L[group_L == int(np.argmax(sizes))][:3] if largest else []
        ids = self.folder.users["source_id"]
        return Copies(
            least_events=COPY_EVENTS,
            compared=len(long_L),
            users=int(sizes[several].sum()),
            groups=int(several.sum()),
            largest=largest,
            example=tuple(str(ids[int(user)].as_py()) for user in example),
            clockwork=self.clockwork,
        )


def _clockwork(gaps_P: IntArray, row_P: IntArray, users: int) -> int:
    """Count users with `CLOCK_PAUSES` pauses or more that are all equally long; gaps of 0 s are no pauses."""
    paused_P = gaps_P > 0
    gaps_P, row_P = gaps_P[paused_P], row_P[paused_P]
    if not len(gaps_P):
        return 0
    starts = np.flatnonzero(np.append(True, np.diff(row_P) != 0))
    same = np.maximum.reduceat(gaps_P, starts) == np.minimum.reduceat(gaps_P, starts)
    return int((same & (np.diff(np.append(starts, len(gaps_P))) >= CLOCK_PAUSES)).sum())


def _usual_by_chance(counts: IntArray) -> npt.NDArray[np.float64]:
    """Return the expected max(heads, tails) of so many fair coins: n/2 + n C(n-1, floor((n-1)/2)) / 2^n."""
    from scipy.special import gammaln

    half = (counts - 1) // 2
    log_choose = gammaln(counts) - gammaln(half + 1) - gammaln(counts - half)
    expected: npt.NDArray[np.float64] = counts / 2 + counts * np.exp(log_choose - counts * np.log(2.0))
    return expected


@dataclass
class DayCounts:
    """What the second pass counts for each day."""

    cold_D: IntArray
    """Events on an item that had none before the day."""
    new_D: IntArray
    """Events by a user who had none before the day."""
    both_D: IntArray
    """Both."""

    @classmethod
    def of(cls, scan: Scan) -> DayCounts:
        """Read all shards again; raises as `Scan.of`."""
        days = len(scan.events_D)
        counts = cls(*(np.zeros(days, np.int64) for _ in range(3)))
        for number in range(len(scan.folder.manifest.shards)):
            events = Events.of(scan.folder.read_shard(number))
            day_E = events.times_E // DAY_S
            cold_E = scan.first_V[events.items_E] // DAY_S == day_E
            new_E = scan.first_U[events.user_E] // DAY_S == day_E
            pairs = ((counts.cold_D, cold_E), (counts.new_D, new_E), (counts.both_D, cold_E & new_E))
            for counts_D, which_E in pairs:
                counts_D += np.bincount(day_E[which_E] - scan.first_day, minlength=days)
        return counts
