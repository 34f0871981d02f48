"""Pass 2: one cell is one window in one comparison; its result is one row a signal, or one row with its error.

A cell's random numbers depend on the run's seed and the cell's name alone, so neither the order of cells nor the number
of workers can change a result.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drift.config import DriftConfig, Severity
from drift.distances import Array, distances
from drift.plan import Plan
from drift.popularity import BinNoise, map_noise
from drift.profile import Profile
from drift.signals import Signal
from drift.stats import Blocks, bootstrap_intervals, permutation_test, sign_flip_test
from drift.windows import windows_a_year

COMPARISONS = {
    "reference": "all users of the window against all users of the reference",
    "returning": "users who are in both, each against themselves",
    "previous": "all users of the window against the window before it",
    "control": "two random halves of the reference users: must find nothing",
}


@dataclass(frozen=True)
class Cell:
    """What one worker computes at a time."""

    comparison: str
    window: int
    detector: str = "userperm"

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


@dataclass(frozen=True)
class CellContext:
    """What every worker needs."""

    config: DriftConfig
    plan: Plan
    profile: Profile
    layout: tuple[Signal, ...]

    def name(self, window: int) -> str:
        """Return a window's name."""
        return self.plan.windows[window].name


def all_cells(plan: Plan, windows: Sequence[int], detectors: Sequence[str]) -> list[Cell]:
    """Return the cells of these future windows, and the control."""
    kinds = ("reference", "returning", "previous")
    cells = [Cell(kind, window) for kind in kinds for window in windows]
    cells += [Cell("reference", window, f"alibi:{name}") for name in detectors for window in windows]
    return [*cells, Cell("control", plan.reference[0])]


def run_cell(context: CellContext, cell: Cell) -> list[Row]:
    """Compute a cell. Whatever goes wrong becomes a row that says so: silence would read as `no drift`."""
    started = time.perf_counter()
    try:
        if cell.detector.startswith("alibi:"):
            from drift.alibi import run_detector

            rows = run_detector(context, cell)
        else:
            rows = _test(context, cell)
    except Exception as error:
        rows = [Row(context.name(cell.window), cell.comparison, cell.detector, "*", status="error")]
        rows[0].error = f"{type(error).__name__}: {error}"[:500]
    for row in rows:
        row.ms = 1000 * (time.perf_counter() - started)
    return rows


def sides(context: CellContext, cell: Cell, rng: np.random.Generator) -> tuple[Blocks, Blocks]:
    """Return reference and current blocks of a cell, at most `max_users` users each."""
    plan, profile = context.plan, context.profile
    if cell.comparison == "control":
        users = np.unique(profile.user_R[np.isin(profile.window_R, plan.reference)])
        half = rng.permuted(users)[: len(users) // 2]
        chosen: list[NDArray[np.int64]] = [np.setdiff1d(users, half), half]
        windows = [plan.reference, plan.reference]
    else:
        windows = [plan.reference, [cell.window]]
        if cell.comparison == "previous":
            windows[0] = [_previous(plan, cell.window)]
        chosen = [np.unique(profile.user_R[np.isin(profile.window_R, side)]) for side in windows]
    limit = context.config.max_users
    kept = [
        np.sort(rng.choice(users, limit, replace=False)) if len(users) > limit else users for users in chosen
    ]
    ref, cur = (
        profile.blocks(side, context.layout, users) for side, users in zip(windows, kept, strict=True)
    )
    return ref, cur


def _bin_noise(context: CellContext, cell: Cell) -> BinNoise | None:
    """Return the error of estimated bins; both sides of the control share theirs."""
    if cell.comparison == "control":
        return None
    plan = context.plan
    ref = [_previous(plan, cell.window)] if cell.comparison == "previous" else plan.reference
    lookback = windows_a_year(context.config.window)
    return map_noise(context.profile, context.layout, ref, cell.window, lookback)


def _previous(plan: Plan, window: int) -> int:
    """Return the profiled window before `window`."""
    return max(other for other in plan.wanted if other < window)


def _test(context: CellContext, cell: Cell) -> list[Row]:
    """Test all signals of a cell with whole users as the unit."""
    config, layout = context.config, context.layout
    rng = cell.rng(config.seed)
    ref, cur = sides(context, cell, rng)
    paired = cell.comparison == "returning"
    if paired:
        both = np.intersect1d(ref.users_N, cur.users_N)
        ref, cur = ref.take(both), cur.take(both)
    if min(len(ref.users_N), len(cur.users_N)) < 2:
        name = context.name(cell.window)
        sizes = (len(ref.users_N), len(cur.users_N))
        return [
            Row(name, cell.comparison, cell.detector, signal.name, *sizes, status="too_few")
            for signal in layout
        ]
    noise = _bin_noise(context, cell)
    test = sign_flip_test if paired else permutation_test
    tested = test(ref, cur, layout, config.permutations, rng, noise)
    low_S, high_S = bootstrap_intervals(ref, cur, layout, config.bootstrap, config.level, rng, noise)
    in_window = context.profile.window_R == cell.window
    return [
        Row(
            window=context.name(cell.window),
            comparison=cell.comparison,
            detector=cell.detector,
            signal=signal.name,
            n_users_ref=int((ref.weights_NS[:, s] > 0).sum()),
            n_users_cur=int((cur.weights_NS[:, s] > 0).sum()),
            n_events=int(context.profile.events_R[in_window].sum()),
            effect=float(tested.effect_S[s]),
            effect_low=float(low_S[s]),
            effect_high=float(high_S[s]),
            effect_name=signal.distance,
            shift=float(tested.shift_S[s]),
            p=float(tested.p_S[s]),
            p_max=float(tested.p_max_S[s]),
            p_floor=tested.p_floor,
        )
        for s, signal in enumerate(layout)
    ]


def window_means(context: CellContext, windows: Sequence[int]) -> tuple[Array, NDArray[np.int64]]:
    """Return mean histograms `[W, K]` and users `[W]` of windows."""
    parts = [context.profile.blocks([window], context.layout) for window in windows]
    return np.stack([part.mean(context.layout) for part in parts]), np.array(
        [len(part.users_N) for part in parts]
    )


def past_effects(context: CellContext) -> dict[int, Array]:
    """Return, for each lag in windows, the `[pairs, S]` distances between calibration windows that far apart."""
    windows = context.plan.calibration
    means_WK, _ = window_means(context, windows)
    found: dict[int, list[Array]] = {}
    for late in range(len(windows)):
        for early in range(late):
            effect_S = distances(means_WK[early], means_WK[late], context.layout)
            found.setdefault(windows[late] - windows[early], []).append(effect_S)
    return {lag: np.stack(effects) for lag, effects in found.items()}


def thresholds(context: CellContext, past: dict[int, Array], lag: int, share: float = 0.95) -> Array:
    """Return the `[S]` effect that counts: the signal's minimum, or what the past did at this lag, if larger.

    Pairs of the nearest lags are taken until there are at least 8 (all, if the calibration is shorter); beyond the
    longest past lag the longest ones stand in.
    """
    minimum_S = np.array([signal.minimum for signal in context.layout])
    pairs: list[Array] = []
    for near in sorted(past, key=lambda other: (abs(other - lag), other)):
        if sum(map(len, pairs)) >= 8:
            break
        pairs.append(past[near])
    return np.maximum(minimum_S, np.quantile(np.concatenate(pairs), share, axis=0)) if pairs else minimum_S
