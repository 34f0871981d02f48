"""Windows of time: hours, days, weeks, months, quarters or years, in UTC, anchored at the cut or at the calendar."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Kind = Literal["hour", "day", "week", "month", "quarter", "year"]
HOUR_S, DAY_S = 3600, 86_400
MONTHS = {"month": 1, "quarter": 3, "year": 12}
SECONDS = {"hour": HOUR_S, "day": DAY_S, "week": 7 * DAY_S}
LOOKBACK = {"hour": 24, "day": 7, "week": 13, "month": 12, "quarter": 4, "year": 1}
MONDAY_S = 4 * DAY_S
"""1970-01-05, the first Monday of unix time."""


@dataclass(frozen=True)
class Window:
    """Seconds `start_s` up to, not including, `end_s`."""

    name: str
    """`2015-04`, `2015Q2`, `2015`; the day or hour it begins for shorter ones; `2015-04 to 2016-03` or its first day
    where it does not begin with the calendar's."""
    start_s: int
    end_s: int


def lookback(kind: str) -> int:
    """Return how many windows before one say what was popular then: a year, and less for short windows."""
    return LOOKBACK[kind]


def calendar(kind: str, first_s: int, last_s: int, anchor_s: int | None = None) -> list[Window]:
    """Return the windows that hold `first_s` to `last_s`, those cut by the edges included.

    Args:
        kind: length of a window.
        first_s: first second of the data.
        last_s: last second of the data.
        anchor_s: a second at which a window begins; None: windows begin with the calendar's.
    """
    if kind in SECONDS:
        return _equal_windows(kind, first_s, last_s, anchor_s)
    origin = datetime.fromtimestamp(anchor_s or 0, UTC)
    months = MONTHS[kind]
    number = 0
    while _later(origin, number * months) > first_s:
        number -= 1
    while _later(origin, (number + 1) * months) <= first_s:
        number += 1
    windows = []
    while (start_s := _later(origin, number * months)) <= last_s:
        windows.append(_window(kind, start_s, _later(origin, (number + 1) * months)))
        number += 1
    return windows


def full_windows(windows: list[Window], first_s: int, last_s: int, slack_s: int = 0) -> list[int]:
    """Return the numbers of the windows within `first_s` to `last_s`, but for `slack_s` at each end; partial ones
    mislead.
    """
    return [
        number
        for number, window in enumerate(windows)
        if window.start_s >= first_s - slack_s and window.end_s - 1 <= last_s + slack_s
    ]


def window_of(times_E: NDArray[np.int64], windows: list[Window]) -> NDArray[np.int32]:
    """Return the index of each time's window, -1 for none. Windows rise and do not overlap, but may leave gaps."""
    starts_W = np.array([window.start_s for window in windows])
    ends_W = np.array([window.end_s for window in windows])
    at_E = np.searchsorted(starts_W, times_E, side="right") - 1
    return np.where((at_E >= 0) & (times_E < ends_W[at_E]), at_E, -1).astype(np.int32)


def whole_months(windows: list[Window]) -> bool:
    """Return whether each window begins with the first second of a month, so that counts by month add up to it."""
    starts = (datetime.fromtimestamp(window.start_s, UTC) for window in windows)
    return all((at.day, at.hour, at.minute, at.second) == (1, 0, 0, 0) for at in starts)


def _equal_windows(kind: str, first_s: int, last_s: int, anchor_s: int | None) -> list[Window]:
    size_s = SECONDS[kind]
    offset_s = (MONDAY_S if anchor_s is None and kind == "week" else anchor_s or 0) % size_s
    start_s = (first_s - offset_s) // size_s * size_s + offset_s
    return [_window(kind, at_s, at_s + size_s) for at_s in range(start_s, last_s + 1, size_s)]


def _later(origin: datetime, months: int) -> int:
    """Return the second `months` after `origin`, on the last day of a month that is too short."""
    year, month = divmod(origin.year * 12 + origin.month - 1 + months, 12)
    for day in range(origin.day, 27, -1):
        try:
            return int(origin.replace(year=year, month=month + 1, day=day).timestamp())
        except ValueError:
            continue
    return int(origin.replace(year=year, month=month + 1).timestamp())


def _window(kind: str, start_s: int, end_s: int) -> Window:
    return Window(_name(kind, start_s, end_s), start_s, end_s)


def _name(kind: str, start_s: int, end_s: int) -> str:
    start = datetime.fromtimestamp(start_s, UTC)
    if kind == "hour":
        return f"{start:%Y-%m-%dT%H}" if start.minute == 0 else f"{start:%Y-%m-%dT%H:%M}"
    if kind in SECONDS or (start.day, start.hour, start.minute, start.second) != (1, 0, 0, 0):
        return f"{start:%Y-%m-%d}"
    if (start.month - 1) % MONTHS[kind]:
        return f"{start:%Y-%m} to {datetime.fromtimestamp(end_s - 1, UTC):%Y-%m}"
    names = {"month": f"{start:%Y-%m}", "quarter": f"{start.year}Q{(start.month + 2) // 3}"}
    return names.get(kind, f"{start.year}")
