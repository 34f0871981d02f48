"""How far each signal wandered in the past, beyond what drawing users and items explains.

The null of a test says how far two windows lie apart if their users come from one population. Real populations wander:
mean stars go up and down by a hundredth from quarter to quarter, and no cause is ever found. With many users the test
sees that, and each window is news. So past windows are tested as the others are, the window before them and blocks like
the reference standing against them. What their squared distances have beyond the null's is the past's own wander; it is
added to the null of later windows (`drift.stats.resampling.Excess`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from drift.cells.compare import cell_test
from drift.cells.types import PREVIOUS, REFERENCE, Cell, CellContext, Wander
from drift.plan import Plan
from drift.stats.distances import Array

DRAWS = 100
"""Permutations of a past test: its mean square is wanted, no small p."""
PAIRS = 8
"""Pairs of windows that are enough for one lag."""
LAGS = 4
"""Lags between a block like the reference and a window at which the past is asked, evenly spread."""
OUTLIER = 9.0
"""A squared distance counts as at most this many medians: one break in the past is no wander."""


@dataclass(frozen=True)
class PastPair:
    """A window of the past, and what it is tested against."""

    comparison: str
    block: tuple[int, ...]
    """Windows of the reference, or of one like it before."""
    window: int

    @property
    def lag(self) -> int:
        """Windows between both sides, as `drift.cells.compare.lag_of` counts."""
        return 1 if self.comparison == PREVIOUS else round(self.window - float(np.mean(self.block)))


Squares = tuple[Array, Array]
"""Squared distances of the signals, and their mean under the null."""


def past_pairs(plan: Plan) -> list[PastPair]:
    """Return the tests of the past: neighbours, and blocks like the reference with a window some way behind them."""
    windows, size = plan.calibration, len(plan.reference)
    pairs = [PastPair(PREVIOUS, tuple(plan.reference), window) for window in windows[1:]]
    for gap in _spread(1, len(windows) - size, LAGS):
        for end in _spread(size + gap - 1, len(windows) - 1, PAIRS):
            block = tuple(windows[end - gap - size + 1 : end - gap + 1])
            pairs.append(PastPair(REFERENCE, block, windows[end]))
    return pairs


def _spread(first: int, last: int, count: int) -> list[int]:
    """Return at most so many of the numbers from first to last, evenly spread."""
    if last < first:
        return []
    return sorted(set(np.linspace(first, last, min(last - first + 1, count)).round().astype(int).tolist()))


def past_squares(context: CellContext, pair: PastPair) -> Squares | None:
    """Test one pair of the past; None where a side has fewer than two users."""
    plan = replace(context.plan, reference=list(pair.block))
    cell = Cell(pair.comparison, pair.window)
    tested = cell_test(replace(context, plan=plan, wander=None), cell, cell.rng(context.config.seed), DRAWS)
    return None if tested is None else (tested.effect_S**2, tested.square_S)


def past_wander(
    context: CellContext, run: Callable[[Sequence[PastPair]], Sequence[Squares | None]] | None = None
) -> Wander:
    """Return how far the calibration windows lay apart beyond their null, by comparison and lag.

    Args:
        context: with the past's histograms.
        run: does the tests, in the order of the pairs; None: one after another in this process.
    """
    pairs = past_pairs(context.plan)
    found = run(pairs) if run else [past_squares(context, pair) for pair in pairs]
    groups: dict[str, dict[int, list[Squares]]] = {}
    for pair, squares in zip(pairs, found, strict=True):
        if squares is not None:
            groups.setdefault(pair.comparison, {}).setdefault(pair.lag, []).append(squares)
    return Wander(
        {name: {lag: _excess(one) for lag, one in by_lag.items()} for name, by_lag in groups.items()}
    )


def _excess(found: Sequence[Squares]) -> Array:
    """Return `[pairs, S]` squared distances less those of the null."""
    square_PS, null_PS = (np.stack(side) for side in zip(*found, strict=True))
    return np.asarray(np.minimum(square_PS, OUTLIER * np.median(square_PS, axis=0)) - null_PS)
