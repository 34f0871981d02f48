"""What happened: episodes that began together get one name, a kind, and what to do (`drift.report.rules`)."""

from __future__ import annotations

import re
from collections.abc import Sequence

from drift.cells.types import OWN_TEST, PREVIOUS, REFERENCE, VOLUME, CellContext, Row
from drift.report.contents import Change, Episode
from drift.report.details import details
from drift.report.episodes import WindowMeans, before_window
from drift.report.rules import MAIN, RULES, VOLUMES, Moves, Rule, kind_of, name_of
from drift.report.verdict import worst
from drift.report.words import span
from drift.signals.items import top_lost


def find_changes(
    context: CellContext, rows: Sequence[Row], episodes: Sequence[Episode], means: WindowMeans
) -> list[Change]:
    """Group episodes by where they began and name them, the largest first."""
    names = [context.name(window) for window in context.plan.future]
    jumps = [e for e in episodes if not _goes_back(e, context, rows, episodes)]
    levels = [e for e in episodes if e.comparison == REFERENCE and e.signal != "identical_users"]
    found: list[Change] = []
    taken: set[int] = set()
    for at, name in enumerate(names):
        sudden = [e for e in jumps if e.first == name and not _follows(e, found, names)]
        if not sudden:
            continue
        # A level that passes its threshold with the jump, or in the window after it, belongs to it.
        with_it = [e for e in levels if e.first in names[at : at + 2] and id(e) not in taken]
        moved = [*sudden, *(e for e in with_it if any(e.signal == other.signal for other in sudden))]
        taken |= {id(e) for e in moved}
        found += _named(context, rows, moved, at, names, means, sudden=True)
    left = [e for e in levels if id(e) not in taken and not _explained(e, found, names)]
    left = [e for e in left if not _follows(e, found, names)]
    for name in dict.fromkeys(e.first for e in left):
        at = names.index(name)
        found += _named(context, rows, [e for e in left if e.first == name], at, names, means, sudden=False)
    merged = _merge(found, names)
    return sorted(merged, key=lambda c: (c.kind != "pipeline", -c.ratio, c.first))


def _named(
    context: CellContext,
    rows: Sequence[Row],
    moved: list[Episode],
    at: int,
    names: list[str],
    means: WindowMeans,
    sudden: bool,
) -> list[Change]:
    """Apply the rules to what moved at one window until nothing is left."""
    window = context.plan.future[at]
    before = [before_window(context, window)] if sudden else context.plan.reference
    volume = {row.signal: row.shift for row in rows if row.detector == VOLUME and row.window == names[at]}
    gone = _vanished_items(context, before, window)
    left: dict[str, Episode] = {}
    for episode in sorted(moved, key=lambda e: -e.ratio):
        left.setdefault(episode.signal, episode)
    found = []
    while left:
        moves = Moves(left, means.users(before), means.users([window]), means, volume, *gone)
        rule = next(rule for rule in RULES if rule.fits(moves))
        mine = {name for name in left if rule.takes is None or kind_of(name) in rule.takes}
        belong = [episode for episode in moved if episode.signal in mine]
        found.append(_change(rule, moves, belong, names[at], names, context, before, window, sudden))
        left = {name: episode for name, episode in left.items() if name not in mine}
    return found


def _vanished_items(context: CellContext, before: Sequence[int], window: int) -> tuple[float, float]:
    """Return `top_lost` of a window and the largest of it between past windows in a row."""
    if context.counts is None:
        return 0.0, 0.0
    counts_WV, past = context.counts.counts_WV, context.plan.calibration
    usual = [top_lost(counts_WV, [w], w + 1) for w in past if w + 1 in past]
    return top_lost(counts_WV, before, window), max(usual, default=0.0)


def _change(
    rule: Rule,
    moves: Moves,
    belong: list[Episode],
    first: str,
    names: list[str],
    context: CellContext,
    before: Sequence[int],
    window: int,
    sudden: bool,
) -> Change:
    """Sum up the episodes that belong to one change: its name, dates, size and what makes it up."""
    largest = max(belong, key=lambda episode: episode.ratio)
    last = max((episode.last for episode in belong), key=names.index)
    told = next((e for e in belong if e.signal in MAIN.get(rule.name, ())), largest)
    name = name_of(rule, moves)
    goes_on = last == names[-1] or (last == first and sudden)
    when = f"since {span(first, first).split(' to ')[0]}" if goes_on else f"in {span(first, last)}"
    how = "" if sudden or first == last else ", bit by bit"
    verb = " changed" if rule.changes else ""
    return Change(
        name=name,
        kind=rule.kind,
        first=first,
        peak=largest.peak,
        last=last,
        ongoing=last == names[-1],
        sudden=sudden,
        severity=worst([episode.severity for episode in belong]),
        ratio=round(largest.ratio, 3),
        signals=list(dict.fromkeys(e.signal for e in sorted(belong, key=lambda e: -e.ratio))),
        sentence=f"{name[0].upper()}{name[1:]}{verb} {when}{how}: {told.words}.",
        action=rule.action,
        details=details(context, moves.means, rule.name, before, window),
    )


def _goes_back(
    episode: Episode, context: CellContext, rows: Sequence[Row], episodes: Sequence[Episode]
) -> bool:
    """Whether a jump is no news: a level of the reference, or a return to it after an earlier jump."""
    if episode.comparison == REFERENCE and episode.signal != "identical_users":
        return True
    if episode.signal == "identical_users":
        return False
    earlier = [e for e in episodes if e.signal == episode.signal and e.comparison == PREVIOUS]
    names = [context.name(window) for window in context.plan.future]
    earlier = [e for e in earlier if names.index(e.first) < names.index(episode.first)]
    if not earlier:
        return False
    if episode.signal in VOLUMES:
        shifts = {
            row.window: row.shift for row in rows if row.detector == VOLUME and row.signal == episode.signal
        }
        return shifts[episode.first] * shifts[earlier[-1].first] < 0
    ratios = {
        row.window: row.effect / max(row.threshold, 1e-12)
        for row in rows
        if (row.detector, row.comparison, row.signal) == (OWN_TEST, REFERENCE, episode.signal)
    }
    now = names.index(episode.first)
    return now > 0 and ratios[names[now]] < min(1.0, ratios[names[now - 1]])


def _follows(episode: Episode, changes: Sequence[Change], names: list[str]) -> bool:
    """Whether a signal moves as a fault of the pipeline that began earlier, and goes on, would have it move."""
    takes = {rule.name: rule.takes for rule in RULES}
    at = names.index(episode.first)
    return any(
        kind_of(episode.signal) in (takes.get(re.split(" by |: ", change.name)[0]) or set())
        for change in changes
        if change.kind == "pipeline"
        and names.index(change.first) < at
        and (change.ongoing or names.index(change.last) >= at - 2)
    )


def _explained(episode: Episode, changes: Sequence[Change], names: list[str]) -> bool:
    """Whether a level belongs to a change that named its signal up to a window before or after."""
    at = names.index(episode.first)
    return any(
        episode.signal in change.signals and abs(names.index(change.first) - at) <= 1 for change in changes
    )


def _merge(changes: list[Change], names: list[str]) -> list[Change]:
    """Put changes of one name into one that have at most a window between them: it came within a window, or paused."""
    kept: list[Change] = []
    for change in sorted(changes, key=lambda c: names.index(c.first)):
        same = [
            k for k in kept if k.name == change.name and names.index(change.first) - names.index(k.last) <= 2
        ]
        if not same:
            kept.append(change)
            continue
        other = same[-1]
        larger = max(other, change, key=lambda c: c.ratio)
        last = max(other.last, change.last, key=names.index)
        kept[kept.index(other)] = other.model_copy(
            update={
                "peak": larger.peak,
                "ratio": larger.ratio,
                "last": last,
                "ongoing": last == names[-1],
                "severity": worst([other.severity, change.severity]),
                "signals": list(dict.fromkeys([*other.signals, *change.signals])),
            }
        )
    return kept
