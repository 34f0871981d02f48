"""What the calendar alone does to the days of the week: a month has five Mondays, the next one four.

The null has that difference as well, so that it is no news. In windows of a day or an hour the day of the week, or the
hour, is that of the window, and no test of it means anything (`by_construction`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from drift.calendar import DAY_S, HOUR_S, MONDAY_S, Kind, Window
from drift.signals.definitions import Signal
from drift.signals.histograms import UserHistograms
from drift.stats.bin_noise import BinNoise
from drift.stats.distances import named_slices

WEEKDAY, HOUR = "weekday", "hour"


def by_construction(kind: Kind) -> tuple[str, ...]:
    """Return the signals that the length of a window decides."""
    return {"hour": (WEEKDAY, HOUR), "day": (WEEKDAY,)}.get(kind, ())


def weekday_noise(
    histograms: UserHistograms,
    layout: Sequence[Signal],
    windows: Sequence[Window],
    ref: Sequence[int],
    cur: int,
) -> BinNoise | None:
    """Return the difference that the days of window `cur` and those of `ref` make; None without the signal."""
    part = named_slices(layout).get(WEEKDAY)
    if part is None:
        return None
    inside_R = np.isin(histograms.window_R, list(ref))
    events_B = histograms.counts_RK[inside_R, part].sum(axis=0, dtype=np.float64)
    before_B = np.sum([_hours(windows[window]) for window in ref], axis=0)
    if not events_B.sum() or not before_B.all():
        return None
    expected_B = events_B / before_B * _hours(windows[cur])
    offset_B = expected_B / expected_B.sum() - events_B / events_B.sum()
    return BinNoise(part, np.zeros((len(offset_B), len(offset_B))), offset_B)


def _hours(window: Window) -> NDArray[np.float64]:
    """Return how many hours of each day of the week a window has."""
    starts = np.arange(window.start_s, window.end_s, HOUR_S)
    return np.bincount((starts - MONDAY_S) // DAY_S % 7, minlength=7).astype(np.float64)
