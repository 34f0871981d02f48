"""The signals: fixed bins, the distance each is measured by, and the smallest change worth an alarm.

Bins are constants, never quantiles of data, so that no window can see another and histograms of any two runs add up.
Only `genre` depends on data: its labels are the genres of items seen by the cut, in alphabetic order.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ss4rec.data.prepared.tables import FEATURE_PREFIX

SESSION_BREAK_S = 1800
"""A longer gap starts a new session."""
YEAR_S = 31_557_600
DURATIONS = ((YEAR_S, "y"), (86_400, "d"), (3600, "h"), (60, "min"), (1, "s"))

LOG_GAP_EDGES_S = tuple(np.logspace(0, 9, 28))
"""Three bins a decade, 1 s to 30 years."""
POWERS = tuple(2.0**k for k in range(13))
"""1, 2, 4, ..., 4096: bins of counts."""
EPOCH_YEAR = 1970
AGE_EDGES_Y = (1, 2, 3, 5, 8, 12, 18, 25, 35, 50)
FIRST_SEEN_EDGES_D = (1, 7, 30, 90, 182, 365, 730, 1461, 2922, 5844)
TENURE_EDGES_D = (1, 7, 30, 90, 182, 365, 730, 1461, 2922)
POPULARITY_BINS = 20
TOP_ITEMS = 100
"""Items whose turnover is watched."""
SURPRISE_EDGES = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0)
REPEAT_S = 60
"""The same item again within this time is a duplicate."""
FEATURE = FEATURE_PREFIX
"""What the names of signals of columns about items begin with; those about events begin with `CONTEXT`."""
WEEKDAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")


@dataclass(frozen=True)
class Signal:
    """One signal of the histograms."""

    name: str
    labels: tuple[str, ...]
    """One for each bin."""
    distance: str
    """`w1`, `ks` or `js` (`drift.stats.distances`)."""
    minimum: float
    """Smallest effect that is worth an alarm, in the distance's unit."""
    about: str
    """What it measures, for the report."""
    width: float = 1.0
    """Width of a bin in the signal's unit."""
    unit: str = ""
    """Unit of `w1` and of the shift."""
    share: str = ""
    """Of a signal with two bins: what the second bin's share is a share of, as a reader would say it."""
    median: bool = False
    """Whether the middle bin says more than a mean: bins in order, of unequal width."""

    @property
    def size(self) -> int:
        """Number of bins."""
        return len(self.labels)


def signals(genres: tuple[str, ...], features: tuple[Signal, ...] = ()) -> tuple[Signal, ...]:
    """Return all signals for items with these genres, and with columns of features."""
    ratings = tuple(f"{half / 2}" for half in range(1, 11))
    centred = tuple(f"{half / 2:+}" for half in range(-9, 10))
    popularity = ("none", *(f"{5 * k} %" for k in range(POPULARITY_BINS)))
    decades = ("unknown", "<1930", *(f"{d}s" for d in range(1930, 2030, 10)))
    powers = _bins("", POWERS[1:])
    return (
        Signal("rating", ratings, "w1", 0.05, "stars given", 0.5, "stars"),
        Signal("rating_centred", centred, "w1", 0.05, "stars less the user's mean in the window", 0.5, "stars"),
        _share("half_stars", ("whole", "half"), 0.05, "of ratings are half stars"),
        _ordered("log_gap", _bins("s", LOG_GAP_EDGES_S), "time since the user's last event, if not 0"),
        _share("zero_gap", ("later", "same second"), 0.05, "of events come in the same second as the one before"),
        _ordered("session_events", powers, "events of a session (30 minutes without a break)"),
        _ordered("activity", powers, "events of a user in the window"),
        _ordered("history", ("new", *powers), "events of a user before the window"),
        _ordered("tenure", _bins(" d", TENURE_EDGES_D), "time since the user's first event"),
        _ordered("item_age", ("unknown", *_bins(" y", AGE_EDGES_Y)), "years since the item's release"),
        _ordered("first_seen", _bins(" d", FIRST_SEEN_EDGES_D), "time since anyone's first event on the item"),
        _ordered("popularity", popularity, "percentile of the item's popularity before the window"),
        _share(
            "lasting_top", ("other", "top"), 0.05,
            f"of events are on the {TOP_ITEMS} items that were most popular before the reference",
        ),
        Signal("genre", (*genres, "other"), "js", 0.05, "genres of the items"),
        _ordered("decade", decades, "decade of the item's release"),
        _share("unseen_item", ("known", "unseen"), 0.02, "of events are on items outside the model's catalogue"),
        _ordered("hour", tuple(f"{hour:02d} h" for hour in range(24)), "hour of the day, UTC", median=False),
        _ordered("weekday", WEEKDAYS, "day of the week, UTC", median=False),
        _share("full_minute", ("other", "full minute"), 0.05, "of times are full minutes"),
        _share("duplicate", ("once", "again"), 0.01, f"of events repeat the user's item within {REPEAT_S} seconds"),
        _share(
            "expected_next", ("other", "expected"), 0.05,
            "of events are on one of the ten items that most often followed the item before it",
        ),
        _ordered("surprise", _bins("", SURPRISE_EDGES, ".2f"), "how far stars are from what others gave the item"),
        _share("no_genre", ("listed", "none"), 0.02, "of events are on items without a genre"),
        *features,
    )  # fmt: skip


def column_signal(prefix: str, name: str, labels: tuple[str, ...], ordered: bool) -> Signal:
    """Return the signal of a column that people brought; the first bin is `unknown`."""
    about = f"{name} of the {'items' if prefix == FEATURE else 'events'}"
    return (
        _ordered(prefix + name, labels, about)
        if ordered
        else Signal(prefix + name, labels, "js", 0.05, about)
    )


def decade_bin(years_X: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the bin of `decade` of each release year; 0 is unknown."""
    return np.where(years_X == 0, 0, np.clip((years_X - 1930) // 10 + 2, 1, 11))


def _share(name: str, labels: tuple[str, str], minimum: float, share: str) -> Signal:
    """Return a signal of two bins; `share` goes on after "17 % ", as in "of events are on items without a genre"."""
    what, verb = re.split(r" (?=are |come |repeat )", share, maxsplit=1)
    about = f"share {what} that {verb}" if not verb.startswith("are on ") else f"share {what} {verb[4:]}"
    return Signal(name, labels, "ks", minimum, about, share=share)


def _ordered(name: str, labels: tuple[str, ...], about: str, median: bool = True) -> Signal:
    """Return a signal whose bins have an order."""
    return Signal(name, labels, "ks", 0.05, about, median=median)


def _bins(unit: str, edges: tuple[float, ...], form: str = ",.0f") -> tuple[str, ...]:
    """Label the bins between edges, with an open one at each end."""
    marks = [_duration(edge) if unit == "s" else f"{edge:{form}}{unit}" for edge in edges]
    return (f"<{marks[0]}", *(f"{mark}+" for mark in marks))


def _duration(seconds: float) -> str:
    """Return seconds in the unit that suits them."""
    size, unit = next(pair for pair in DURATIONS if seconds >= pair[0])
    return f"{seconds / size:.3g} {unit}"
