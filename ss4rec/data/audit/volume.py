"""Holes and jumps in the number of events by period."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import numpy as np
import numpy.typing as npt

from ss4rec.data.audit.facts import Hole, IntArray, Jump, NextDay, Volume
from ss4rec.data.audit.scan import DayCounts
from ss4rec.io.moments import DAY_S

PERIODS_DAYS = (1, 7, 28)
"""Lengths that are tried, short ones first."""
USUAL_EVENTS = 50
"""Events that a period has in the middle, or periods are too short to count."""
MAX_PERIODS = 400
CORE_SHARE = 0.99
"""Share of the events between the ends of the core."""
AROUND = 7
"""Periods on either side that a period is compared with."""
HOLE_SHARE = 0.1
"""A period with less than this share of what is usual nearby is a hole."""
JUMP_FACTOR = 3.0
"""Times what was before, or a third of it, is a jump."""


def day_text(day: int) -> str:
    """Return a day since 1970 as a date."""
    return f"{datetime.fromtimestamp(day * DAY_S, UTC):%Y-%m-%d}"


def volume(events_D: IntArray, first_day: int) -> Volume:
    """Cut days into periods and look for holes and jumps.

    Args:
        events_D: events of each day.
        first_day: the first of these days, since 1970.
    """
    days = _period(events_D)
    events_P = np.add.reduceat(events_D, np.arange(0, len(events_D), days))
    low, high = _core(events_P)
    starts = tuple(day_text(first_day + days * place) for place in range(len(events_P)))
    core_P = events_P[low:high]
    if len(events_D) % days and high == len(events_P) > low + 1:
        core_P = core_P[:-1]  # a part of a period is no hole
    names = starts[low : low + len(core_P)]
    usual_P = np.array([_middle(core_P, place) for place in range(len(core_P))])
    is_hole_P = _is_hole(core_P, usual_P, closed_weekly=days == 1)
    others = [name for name, hole in zip(names, is_hole_P, strict=True) if not hole]
    return Volume(
        days=days,
        starts=starts,
        events=tuple(events_P.tolist()),
        core=(low, high),
        thin_share=1.0 - (high - low) / len(events_P),
        holes=tuple(_stretches(usual_P, is_hole_P, names)),
        jumps=tuple(_jumps(core_P[~is_hole_P], others)),
    )


def _period(events_D: IntArray) -> int:
    """Return the shortest period that usually has enough events, in days."""
    for days in PERIODS_DAYS:
        events_P = np.add.reduceat(events_D, np.arange(0, len(events_D), days))
        filled_P = events_P[events_P > 0]
        if len(events_P) <= MAX_PERIODS and np.average(filled_P, weights=filled_P) >= USUAL_EVENTS:
            return days
    return PERIODS_DAYS[-1]


def _core(events_P: IntArray) -> tuple[int, int]:
    """Return the stretch of periods that has all events but 0.5 % at either end."""
    cumulative_P = np.cumsum(events_P)
    cut = (1.0 - CORE_SHARE) / 2 * cumulative_P[-1]
    low = int(np.searchsorted(cumulative_P, cut, side="right"))
    return low, int(np.searchsorted(cumulative_P, cumulative_P[-1] - cut)) + 1


def _is_hole(
    events_P: IntArray, usual_P: npt.NDArray[np.float64], *, closed_weekly: bool
) -> npt.NDArray[np.bool_]:
    """Return which periods have next to nothing although there usually is much.

    Args:
        events_P: events of each period.
        usual_P: what is usual nearby.
        closed_weekly: periods are days, and a weekday on which never much happens is no hole.
    """
    is_hole_P: npt.NDArray[np.bool_] = (usual_P >= USUAL_EVENTS) & (events_P < HOLE_SHARE * usual_P)
    if closed_weekly:
        for weekday in range(7):
            if np.median(is_hole_P[weekday::7]) if len(is_hole_P) > weekday else False:
                is_hole_P[weekday::7] = False
    return is_hole_P


def _stretches(
    usual_P: npt.NDArray[np.float64], is_hole_P: npt.NDArray[np.bool_], names: Sequence[str]
) -> list[Hole]:
    """Put periods with next to nothing that follow one another together."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], is_hole_P, [False]]).astype(np.int8)))
    return [
        Hole(names[start], names[stop - 1], int(usual_P[start:stop].max()))
        for start, stop in zip(edges[::2], edges[1::2], strict=True)
    ]


def _middle(events_P: IntArray, place: int) -> float:
    """Return the median of the filled periods near one, without it."""
    near = np.concatenate(
        [events_P[max(0, place - AROUND) : place], events_P[place + 1 : place + 1 + AROUND]]
    )
    return float(np.median(near[near > 0])) if (near > 0).any() else 0.0


def _jumps(events_P: IntArray, names: Sequence[str]) -> list[Jump]:
    """Return where the median of the periods after is far from that before, one in a neighbourhood; no holes here."""
    places = np.arange(AROUND, len(events_P) - AROUND + 1)
    if not len(places):
        return []
    windows = np.lib.stride_tricks.sliding_window_view(events_P, AROUND)
    medians = np.maximum(np.median(windows, 1), 1.0)
    logs = np.log(medians[AROUND:] / medians[: len(medians) - AROUND])
    large = np.maximum(medians[AROUND:], medians[: len(medians) - AROUND]) >= USUAL_EVENTS
    strength: npt.NDArray[np.float64] = np.where(large, np.abs(logs), 0.0)
    found: list[Jump] = []
    while (best := int(strength.argmax())) is not None and strength[best] >= np.log(JUMP_FACTOR):
        found.append(Jump(names[places[best]], float(np.exp(logs[best]))))
        strength[max(0, best - AROUND) : best + AROUND + 1] = 0.0
    return sorted(found, key=lambda jump: jump.day)


def next_day(events_D: IntArray, counts: DayCounts, first_day: int) -> NextDay:
    """Return what a model that is trained each night would not know the next day."""
    later_D = np.cumsum(events_D) > events_D.sum() / 2
    later_D[0] = False
    events, known = int(events_D[later_D].sum()), int((events_D - counts.new_D)[later_D].sum())
    cold_known = (counts.cold_D - counts.both_D)[later_D].sum()
    return NextDay(
        events=events,
        cold_items=float(counts.cold_D[later_D].sum() / max(1, events)),
        cold_items_of_known=float(cold_known / max(1, known)),
        new_users=float(counts.new_D[later_D].sum() / max(1, events)),
        by_day=tuple(
            (day_text(first_day + int(day)), int(events_D[day]), float(counts.cold_D[day] / events_D[day]))
            for day in np.flatnonzero(events_D)
        ),
    )
