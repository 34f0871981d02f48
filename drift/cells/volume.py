"""How many events and users each window has, and how many users did the very same: what no histogram per user shows."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from drift.cells.types import IDENTICAL, PREVIOUS, REFERENCE, VOLUME, CellContext, Row
from drift.stats.distances import Array, named_slices

EVENTS, USERS, NEW_USERS, PER_USER = "events", "users", "new_users", "events_per_user"
MIN_CHANGE = math.log(1.25)
"""Smallest change of a volume that is worth an alarm: a quarter more, or a fifth less."""
MIN_SAME_EVENTS = 5
"""Events from which a user's window can be called a copy of another's."""
MIN_IDENTICAL = 0.005
"""Smallest share of copies that is worth an alarm."""


def volumes(context: CellContext, windows: Sequence[int]) -> dict[str, Array]:
    """Return events, users, new users and events per user of each of `windows`."""
    made = context.histograms
    new_R = made.counts_RK[:, named_slices(context.layout)["history"].start] > 0
    size = max(*windows, int(made.window_R.max(initial=0))) + 1
    events_W = np.bincount(made.window_R, made.events_R, size)[list(windows)]
    users_W = np.bincount(made.window_R, minlength=size)[list(windows)].astype(float)
    new_W = np.bincount(made.window_R, new_R, size)[list(windows)]
    return {EVENTS: events_W, USERS: users_W, NEW_USERS: new_W, PER_USER: events_W / np.maximum(users_W, 1)}


def volume_rows(context: CellContext) -> list[Row]:
    """Test the change of each volume since the window before against the changes of the past.

    The change is the log of the ratio. Past changes have their median and their spread (median absolute deviation; the
    first windows of a data set often grow like nothing after them), and the p is that of a t prediction interval.
    """
    plan = context.plan
    wanted = [window for window in plan.wanted if window - 1 in set(plan.wanted)]
    past = [n for n, window in enumerate(wanted) if window <= plan.reference[-1]]
    before, now = volumes(context, [window - 1 for window in wanted]), volumes(context, wanted)
    users_W = volumes(context, wanted)[USERS]
    rows = []
    for name in now:
        change_W = np.log(np.maximum(now[name], 0.5) / np.maximum(before[name], 0.5))
        # Counts of users scatter at least like counts of independent people.
        floor_W = np.sqrt(1 / np.maximum(now[USERS if name != NEW_USERS else NEW_USERS], 1) * 2)
        for n, window in enumerate(wanted):
            if window not in plan.future:
                continue
            found = Row(context.name(window), PREVIOUS, VOLUME, name, effect_name="log ratio")
            found.n_users_cur, found.n_events = int(users_W[n]), int(now[EVENTS][n])
            found.n_users_ref = int(before[USERS][n])
            if len(past) < 4:
                found.status = "too_few"
                rows.append(found)
                continue
            centre, p, threshold = _prediction(change_W[past], change_W[n], float(floor_W[n]))
            found.shift, found.effect = float(change_W[n]), float(abs(change_W[n] - centre))
            found.p = found.p_max = p
            found.p_floor, found.threshold = 0.0, threshold
            rows.append(found)
    return rows


def _prediction(past_N: Array, change: float, floor: float) -> tuple[float, float, float]:
    """Return the centre of past changes, the p of a new one, and the change that is worth an alarm."""
    centre = float(np.median(past_N))
    spread = max(float(stats.median_abs_deviation(past_N, scale="normal")), floor)
    t = abs(change - centre) / (spread * math.sqrt(1 + 1 / len(past_N)))
    usual = float(np.quantile(np.abs(past_N - centre), 0.75))
    return centre, float(2 * stats.t.sf(t, len(past_N) - 1)), max(MIN_CHANGE, usual)


def copies(context: CellContext, window: int) -> NDArray[np.bool_]:
    """Return which of a window's users did exactly what another one did, of those with enough events."""
    made = context.histograms
    inside = np.flatnonzero(made.window_R == window)
    content = made.contents()[inside]
    enough = made.events_R[inside] >= MIN_SAME_EVENTS
    _, at, counts = np.unique(content, return_inverse=True, return_counts=True)
    return np.asarray(enough & (counts[at] > 1) & (content != 0))


def identical_rows(context: CellContext) -> list[Row]:
    """Test whether more users than in the past did the very same; p is the binomial tail of the past's share."""
    plan = context.plan
    past = [copies(context, window) for window in plan.calibration]
    same, total = sum(int(part.sum()) for part in past), sum(map(len, past))
    usual = (same + 1) / (total + 1)
    rows = []
    for window in plan.future:
        part = copies(context, window)
        count = int(part.sum())
        found = Row(context.name(window), REFERENCE, IDENTICAL, "identical_users", effect_name="share")
        found.n_users_ref, found.n_users_cur, found.p_floor = total, len(part), 0.0
        found.effect = found.shift = count / max(len(part), 1)
        # Copies come in pairs at least, so they are counted as such.
        found.p = found.p_max = (
            float(stats.binom.sf(count // 2 - 1, max(len(part), 1), usual)) if count else 1.0
        )
        found.threshold = max(MIN_IDENTICAL, 2 * same / max(total, 1))
        rows.append(found)
    return rows
