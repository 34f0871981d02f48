"""What can have happened: rules in the order in which they are tried, and the figures that they look at.

The first rule that fits takes the signals that such a change moves; what is left is tried again. Faults of the pipeline
come first: taste does not log events twice, shift clocks, or mix up ids.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from drift.report.contents import ChangeKind, Episode
from drift.report.episodes import WindowMeans
from drift.report.words import clock_shift
from drift.signals.definitions import FEATURE
from drift.stats.distances import Array
from ss4rec.data.sources.rows import CONTEXT

LOOK = "Check the logging and the way of the data. Do not retrain on these windows before it is repaired."
IF_WORSE = "Retrain if the model ranks worse."
"""What to do then is known once the model was looked at (`drift.report.summary.action_on`)."""
FOLLOW_FALL = 0.2
"""Relative fall of expected followers from which ids may be mixed up."""
TOP_LOST = 0.15
"""Share of the top items' events on items that all but vanished from which ids may be mixed up. Planted: .25 with half
of the items exchanged, .8 with each id one too high, at most .09 when all that follows what is new."""
USUAL_FACTOR = 2.0
"""How many times more than between any two past windows that must be."""
STARS_APART = 0.03
"""Share of stars that are then further from what the item usually gets: it keeps its quality, whoever follows it."""
LOST_VALUES = 0.05
"""Share of events more on items whose value is unknown, from which values are lost."""
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

    def features(self) -> list[str]:
        """Return the columns of features that moved."""
        return [name for name in self.episodes if kind_of(name) in (FEATURE, CONTEXT)]

    def has(self, prefix: str) -> bool:
        """Whether a column with this prefix moved."""
        return any(name.startswith(prefix) for name in self.episodes)

    def lost_features(self) -> list[str]:
        """Return those of which many values are unknown that were known before."""
        sides = {name: self.sides(name) for name in self.features()}
        return [
            name
            for name, (before, after) in sides.items()
            if after[0] > max(2 * before[0], before[0] + LOST_VALUES)
        ]

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

    @property
    def changes(self) -> bool:
        """Whether the name says what changed, and not what happened."""
        return self.kind != "pipeline" and self.name != "genre gone"


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
    Rule("values lost", "pipeline", lambda m: bool(m.lost_features()), {FEATURE, CONTEXT, "no_genre"}, LOOK),
    Rule("features of items", "taste", lambda m: m.has(FEATURE), {FEATURE},
         IF_WORSE),
    Rule("context of events", "behaviour", lambda m: m.has(CONTEXT), {CONTEXT},
         "Look for a change of the page, the app or the logging that explains it."),
    Rule("what follows what", "behaviour", _other_order, {"expected_next", "lasting_top", "popularity"},
         IF_WORSE),
    Rule("what is popular", "taste", lambda m: "lasting_top" in m or "popularity" in m,
         {*ITEMS, "expected_next", *STARS}, IF_WORSE),
    Rule("genres", "taste", lambda m: "genre" in m, {"genre", "decade", "item_age"},
         IF_WORSE),
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


def kind_of(signal: str) -> str:
    """Return the signal's name, and `feature.` or `context.` for all columns about items or events."""
    return next((prefix for prefix in (FEATURE, CONTEXT) if signal.startswith(prefix)), signal)


def name_of(rule: Rule, moves: Moves) -> str:
    """Return the rule's name with what only the figures know."""
    prefixes = {"values lost": None, "features of items": FEATURE, "context of events": CONTEXT}
    if rule.name in prefixes:
        wanted = prefixes[rule.name]
        columns = (
            moves.lost_features() if wanted is None else [n for n in moves.features() if kind_of(n) == wanted]
        )
        return f"{rule.name}: {', '.join(name.removeprefix(kind_of(name)) for name in columns)}"
    if rule.name == "clock moved":
        return f"clock moved by {clock_shift(*moves.sides('hour'))[0]:+d} h"
    if rule.name == "genre gone":
        return f"genre gone: {', '.join(moves.vanished())}"
    return rule.name
