"""Calendar windows in UTC: months, quarters or years."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray

MONTHS = {"month": 1, "quarter": 3, "year": 12}


@dataclass(frozen=True)
class Window:
    """Seconds `start_s` up to, not including, `end_s`."""

    name: str
    """`2015-04`, `2015Q2` or `2015`."""
    start_s: int
    end_s: int


def windows_a_year(kind: str) -> int:
    """Return how many windows of this kind make a year."""
    return 12 // MONTHS[kind]


def calendar(kind: str, first_s: int, last_s: int) -> list[Window]:
    """Return the windows that hold `first_s` to `last_s`, those cut by the edges included."""
    months = MONTHS[kind]
    start = datetime.fromtimestamp(first_s, UTC)
    at = (start.year * 12 + start.month - 1) // months * months
    windows = []
    while _epoch(at) <= last_s:
        windows.append(Window(_name(kind, at), _epoch(at), _epoch(at + months)))
        at += months
    return windows


def full_windows(kind: str, first_s: int, last_s: int, slack_s: int = 86_400) -> list[Window]:
    """Return the windows that lie within `first_s` to `last_s` but for `slack_s` at each end; partial ones mislead."""
    return [
        window
        for window in calendar(kind, first_s, last_s)
        if window.start_s >= first_s - slack_s and window.end_s - 1 <= last_s + slack_s
    ]


def window_of(times_E: NDArray[np.int64], windows: list[Window]) -> NDArray[np.int32]:
    """Return the index of each time's window, -1 for none. Windows rise and do not overlap, but may leave gaps."""
    starts_W = np.array([window.start_s for window in windows])
    ends_W = np.array([window.end_s for window in windows])
    at_E = np.searchsorted(starts_W, times_E, side="right") - 1
    return np.where((at_E >= 0) & (times_E < ends_W[at_E]), at_E, -1).astype(np.int32)


def _epoch(month: int) -> int:
    """Return the first second of a month counted from year 0."""
    return int(datetime(month // 12, month % 12 + 1, 1, tzinfo=UTC).timestamp())


def _name(kind: str, month: int) -> str:
    """Return the window's name."""
    year, rest = divmod(month, 12)
    return {"month": f"{year}-{rest + 1:02d}", "quarter": f"{year}Q{rest // 3 + 1}", "year": f"{year}"}[kind]
