"""What generated ratings look like: sizes, lengths, gaps, years; as chosen for tests, or as measured on MovieLens."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Literal, get_args

from ss4rec.errors import UsageError

Signal = Literal["popularity", "transitions", "pace", "rating"]
YEAR_S = 31_557_600
HOUR_S, DAY_S = 3600, 86_400


@dataclass(frozen=True)
class Drift:
    """A planted change of the law."""

    signal: Signal
    """`popularity`: a share `size` of it moves to other items (it rules the events that follow no successor, 15 %, and
    so shows less in all events); `transitions`: an event has other successors with
    probability `size`; `pace`: the seconds between events are multiplied by `size`; `rating`: `size`
    stars more (or less) are given."""
    from_s: int
    """First second at which it holds, unix time."""
    size: float
    """How much; see `signal`."""


@dataclass(frozen=True)
class SynthSettings:
    """Marginals of the users and their times."""

    length_sigma: float
    """Log-normal spread of the ratings beyond the least."""
    gap_kinds: tuple[tuple[float, int, int], ...]
    """Share, shortest and longest gap in seconds (log-uniform between; 0 to 0 is the same second)."""
    zipf_exponent: float
    zipf_shift: float
    fashion: float
    """How many times its everyday popularity an item has at the height of its fashion."""
    first_time_s: int
    """Earliest first rating."""
    span_s: int
    """First ratings come within this span."""
    years: tuple[int, ...] = (1,)
    """How many users begin in each of equal parts of the span, in any unit."""
    returning: float = 1.0
    """Share of users who ever come back after `away_s`; the others have shorter gaps only."""
    away_s: int = HOUR_S
    end_s: int | None = None
    """No rating is later: gaps that end a visit shrink so that all ratings of a user fit."""
    pace_events: int | None = 100
    """Users with more ratings come back sooner: their breaks are shorter by pace_events / length."""
    wander: float = 0.0
    """Stationary deviation, in stars, by which the mean rating wanders from quarter to quarter without any cause."""


SMALL = SynthSettings(
    length_sigma=1.0,
    gap_kinds=(
        (0.50, 0, 0),
        (0.15, 2, 120),
        (0.15, 600, 3 * HOUR_S),
        (0.15, DAY_S, 5 * DAY_S),
        (0.05, 7 * DAY_S, 42 * DAY_S),
    ),
    zipf_exponent=0.8,
    zipf_shift=10.0,
    fashion=30.0,
    first_time_s=1_420_070_400,
    span_s=6 * 365 * DAY_S,
)
"""Dense and lively, so that small data sets teach something: first ratings from 2015 over six years."""

DEMO = replace(
    SMALL,
    gap_kinds=((0.30, 0, 0), (0.20, 2, 120), (0.40, DAY_S, 5 * DAY_S), (0.10, 7 * DAY_S, 42 * DAY_S)),
)
"""As SMALL, but every other event comes after a break, so that half of what follows depends on the time."""

ML_32M = SynthSettings(
    length_sigma=1.35,
    gap_kinds=(
        (0.1439, 0, 0),
        (0.0228, 1, 1),
        (0.1571, 2, 4),
        (0.1630, 5, 9),
        (0.2471, 10, 29),
        (0.1039, 30, 59),
        (0.0553, 60, 119),
        (0.0426, 120, 599),
        (0.0086, 600, HOUR_S - 1),
        (0.0059, HOUR_S, 6 * HOUR_S),
        (0.0071, 6 * HOUR_S, DAY_S),
        (0.0194, DAY_S, 7 * DAY_S),
        (0.0151, 7 * DAY_S, 30 * DAY_S),
        (0.0074, 30 * DAY_S, 365 * DAY_S),
        (0.0009, 365 * DAY_S, 3 * 365 * DAY_S),
    ),
    zipf_exponent=1.45,
    zipf_shift=250.0,
    fashion=6.0,
    first_time_s=26 * YEAR_S,
    span_s=1_697_155_200 - 26 * YEAR_S,
    years=(
        *(66, 25, 8, 26, 36, 26, 17, 11, 18, 33, 22, 20, 16, 17),
        *(23, 14, 12, 11, 13, 37, 39, 25, 22, 27, 28, 8, 15, 10),
    ),
    returning=0.46,
    end_s=1_697_155_200,
    pace_events=None,
)
"""As measured on ml-32m-slice (625 users of ML-32M): gaps by kind, first ratings by year 1996 to 2023, share of users
who come back after an hour. Lengths: least 20, median 77, mean 160. Popularity: the top 1 % of the films that 100,000
ratings reach have 16.5 % of them, the top 10 % have 61 %."""


@dataclass(frozen=True)
class Likeness:
    """A named size and settings."""

    users: int
    items: int
    mean_len: int
    settings: SynthSettings


LIKE = {
    "small": Likeness(2000, 500, 60, SMALL),
    "demo": Likeness(1_500, 200, 40, DEMO),
    "ml-32m": Likeness(200_948, 84_432, 160, ML_32M),
}
"""What `--like` knows."""


def parse_drift(text: str) -> Drift:
    """Parse `SIGNAL=SIZE@DATE`, as in `popularity=0.3@2015-04-01` (UTC).

    Raises:
        UsageError: if a part is missing or out of range.
    """
    found = re.fullmatch(r"(\w+)=(-?[\d.]+)@(\d{4}-\d\d-\d\d)", text)
    if found is None or found[1] not in get_args(Signal):
        raise UsageError(
            f"--drift {text!r} is not SIGNAL=SIZE@DATE with a signal of {', '.join(get_args(Signal))}; "
            "write e.g. popularity=0.3@2015-04-01"
        )
    signal, size = found[1], float(found[2])
    most = {"pace": float("inf"), "rating": 4.5}.get(signal, 1.0)
    if not 0 < (abs(size) if signal == "rating" else size) <= most:
        raise UsageError(
            f"--drift {text!r}: size {size:g} is out of range; give a share from 0 to 1, a factor, or stars up to 4.5"
        )
    try:
        moment = datetime.fromisoformat(found[3]).replace(tzinfo=UTC)
    except ValueError:
        raise UsageError(f"--drift {text!r}: {found[3]} is no date") from None
    return Drift(signal, int(moment.timestamp()), size)  # type: ignore[arg-type]  # is one of the signals
