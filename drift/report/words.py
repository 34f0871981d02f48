"""Figures in the words and units of a reader: "17.7 % of events are on unseen items; 4.2 % before"."""

from __future__ import annotations

import numpy as np

from drift.signals.definitions import Signal
from drift.stats.distances import Array


def level(signal: Signal, mean_B: Array) -> float | None:
    """Return a signal's plain figure: the second bin's share, the mean in its unit, or the middle bin's number.

    None for labels without an order, and where there is nothing.
    """
    total = float(mean_B.sum())
    if total <= 0 or signal.distance == "js":
        return None
    share_B = mean_B / total
    if signal.share:
        return float(share_B[1])
    if signal.unit:
        return float(share_B @ np.array([float(label) for label in signal.labels]))
    if signal.median:
        return float(np.searchsorted(np.cumsum(share_B), 0.5))
    return float(share_B.argmax())


def say_level(signal: Signal, value: float | None) -> str:
    """Return a plain figure with its unit."""
    if value is None:
        return "nothing"
    if signal.share:
        return percent(value)
    if signal.unit:
        return f"{value:.2f} {signal.unit}"
    return signal.labels[min(int(value), signal.size - 1)]


def span(first: str, last: str) -> str:
    """Return the time from one window's beginning to another's end; both may be names like `2015-04 to 2016-03`."""
    start, end = first.split(" to ")[0], last.split(" to ")[-1]
    return start if start == end else f"{start} to {end}"


def percent(value: float) -> str:
    """Return a share in percent, with as many digits as it bears."""
    shown = 100 * value
    form = ".0f" if abs(shown) >= 20 or shown == 0 else ".1f" if abs(shown) >= 0.1 else ".2g"
    return f"{shown:{form}} %"


def say_change(
    signal: Signal, before_B: Array, after_B: Array, events: tuple[float, float] | None = None
) -> str:
    """Say what changed, how much, and what it was before.

    Args:
        signal: what.
        before_B: mean histogram per user before.
        after_B: mean histogram per user after.
        events: of a share: its value over events instead of users, before and after.
    """
    before, after = level(signal, before_B), level(signal, after_B)
    if signal.share and before is not None and after is not None:
        words = f"{percent(after)} {signal.share}; {percent(before)} before"
        if events is not None:
            words += f" (counting events instead of users: {percent(events[1])}; {percent(events[0])} before)"
        return words
    if signal.distance == "js":
        return f"{signal.about}: {', '.join(largest_changes(signal, before_B, after_B, 3))}"
    if signal.unit:
        return f"{signal.about}: {say_level(signal, after)} on average; {say_level(signal, before)} before"
    if signal.median and before != after:
        return f"{signal.about}: median {say_level(signal, after)}; {say_level(signal, before)} before"
    return f"{signal.about}: {', '.join(largest_changes(signal, before_B, after_B, 2))}"


def largest_changes(signal: Signal, before_B: Array, after_B: Array, count: int) -> list[str]:
    """Return the bins whose share changed most, each with its share after and before."""
    before_B, after_B = (part / max(float(part.sum()), 1e-12) for part in (before_B, after_B))
    apart_B = np.abs(after_B - before_B)
    order = [
        b for b in np.argsort(-apart_B, kind="stable")[:count] if apart_B[b] >= 5e-4 or not apart_B.any()
    ]
    return [f"{signal.labels[b]} {percent(after_B[b])} ({percent(before_B[b])} before)" for b in order]


def clock_shift(before_B: Array, after_B: Array) -> tuple[int, float]:
    """Return the turn of the clock that explains a change of hours best, and what is left of the change (0 to 1).

    Hours from -11 to 12; 0 where no turn is better than none.
    """
    before_B, after_B = (part / max(float(part.sum()), 1e-12) for part in (before_B, after_B))
    left_H = [float(np.abs(np.roll(before_B, hours) - after_B).sum()) for hours in range(24)]
    best = int(np.argmin(left_H))
    return (best if best <= 12 else best - 24), left_H[best] / max(left_H[0], 1e-12)
