"""The signals: fixed bins, the distance each is measured by, and the smallest change worth an alarm.

Bins are constants, never quantiles of data, so that no window can see another and histograms of any two runs add up.
Only `genre` depends on data: its labels are the genres of items seen by the cut, in alphabetic order.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

SESSION_BREAK_S = 1800
"""A longer gap starts a new session."""
YEAR_S = 31_557_600
DURATIONS = ((YEAR_S, "y"), (86_400, "d"), (3600, "h"), (60, "min"), (1, "s"))

LOG_GAP_EDGES_S = tuple(np.logspace(0, 9, 28))
"""Three bins a decade, 1 s to 30 years."""
POWERS = tuple(2.0**k for k in range(13))
"""1, 2, 4, ..., 4096: bins of counts."""
AGE_EDGES_Y = (1, 2, 3, 5, 8, 12, 18, 25, 35, 50)
FIRST_SEEN_EDGES_D = (1, 7, 30, 90, 182, 365, 730, 1461, 2922, 5844)
TENURE_EDGES_D = (1, 7, 30, 90, 182, 365, 730, 1461, 2922)
POPULARITY_BINS = 20
TOP_ITEMS = 100
"""Items whose turnover is watched."""


@dataclass(frozen=True)
class Signal:
    """One signal."""

    name: str
    labels: tuple[str, ...]
    """One a bin."""
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

    @property
    def size(self) -> int:
        """Number of bins."""
        return len(self.labels)


def signals(genres: tuple[str, ...]) -> tuple[Signal, ...]:
    """Return all signals for a catalogue with these genres."""
    ratings = tuple(f"{half / 2}" for half in range(1, 11))
    centred = tuple(f"{half / 2:+}" for half in range(-9, 10))
    popularity = ("none", *(f"{5 * k} %" for k in range(POPULARITY_BINS)))
    return (
        Signal("rating", ratings, "w1", 0.05, "stars given", 0.5, "stars"),
        Signal(
            "rating_centred", centred, "w1", 0.05, "stars less the user's mean in the window", 0.5, "stars"
        ),
        Signal("half_stars", ("whole", "half"), "ks", 0.05, "share of half-star ratings"),
        Signal(
            "log_gap",
            _bins("s", LOG_GAP_EDGES_S),
            "ks",
            0.05,
            "seconds since the user's last event, if not 0",
        ),
        Signal(
            "zero_gap",
            ("later", "same second"),
            "ks",
            0.05,
            "share of events in the second of the one before",
        ),
        Signal(
            "session_events",
            _bins("", POWERS[1:]),
            "ks",
            0.05,
            "events of a session (30 min without a break)",
        ),
        Signal("activity", _bins("", POWERS[1:]), "ks", 0.05, "events of a user in the window"),
        Signal("history", ("new", *_bins("", POWERS[1:])), "ks", 0.05, "events of a user before the window"),
        Signal("tenure", _bins(" d", TENURE_EDGES_D), "ks", 0.05, "days since the user's first event"),
        Signal(
            "item_age", ("unknown", *_bins(" y", AGE_EDGES_Y)), "ks", 0.05, "years since the film's release"
        ),
        Signal(
            "first_seen",
            _bins(" d", FIRST_SEEN_EDGES_D),
            "ks",
            0.05,
            "days since anyone's first rating of the item",
        ),
        Signal(
            "popularity",
            popularity,
            "ks",
            0.05,
            "percentile of the item's ratings in the year before the window",
        ),
        Signal(
            "lasting_top",
            ("other", "top"),
            "ks",
            0.05,
            f"share of events on the {TOP_ITEMS} items rated most in the year before the reference",
        ),
        Signal("genre", (*genres, "other"), "js", 0.05, "genres of the films"),
        Signal(
            "decade",
            ("unknown", "<1930", *(f"{d}s" for d in range(1930, 2030, 10))),
            "ks",
            0.05,
            "release decade",
        ),
        Signal(
            "unseen_item", ("known", "unseen"), "ks", 0.02, "share of events on items outside the vocabulary"
        ),
    )


def _bins(unit: str, edges: tuple[float, ...]) -> tuple[str, ...]:
    """Label the bins between edges, with an open one at each end."""
    marks = [_duration(edge) if unit == "s" else f"{edge:,.0f}{unit}" for edge in edges]
    return (f"<{marks[0]}", *(f"{mark}+" for mark in marks))


def _duration(seconds: float) -> str:
    """Return seconds in the unit that suits them."""
    size, unit = next(pair for pair in DURATIONS if seconds >= pair[0])
    return f"{seconds / size:.3g} {unit}"
