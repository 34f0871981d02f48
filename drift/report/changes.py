"""What happened: episodes that began together get one name, a kind, and what to do.

Rules are tried in order. The first that fits takes the signals that such a change moves; what is left is tried again.
Faults of the pipeline come first: taste does not log events twice, shift clocks, or mix up ids.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from drift.cells.types import OWN_TEST, PREVIOUS, REFERENCE, VOLUME, CellContext, Row
from drift.report.contents import Change, ChangeKind, Episode
from drift.report.details import details
from drift.report.episodes import WindowMeans, before_window
from drift.report.verdict import worst
from drift.report.words import clock_shift
from drift.signals.items import top_lost
from drift.stats.distances import Array

LOOK = "Check the logging and the way of the data. Do not retrain on these windows before it is repaired."
FOLLOW_FALL = 0.2
"""Relative fall of expected followers from which ids may be mixed up."""
TOP_LOST = 0.15
"""Share of the top items' events on items that all but vanished from which ids may be mixed up. Planted: .25 with half
of the items exchanged, .8 with each id one too high, at most .09 when all that follows what is new."""
USUAL_FACTOR = 2.0
"""How many times more than between any two past windows that must be."""
STARS_APART = 0.03
"""Share of stars that are then further from what the item usually gets: it keeps its quality, whoever follows it."""
LOST_EVENTS = 0.35
"""Share of events per user whose loss is called one."""
VANISHED = 0.25
"""A genre that keeps less than this of its share has vanished."""
PACE = {"log_gap", "zero_gap", "session_events"}
VOLUMES = {"events", "events_per_user", "users", "new_users"}
SEQUENCE = {*PACE, "activity", "history", "tenure", "expected_next"}
AGES = {"unseen_item", "first_seen", "item_age", "decade"}
ITEMS = {"lasting_top", "popularity", "genre", *AGES}
STARS = {"rating", "rating_centred", "half_stars", "surprise"}


@dataclass(frozen=True)
class Moves:
    """The signals that moved at one window, with what is needed to tell what happened."""

    episodes: dict[str, Episode]
    """The largest of each signal."""
    before_K: Array
    """Mean histogram before."""
    after_K: Array
    """Mean histogram from the window on."""
    means: WindowMeans
    volume: dict[str, float]
    """Log ratio of each volume to the window before."""
    top_lost: float = 0.0
    """`drift.signals.items.top_lost` of this window."""
    usual_lost: float = 0.0
    """The largest of it between two past windows in a row."""

    def __contains__(self, signal: str) -> bool:
        return signal in self.episodes

    def sides(self, signal: str) -> tuple[Array, Array]:
        """Return a signal's histogram before and after, each adding up to 1."""
        parts = (side[self.means.parts[signal]] for side in (self.before_K, self.after_K))
        before, after = (part / max(float(part.sum()), 1e-12) for part in parts)
        return before, after

    def share_change(self, signal: str) -> float:
        """Return the change of the second bin's share."""
        before, after = self.sides(signal)
        return float(after[1] - before[1])

    def rises(self, signal: str) -> bool:
        """Whether a share moved up."""
        return signal in self and self.share_change(signal) > 0

    def falls(self, signal: str) -> bool:
        """Whether a share moved down."""
        return signal in self and self.share_change(signal) < 0

    def vanished(self) -> list[str]:
        """Return the genres that are gone."""
        before, after = self.sides("genre")
        labels = self.means.signals["genre"].labels
        gone = (before > 0.03) & (after < VANISHED * before)
        return [label for label, is_gone in zip(labels[:-1], gone[:-1], strict=True) if is_gone]


@dataclass(frozen=True)
class Rule:
    """One thing that can happen."""

    name: str
    kind: ChangeKind
    fits: Callable[[Moves], bool]
    takes: set[str] | None
    """Signals that it explains; None: all."""
    action: str


def _genre_gone(moves: Moves) -> bool:
    if "genre" not in moves or moves.rises("no_genre"):
        return False
    gone = moves.vanished()
    return 0 < len(gone) <= max(1, moves.means.signals["genre"].size // 3)


def _ids_mixed_up(moves: Moves) -> bool:
    """Whether all that ties an item to its id broke at once: what follows it, how popular it is, the stars it gets.

    Another order of the same items breaks the first only, another taste the second.
    """
    before, after = moves.sides("expected_next")
    fell = moves.falls("expected_next") and after[1] < (1 - FOLLOW_FALL) * before[1]
    gone = moves.top_lost >= max(TOP_LOST, USUAL_FACTOR * moves.usual_lost)
    lost = moves.volume.get("events_per_user", 0.0) < np.log(1 - LOST_EVENTS)
    return fell and gone and not lost and _other_stars(moves)


def _other_stars(moves: Moves) -> bool:
    """Whether items get other stars than they used to; true where all stars are the same, which says nothing."""
    before, after = moves.sides("surprise")
    if not before.sum() or not after.sum() or min(before[0], after[0]) > 0.999:
        return True
    return float((np.cumsum(before) - np.cumsum(after)).max()) >= STARS_APART


def _other_order(moves: Moves) -> bool:
    """Whether what follows what changed more than what is popular, which moves with it."""
    ratios = {
        name: moves.episodes[name].ratio
        for name in ("expected_next", "lasting_top", "popularity")
        if name in moves
    }
    return "expected_next" in ratios and ratios["expected_next"] == max(ratios.values())


def _events_lost(moves: Moves) -> bool:
    return moves.volume.get("events_per_user", 0.0) < np.log(1 - LOST_EVENTS) and (
        "activity" in moves or "events_per_user" in moves or "events" in moves
    )


def _clock_moved(moves: Moves) -> bool:
    if "hour" not in moves:
        return False
    hours, left = clock_shift(*moves.sides("hour"))
    return hours != 0 and left < 0.5


def _labels_noisy(moves: Moves) -> bool:
    """Stars agree less with what others give, and each user's own stars scatter more."""
    if "surprise" not in moves:
        return False
    before, after = moves.sides("surprise")
    return float(np.cumsum(after)[2] - np.cumsum(before)[2]) < 0


RULES = (
    Rule("identical users", "pipeline", lambda m: "identical_users" in m, None,
         "Look at these users: a robot, or an import that made copies. Leave them out before training."),
    Rule("events logged twice", "pipeline", lambda m: m.rises("duplicate"),
         {"duplicate", *SEQUENCE, *VOLUMES, "full_minute"}, LOOK),
    Rule("times rounded to minutes", "pipeline", lambda m: m.rises("full_minute"),
         {"full_minute", *PACE, "expected_next", "duplicate"}, LOOK),
    Rule("clock moved", "pipeline", _clock_moved, {"hour", "weekday"}, LOOK),
    Rule("genre gone", "catalogue", _genre_gone, {*ITEMS, *SEQUENCE, *VOLUMES, *STARS},
         "See whether these items were taken from the catalogue, or lost on the way."),
    Rule("item ids mixed up", "pipeline", _ids_mixed_up,
         {"expected_next", "no_genre", "duplicate", *ITEMS, *STARS}, LOOK),
    Rule("events lost", "pipeline", _events_lost, {*SEQUENCE, *VOLUMES, "duplicate"}, LOOK),
    Rule("genre labels lost", "pipeline", lambda m: m.rises("no_genre"), {"no_genre", "genre"}, LOOK),
    Rule("label noise", "pipeline", _labels_noisy, STARS, LOOK),
    Rule("new users", "audience", lambda m: "new_users" in m or "users" in m, {*VOLUMES, *SEQUENCE},
         "Learn where they come from. Retrain if the model ranks worse for them."),
    Rule("stars", "taste", lambda m: "rating" in m, STARS,
         "Look for a change of the rating scale or of the page that asks. Ranking by clicks is not touched."),
    Rule("half stars", "taste", lambda m: "half_stars" in m or "rating_centred" in m, STARS,
         "Look for a change of the rating scale or of the page that asks."),
    Rule("what follows what", "behaviour", _other_order, {"expected_next", "lasting_top", "popularity"},
         "Retrain if the model ranks worse (see the model's part)."),
    Rule("what is popular", "taste", lambda m: "lasting_top" in m or "popularity" in m,
         {*ITEMS, "expected_next", *STARS}, "Retrain if the model ranks worse (see the model's part)."),
    Rule("genres", "taste", lambda m: "genre" in m, {"genre", "decade", "item_age"},
         "Retrain if the model ranks worse (see the model's part)."),
    Rule("pace", "behaviour", lambda m: bool(PACE & m.episodes.keys()), {*PACE, "activity", *VOLUMES},
         "Look for a change of the page or the app. SS4Rec reads gaps, so see whether it ranks worse."),
    Rule("hours", "behaviour", lambda m: "hour" in m or "weekday" in m, {"hour", "weekday"},
         "Look for another audience, or a clock that was set."),
    Rule("volume", "behaviour", lambda m: bool(VOLUMES & m.episodes.keys()), {*VOLUMES, "activity"},
         "Look for what brought more or fewer events: the season, a campaign, the logging."),
    Rule("catalogue", "catalogue", lambda m: bool(AGES & m.episodes.keys()), AGES,
         "Retrain when new items should be recommended."),
    Rule("audience", "audience", lambda m: True, None, "Learn who the users are now."),
)  # fmt: skip


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
        mine = {name for name in left if rule.takes is None or name in rule.takes}
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
    largest = max(belong, key=lambda episode: episode.ratio)
    last = max((episode.last for episode in belong), key=names.index)
    told = next((e for e in belong if e.signal in MAIN.get(rule.name, ())), largest)
    name = _name(rule, moves)
    when = f"since {first}" if last == names[-1] or (last == first and sudden) else f"{first} to {last}"
    how = "" if sudden else ", step by step"
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
        sentence=f"{name[0].upper()}{name[1:]} {when}{how}: {told.words}.",
        action=rule.action,
        details=details(context, moves.means, rule.name, before, window),
    )


MAIN = {
    "identical users": ("identical_users",),
    "events logged twice": ("duplicate",),
    "times rounded to minutes": ("full_minute",),
    "clock moved": ("hour",),
    "genre gone": ("genre",),
    "item ids mixed up": ("expected_next",),
    "events lost": ("events_per_user", "events", "activity"),
    "genre labels lost": ("no_genre",),
    "label noise": ("surprise",),
    "new users": ("new_users", "users"),
    "stars": ("rating",),
    "what is popular": ("lasting_top", "popularity"),
}
"""The signals whose words say best what happened."""


def _name(rule: Rule, moves: Moves) -> str:
    """Return the rule's name with what only the figures know."""
    if rule.name == "clock moved":
        return f"clock moved by {clock_shift(*moves.sides('hour'))[0]:+d} h"
    if rule.name == "genre gone":
        return f"genre gone: {', '.join(moves.vanished())}"
    return rule.name


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
        episode.signal in (takes.get(change.name.split(" by ")[0]) or set())
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
