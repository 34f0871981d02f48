"""How uncertain the popularity percentiles of a window are, so that the test can allow for it.

A window's percentiles come from the users of the year before. All users of the window share them, so their error is no
matter of who is in the window, and permuting the window's users can not see it. Left out, it made 8 % of windows
without drift look changed by this one signal: with a year of four windows the difference of two windows in a row has
the variance of 2.6 windows (1.25^2 + 1 + 0.25^2), the permutation null that of 2. Any bin that is
estimated from users would have it; every other signal has constant bins.

To first order the histogram of a window moves by minus the year's own deviation, event by event. So each user has one
coefficient for being in the window and one for being in the year; the covariance that the second adds is drawn as
Gaussian noise beside each permutation and bootstrap draw.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drift.signals.definitions import Signal
from drift.signals.histograms import UserHistograms
from drift.stats.bin_noise import BinNoise, root
from drift.stats.distances import Array, named_slices

SIGNAL = "popularity"


def percentile_noise(
    histograms: UserHistograms, layout: Sequence[Signal], ref: Sequence[int], cur: int, lookback: int
) -> BinNoise | None:
    """Return the noise that estimated percentiles add to `popularity` when window `cur` is compared with `ref`.

    Args:
        histograms: holds the `lookback` windows before each of these too; a window that has no year before it lies in
            one bin and tells nothing, so the others stand in for it.
        layout: the signals.
        ref: windows of the reference.
        cur: the other window.
        lookback: windows in a year.
    """
    part = named_slices(layout).get(SIGNAL)
    if part is None:
        return None
    rows = np.flatnonzero(np.isin(histograms.window_R, _with_years([*ref, cur], lookback)))
    window_R, user_R, events_R = (
        values[rows] for values in (histograms.window_R, histograms.user_R, histograms.events_R)
    )
    deviation_RB, mapped_R = _deviations(histograms.counts_RK[rows, part].astype(np.float64), window_R)
    total_ref = np.isin(window_R, ref).sum()
    own_R, year_R = np.zeros(len(rows)), np.zeros(len(rows))
    for window in [*ref, cur]:
        inside_R = window_R == window
        size = float(inside_R.sum())
        if size == 0:
            continue
        sign_weight = 1.0 if window == cur else -size / total_ref
        own_R[inside_R] += sign_weight / size
        before_R = mapped_R & (window_R < window) & (window_R >= window - lookback)
        events = events_R[before_R].sum()
        if events:
            year_R[before_R] -= sign_weight * events_R[before_R] / events
    order = np.argsort(user_R, kind="stable")
    first = np.flatnonzero(np.r_[True, np.diff(user_R[order]) != 0])
    whole_UB, own_UB = (
        np.add.reduceat(((weight_R)[:, None] * deviation_RB)[order], first, axis=0)
        for weight_R in (own_R + year_R, own_R)
    )
    return BinNoise(part, root(whole_UB.T @ whole_UB - own_UB.T @ own_UB))


def _with_years(windows: Sequence[int], lookback: int) -> list[int]:
    """Return windows and those of the year before each."""
    return sorted({window - back for window in windows for back in range(lookback + 1)})


def _deviations(counts_RB: Array, window_R: NDArray[np.integer[Any]]) -> tuple[Array, NDArray[np.bool_]]:
    """Return each row's histogram less its window's mean, and whether its window had a year before it (bin 0: none)."""
    shares_RB = counts_RB / np.maximum(counts_RB.sum(axis=1, keepdims=True), 1)
    mapped_R = np.zeros(len(window_R), bool)
    for window in np.unique(window_R):
        inside_R = window_R == window
        mapped_R[inside_R] = bool((counts_RB[inside_R, 1:] > 0).any())
        shares_RB[inside_R] -= shares_RB[inside_R].mean(axis=0)
    return shares_RB, mapped_R
