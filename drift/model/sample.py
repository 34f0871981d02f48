"""Which users a model is asked for: drawn by seed and the users' own keys, whoever joins later."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from drift.cells.types import CellContext
from drift.model.held_out import HeldOut
from drift.model.names import BEFORE_CUT

REFERENCE_FACTOR = 8
"""Users of the reference for each of a window: they have one held-out event each, not twenty."""


def choose_users(
    context: CellContext, windows: Sequence[int], keys_U: NDArray[np.int64], reference: HeldOut | None
) -> dict[int, NDArray[np.int64]]:
    """Return the user indices to rank in each window, rising; `BEFORE_CUT` for the reference before the cut.

    Args:
        context: histograms with users by stable key.
        windows: the windows.
        keys_U: stable key of each user index.
        reference: what training did not see before the cut; None: it is not asked for.
    """
    config, made, plan = context.config, context.histograms, context.plan
    order = np.argsort(keys_U, kind="stable")
    chosen: dict[int, NDArray[np.int64]] = {}
    sides = [(window, [window], config.quality_users) for window in windows]
    if reference is not None:
        sides.append((BEFORE_CUT, plan.reference, REFERENCE_FACTOR * config.quality_users))
    for window, inside, limit in sides:
        keys = np.unique(made.user_R[np.isin(made.window_R, inside)])
        if window == BEFORE_CUT and reference is not None:
            keys = reference.of(keys)
        keys = keys[np.argsort(draws(keys, config.seed, window), kind="stable")[:limit]]
        places = np.searchsorted(keys_U[order], keys)
        if len(keys):
            chosen[window] = np.sort(order[places])
    return chosen


def draws(keys_N: NDArray[np.int64], seed: int, window: int) -> NDArray[np.uint64]:
    """Return a pseudo-random number for each key that depends on nothing but key, seed and window."""
    salt = np.random.default_rng([seed, window + 1, 11]).integers(1 << 63, dtype=np.uint64)
    mixed = keys_N.astype(np.uint64) + salt
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    return np.asarray(mixed ^ (mixed >> np.uint64(31)), np.uint64)
