"""Pass 2, our own test: all signals of one window against the reference, the window before, or the same users earlier.

Also what past windows differed by, which gives the threshold of each signal.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from drift.cells.types import CONTROL, PREVIOUS, RETURNING, Cell, CellContext, Row
from drift.plan import Plan
from drift.signals.calendar_noise import by_construction, weekday_noise
from drift.signals.item_noise import item_noise
from drift.signals.popularity_noise import percentile_noise
from drift.stats.bin_noise import BinNoise
from drift.stats.distances import Array, distances
from drift.stats.resampling import (
    Blocks,
    Tested,
    bootstrap_intervals,
    permutation_test,
    sign_flip_test,
)

UNSEEN = "unseen_item"
GUESS = 1.25
"""Margin of a threshold at a lag that the past does not reach."""


def sides(context: CellContext, cell: Cell, rng: np.random.Generator) -> tuple[Blocks, Blocks]:
    """Return reference and current blocks of a cell, at most `max_users` users each."""
    plan, histograms = context.plan, context.histograms
    if cell.comparison == CONTROL:
        users = np.unique(histograms.user_R[np.isin(histograms.window_R, plan.reference)])
        half = rng.permuted(users)[: len(users) // 2]
        chosen: list[NDArray[np.int64]] = [np.setdiff1d(users, half), half]
        windows = [plan.reference, plan.reference]
    else:
        windows = [plan.reference, [cell.window]]
        if cell.comparison == PREVIOUS:
            windows[0] = [_previous(plan, cell.window)]
        chosen = [np.unique(histograms.user_R[np.isin(histograms.window_R, side)]) for side in windows]
    limit = context.config.max_users
    kept = [
        np.sort(rng.choice(users, limit, replace=False)) if len(users) > limit else users for users in chosen
    ]
    ref, cur = (
        histograms.blocks(side, context.layout, users) for side, users in zip(windows, kept, strict=True)
    )
    return ref, cur


def _bin_noises(context: CellContext, cell: Cell) -> list[BinNoise]:
    """Return what moves bins for all users at once; both sides of the control share theirs."""
    if cell.comparison == CONTROL:
        return []
    plan = context.plan
    ref = [_previous(plan, cell.window)] if cell.comparison == PREVIOUS else plan.reference
    popularity = percentile_noise(context.histograms, context.layout, ref, cell.window, plan.lookback)
    weekday = weekday_noise(context.histograms, context.layout, plan.windows, ref, cell.window)
    found = [noise for noise in (popularity, weekday) if noise is not None]
    if context.counts is not None and context.facts is not None:
        found += item_noise(
            context.counts, context.facts, plan.windows, context.layout, ref, cell.window, context.stars_V
        )
    return found


def _previous(plan: Plan, window: int) -> int:
    """Return the profiled window before `window`."""
    return max(other for other in plan.wanted if other < window)


def cell_test(context: CellContext, cell: Cell, rng: np.random.Generator, permutations: int) -> Tested | None:
    """Test all signals of a cell; None where a side has fewer than two users."""
    found = sides(context, cell, rng)
    if min(len(side.users_N) for side in found) < 2:
        return None
    return _test(context, cell, found, rng, permutations, _bin_noises(context, cell))


def _test(
    context: CellContext,
    cell: Cell,
    found: tuple[Blocks, Blocks],
    rng: np.random.Generator,
    permutations: int,
    noises: Sequence[BinNoise],
) -> Tested:
    """Test both sides: the same users by flips of signs, else by permutations, with the past's wander in the null."""
    if cell.comparison == RETURNING:
        return sign_flip_test(*found, context.layout, permutations, rng, noises)
    excess = (
        None if context.wander is None else context.wander.at(cell.comparison, lag_of(context.plan, cell))
    )
    return permutation_test(*found, context.layout, permutations, rng, noises, excess)


def lag_of(plan: Plan, cell: Cell) -> int:
    """Return how many windows lie between the two sides of a cell."""
    near = {PREVIOUS: 1, CONTROL: 0}
    return near.get(cell.comparison, round(cell.window - float(np.mean(plan.reference))))


def compare(context: CellContext, cell: Cell) -> list[Row]:
    """Test all signals of a cell with whole users as the unit."""
    config, layout = context.config, context.layout
    rng = cell.rng(config.seed)
    ref, cur = sides(context, cell, rng)
    if cell.comparison == RETURNING:
        both = np.intersect1d(ref.users_N, cur.users_N)
        ref, cur = ref.take(both), cur.take(both)
    if min(len(ref.users_N), len(cur.users_N)) < 2:
        name = context.name(cell.window)
        sizes = (len(ref.users_N), len(cur.users_N))
        return [
            Row(name, cell.comparison, cell.detector, signal.name, *sizes, status="too_few")
            for signal in layout
        ]
    noises = _bin_noises(context, cell)
    tested = _test(context, cell, (ref, cur), rng, context.permutations, noises)
    low_S, high_S = bootstrap_intervals(ref, cur, layout, config.bootstrap, config.level, rng, noises)
    decided = by_construction(config.window)
    in_window = context.histograms.window_R == cell.window
    return [
        Row(
            window=context.name(cell.window),
            comparison=cell.comparison,
            detector=cell.detector,
            signal=signal.name,
            n_users_ref=int((ref.weights_NS[:, s] > 0).sum()),
            n_users_cur=int((cur.weights_NS[:, s] > 0).sum()),
            n_events=int(context.histograms.events_R[in_window].sum()),
            effect=float(tested.effect_S[s]),
            effect_low=float(low_S[s]),
            effect_high=float(high_S[s]),
            effect_name=signal.distance,
            shift=float(tested.shift_S[s]),
            p=1.0 if signal.name in decided else float(tested.p_S[s]),
            p_max=1.0 if signal.name in decided else float(tested.p_max_S[s]),
            p_floor=tested.p_floor,
        )
        for s, signal in enumerate(layout)
    ]


def window_means(context: CellContext, windows: Sequence[int]) -> tuple[Array, NDArray[np.int64]]:
    """Return mean histograms `[W, K]` and users `[W]` of windows."""
    parts = [context.histograms.blocks([window], context.layout) for window in windows]
    return np.stack([part.mean(context.layout) for part in parts]), np.array(
        [len(part.users_N) for part in parts]
    )


def past_effects(context: CellContext) -> dict[int, Array]:
    """Return, for each lag in windows, the `[pairs, S]` distances between calibration windows that far apart.

    The model's catalogue is that of the cut, so past windows hardly leave it. What it would have missed had it been
    frozen earlier stands in for `unseen_item`.
    """
    windows, layout = context.plan.calibration, context.layout
    means_WK, _ = window_means(context, windows)
    found: dict[int, list[Array]] = {}
    for late in range(len(windows)):
        for early in range(late):
            effect_S = distances(means_WK[early], means_WK[late], layout)
            found.setdefault(windows[late] - windows[early], []).append(effect_S)
    past = {lag: np.stack(effects) for lag, effects in found.items()}
    column = [signal.name for signal in layout].index(UNSEEN) if context.past_unseen else None
    for lag, pairs in past.items():
        shares = context.past_unseen.get(lag)
        if column is not None and shares:
            pairs[:, column] = np.quantile(shares, np.linspace(0, 1, len(pairs)))
    return past


def thresholds(context: CellContext, past: dict[int, Array], lag: int, share: float = 0.95) -> Array:
    """Return the `[S]` effect that counts: the signal's minimum, or what the past did at this lag, if larger.

    Pairs of the nearest lags are taken until there are at least 8 (all, if the calibration is shorter). Beyond the
    longest past lag the longest ones are stretched in proportion, and by a quarter since that is a guess: what moves
    steadily has moved further by then.
    """
    minimum_S = np.array([signal.minimum for signal in context.layout])
    pairs: list[Array] = []
    for near in sorted(past, key=lambda other: (abs(other - lag), other)):
        if sum(map(len, pairs)) >= 8:
            break
        pairs.append(past[near])
    if not pairs:
        return minimum_S
    stretch = 1.0 if lag <= max(past) else GUESS * lag / max(past)
    return np.maximum(minimum_S, stretch * np.quantile(np.concatenate(pairs), share, axis=0))
