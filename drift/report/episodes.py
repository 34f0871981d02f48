"""Runs of alarmed windows: since when, until when, and where a change was largest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from drift.cells.types import IDENTICAL, OWN_TEST, PREVIOUS, REFERENCE, VOLUME, CellContext, Row
from drift.config import ALARMS
from drift.report.contents import Episode
from drift.report.verdict import worst
from drift.report.words import level, percent, say_change
from drift.stats.distances import Array, named_slices

VOLUME_WORDS = {
    "events": "events",
    "users": "users",
    "new_users": "new users",
    "events_per_user": "events per user",
}


class WindowMeans:
    """Mean histograms of any windows, computed once each."""

    def __init__(self, context: CellContext) -> None:
        self.context = context
        self.parts = named_slices(context.layout)
        self.signals = {signal.name: signal for signal in context.layout}
        self._means: dict[tuple[int, ...], Array] = {}
        self._sums: dict[tuple[int, ...], Array] = {}

    def users(self, windows: Sequence[int]) -> Array:
        """Return the mean histogram `[K]` in which each user counts once."""
        key = tuple(windows)
        if key not in self._means:
            layout = self.context.layout
            self._means[key] = self.context.histograms.blocks(list(windows), layout).mean(layout)
        return self._means[key]

    def events(self, windows: Sequence[int]) -> Array:
        """Return the summed counts `[K]`, in which each event counts once."""
        key = tuple(windows)
        if key not in self._sums:
            made = self.context.histograms
            inside = np.isin(made.window_R, windows)
            self._sums[key] = made.counts_RK[inside].sum(axis=0, dtype=np.float64)
        return self._sums[key]

    def event_share(self, signal: str, windows: Sequence[int]) -> float | None:
        """Return the share of events in the second bin of a signal."""
        part = self.events(windows)[self.parts[signal]]
        return float(part[1] / part.sum()) if part.sum() else None

    def words(self, signal: str, before: Sequence[int], after: Sequence[int]) -> str:
        """Say how a signal changed between two groups of windows."""
        part, about = self.parts[signal], self.signals[signal]
        shares = (
            (self.event_share(signal, before), self.event_share(signal, after))
            if about.share
            else (None, None)
        )
        events = None if shares[0] is None or shares[1] is None else (shares[0], shares[1])
        return say_change(about, self.users(before)[part], self.users(after)[part], events)


def find_episodes(context: CellContext, rows: Sequence[Row], means: WindowMeans) -> list[Episode]:
    """Return the episodes of all signals in comparisons that raise alarms, the largest first.

    A window that is significant but below its threshold (`noted`) does not end an episode that goes on after it.
    """
    names = [context.name(window) for window in context.plan.future]
    kinds = {(OWN_TEST, REFERENCE), (OWN_TEST, PREVIOUS), (VOLUME, PREVIOUS), (IDENTICAL, REFERENCE)}
    groups: dict[tuple[str, str, str], dict[str, Row]] = {}
    for row in rows:
        if (row.detector, row.comparison) in kinds:
            groups.setdefault((row.detector, row.comparison, row.signal), {})[row.window] = row
    found = []
    for (_, comparison, _), by_window in groups.items():
        for run in _runs(by_window, names, bridge=comparison == REFERENCE):
            found.append(_episode(context, [by_window[name] for name in run], names[-1], means))
    return sorted(found, key=lambda episode: (-episode.ratio, episode.first, episode.signal))


def _runs(by_window: dict[str, Row], names: list[str], bridge: bool) -> list[list[str]]:
    """Return runs of alarmed windows, in order of time."""
    runs: list[list[str]] = []
    gap = 2
    for name in names:
        row = by_window.get(name)
        if row is not None and row.severity in ALARMS:
            if gap > 1:
                runs.append([])
            runs[-1].append(name)
            gap = 0
        else:
            noted = bridge and row is not None and row.severity == "noted"
            gap += 1 if noted else 2
    return runs


def _episode(context: CellContext, rows: list[Row], last: str, means: WindowMeans) -> Episode:
    peak = max(rows, key=lambda row: row.effect / max(row.threshold, 1e-12))
    return Episode(
        signal=peak.signal,
        comparison=peak.comparison,
        first=rows[0].window,
        peak=peak.window,
        last=rows[-1].window,
        ongoing=rows[-1].window == last,
        severity=worst([row.severity for row in rows]),
        effect=round(peak.effect, 6),
        threshold=round(peak.threshold, 6),
        p_adj=peak.p_adj,
        words=_words(context, peak, means),
    )


def _words(context: CellContext, row: Row, means: WindowMeans) -> str:
    """Say what the row says in plain units."""
    if row.detector == VOLUME:
        return f"{np.exp(row.shift):.2f} times the {VOLUME_WORDS[row.signal]} of the window before"
    if row.detector == IDENTICAL:
        count = round(row.effect * row.n_users_cur)
        return f"{count:,} users ({percent(row.effect)}) did exactly what another user did"
    window = next(w for w in context.plan.future if context.name(w) == row.window)
    before = context.plan.reference if row.comparison == REFERENCE else [before_window(context, window)]
    return means.words(row.signal, before, [window])


def before_window(context: CellContext, window: int) -> int:
    """Return the window before one."""
    return max(other for other in context.plan.wanted if other < window)


def level_record(context: CellContext, means: WindowMeans, *, events: bool = False) -> dict[str, list[Any]]:
    """Return each signal's plain figure in the reference and in each window; with `events` each event counts once."""
    weigh = means.events if events else means.users
    sides = [context.plan.reference, *([window] for window in context.plan.future)]
    found: dict[str, list[Any]] = {}
    for name, signal in means.signals.items():
        values = [level(signal, weigh(side)[means.parts[name]]) for side in sides]
        found[name] = [None if value is None else round(value, 5) for value in values]
    return found
