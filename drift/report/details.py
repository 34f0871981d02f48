"""Which genres, films, users and hours make up a change."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from drift.cells.types import CellContext
from drift.cells.volume import copies
from drift.report.episodes import WindowMeans
from drift.report.words import largest_changes, percent

SHOWN = 5
BY_LABEL = {
    "clock moved": ("hour",),
    "hours": ("hour", "weekday"),
    "genre gone": ("genre",),
    "genres": ("genre",),
    "genre labels lost": ("genre",),
    "what is popular": ("genre",),
    "stars": ("rating",),
    "half stars": ("rating",),
    "label noise": ("rating",),
    "times rounded to minutes": ("log_gap",),
    "events lost": ("activity",),
    "pace": ("log_gap", "session_events"),
    "new users": ("history",),
    "audience": ("history", "tenure", "activity"),
    "catalogue": ("first_seen", "item_age"),
}
"""Signals whose bins say more, by name of the change."""
BY_ITEM = {"what is popular", "item ids mixed up", "catalogue", "genre gone"}


def details(
    context: CellContext, means: WindowMeans, name: str, before: Sequence[int], window: int
) -> list[str]:
    """Return lines for the reader of the report.

    Args:
        context: the report's.
        means: mean histograms.
        name: of the rule that named the change.
        before: windows before it.
        window: first window of it.
    """
    lines = []
    for signal in BY_LABEL.get(name, ()):
        part, about = means.parts[signal], means.signals[signal]
        was_B, is_B = means.users(before)[part], means.users([window])[part]
        lines.append(f"{about.about}: {'; '.join(largest_changes(about, was_B, is_B, SHOWN))}")
    if name in BY_ITEM and context.counts is not None and context.facts is not None:
        lines += _items(context, before, window)
    if name == "identical users":
        made = context.histograms
        users = made.user_R[made.window_R == window][copies(context, window)]
        events = made.events_R[made.window_R == window][copies(context, window)]
        shown = ", ".join(str(user) for user in users[:10].tolist())
        more = f" and {len(users) - 10:,} more" if len(users) > 10 else ""
        lines.append(f"users {shown}{more}; {int(events.sum()):,} events in all")
    return lines


def _items(context: CellContext, before: Sequence[int], window: int) -> list[str]:
    """Return the items whose share of events rose and fell most, and the unseen ones with most events."""
    assert context.counts is not None
    assert context.facts is not None
    counts_WV, facts = context.counts.counts_WV, context.facts
    sides = (counts_WV[list(before)].sum(axis=0), counts_WV[window])
    was_V, is_V = (side / max(side.sum(), 1) for side in sides)
    change_V = is_V - was_V
    lines = []
    for words, order in (("up", np.argsort(-change_V)), ("down", np.argsort(change_V))):
        shown = [v for v in order[:SHOWN].tolist() if v and change_V[v]]
        named = (f"{facts.title(v)} {percent(is_V[v])} ({percent(was_V[v])} before)" for v in shown)
        lines.append(f"{words}: {'; '.join(named)}")
    new = np.arange(facts.vocabulary + 1, len(is_V))
    top = new[np.argsort(-is_V[new], kind="stable")[:SHOWN]]
    unseen = [f"{facts.title(v)} {percent(is_V[v])}" for v in top.tolist() if is_V[v]]
    return [*lines, *([f"outside the model's catalogue: {'; '.join(unseen)}"] if unseen else [])]
