"""What a cell is, what it gives, and what it needs. One cell is one window in one comparison with one detector.

A cell's random numbers depend on the run's seed and the cell's name alone, so neither the order of cells nor the number
of workers can change a result.
"""

from __future__ import annotations

import math
import zlib
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from drift.config import DriftConfig, Severity
from drift.plan import Plan
from drift.signals.definitions import Signal
from drift.signals.histograms import UserHistograms
from drift.signals.items import ItemCounts, ItemFacts
from drift.stats.distances import Array
from drift.stats.resampling import Excess

REFERENCE, RETURNING, PREVIOUS, CONTROL = "reference", "returning", "previous", "control"

COMPARISONS = {
    REFERENCE: "all users of the window against all users of the reference",
    RETURNING: "users who are in both, each against themselves",
    PREVIOUS: "all users of the window against the window before it",
    CONTROL: "two random halves of the reference users: must find nothing",
}
"""Comparison, and what stands against what in it."""
OWN_TEST = "userperm"
"""Our test: whole users are permuted."""
VOLUME, IDENTICAL = "volume", "identical"
"""Tests of the number of events and users, and of users who did the same."""
ALIBI = "alibi:"
"""What the names of alibi-detect's detectors begin with."""
FAMILIES = {REFERENCE: 0.4, PREVIOUS: 0.4, VOLUME: 0.1, IDENTICAL: 0.1}
"""Families of tests that raise alarms, and the share of alpha that each may use: together they keep alpha."""
ALL_SIGNALS = "*"
"""Signal of the row of a cell that failed."""


@dataclass(frozen=True)
class Cell:
    """What one worker computes at a time."""

    comparison: str
    window: int
    detector: str = OWN_TEST

    def rng(self, seed: int) -> np.random.Generator:
        """Return the cell's own random numbers."""
        return np.random.default_rng(
            [seed, zlib.crc32(f"{self.comparison}/{self.detector}".encode()), self.window]
        )


@dataclass
class Row:
    """One line of `drift.parquet`; p_adj, threshold and severity are filled in when all cells are there."""

    window: str
    comparison: str
    detector: str
    signal: str
    n_users_ref: int = 0
    n_users_cur: int = 0
    n_events: int = 0
    effect: float = float("nan")
    effect_low: float = float("nan")
    effect_high: float = float("nan")
    effect_name: str = ""
    shift: float = float("nan")
    p: float = float("nan")
    p_max: float = float("nan")
    p_adj: float = float("nan")
    p_floor: float = float("nan")
    threshold: float = float("nan")
    severity: Severity = "undecided"
    status: str = "ok"
    error: str = ""
    ms: float = field(default=0.0, compare=False)

    def record(self) -> dict[str, Any]:
        """Return the row as plain values."""
        return asdict(self)


ENOUGH_PAIRS = 8
"""Pairs of past windows that are enough to say how far a signal wanders."""
FEWEST_PAIRS = 3


@dataclass(frozen=True)
class Wander:
    """How far past windows lay apart beyond their null (`drift.cells.wander`)."""

    excess: dict[str, dict[int, Array]]
    """By comparison and lag in windows: `[pairs, S]`, squared distances less those of the null."""

    def at(self, comparison: str, lag: int) -> Excess | None:
        """Return the wander at the nearest lags that have enough pairs; None if the past is too short to say."""
        by_lag, parts = self.excess.get(comparison, {}), list[Array]()
        for near in sorted(by_lag, key=lambda other: (abs(other - lag), other)):
            if sum(map(len, parts)) >= ENOUGH_PAIRS:
                break
            parts.append(by_lag[near])
        if sum(map(len, parts)) < FEWEST_PAIRS:
            return None
        found = np.concatenate(parts)
        return Excess(np.maximum(found.mean(axis=0), 0.0), len(found))


@dataclass(frozen=True)
class CellContext:
    """What every worker needs."""

    config: DriftConfig
    plan: Plan
    histograms: UserHistograms
    layout: tuple[Signal, ...]
    past_unseen: dict[int, list[float]] = field(default_factory=dict)
    """`drift.signals.items.unseen_shares`: what a frozen catalogue misses without news."""

    counts: ItemCounts | None = None
    """Events of each item by window: which films make up a change."""
    facts: ItemFacts | None = None
    stars_V: Array | None = None
    """Mean stars of each item before the reference, NaN where they say nothing."""
    wander: Wander | None = None
    """How far the past wandered; None: not known, and nothing is added to a null."""

    def without_titles(self) -> CellContext:
        """Return what a worker needs: no test looks at titles."""
        return self if self.facts is None else replace(self, facts=replace(self.facts, titles=()))

    @property
    def permutations(self) -> int:
        """Permutations of a test: so many that an adjusted p can fall below alpha however many windows there are."""
        windows = max(len(self.plan.future), self.config.planned_windows)
        return max(
            self.config.permutations, math.ceil(1.25 * windows / (self.config.alpha * FAMILIES[REFERENCE]))
        )

    def name(self, window: int) -> str:
        """Return a window's name."""
        return self.plan.windows[window].name
