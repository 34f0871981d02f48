"""What to do: one answer for headline, table of answers and table of changes, the newest window first."""

from __future__ import annotations

import re
from collections.abc import Sequence

from drift.config import ALARMS
from drift.report.contents import Action, Change, Verdict, Verdicts
from drift.report.rules import IF_WORSE

ACTIONS: dict[Action, str] = {
    "look": "check the logging before you retrain",
    "retrain": "retrain on newer data",
    "wait": "wait, or decide on more users",
    "nothing": "nothing",
}
"""What each action is in words."""
SHOWN = 3
"""Changes that a headline names."""


def to_do(verdicts: Verdicts) -> Action:
    """Return the action that comes first: what one answer asks for holds for the report."""
    asked = {verdict.action for verdict in _all(verdicts)}
    return next((action for action in ACTIONS if action in asked), "nothing")


def action_on(change: Change, verdicts: Verdicts) -> str:
    """Return what to do about one change, given what the other answers say."""
    if not (change.ongoing or change.sudden):
        if change.kind == "pipeline":
            return "It is over. Repair these windows, or leave them out, before you retrain."
        return "Nothing: it is over."
    if change.action != IF_WORSE:
        return change.action
    fall = verdicts.model_fall
    if fall is None:
        return "Give --run to see whether the model ranks worse, and retrain if it does."
    if fall.now in ALARMS:
        return "Retrain on newer data: the model ranks worse."
    if fall.now == "undecided":
        return "Wait: whether the model ranks worse is undecided."
    return "Nothing: the model does not rank worse."


def words_for(name: str, verdicts: Verdicts, changes: Sequence[Change]) -> str:
    """Return what to do after one answer, which is a field of `verdicts`."""
    verdict: Verdict = getattr(verdicts, name)
    going = [c for c in changes if c.ongoing and c.severity in ALARMS and c.kind != "pipeline"]
    if name == "data" and going:
        return going[0].action[0].lower() + going[0].action[1:].rstrip(".")
    return ACTIONS[verdict.action]


def headline(verdicts: Verdicts, changes: Sequence[Change], last: str) -> str:
    """Say what the newest window is like, what to do, and what was before it.

    Args:
        verdicts: all answers.
        changes: faults of the pipeline first, then the largest.
        last: name of the newest window.
    """
    alarmed = [change for change in changes if change.severity in ALARMS]
    now = [change for change in alarmed if change.ongoing]
    parts = _of_now(verdicts, now) or [_calm(verdicts, last)]
    action = to_do(verdicts)
    words = words_for("data", verdicts, changes) if action == "nothing" else ACTIONS[action]
    parts.append(f"To do: {words}{_wait_for(verdicts) if action == 'wait' else ''}.")
    over = [change for change in alarmed if not change.ongoing]
    if over:
        kind = {True: " (a fault of the pipeline)", False: ""}
        names = [f"{change.name}, {change.first}{kind[change.kind == 'pipeline']}" for change in over[:SHOWN]]
        more = f"; {len(over) - SHOWN} more" if len(over) > SHOWN else ""
        parts.append(f"Before {last}: {'; '.join(names)}{more}.")
    return " ".join(parts)


def _of_now(verdicts: Verdicts, now: Sequence[Change]) -> list[str]:
    """Return a sentence for each thing that the newest window shows."""
    faults = [change for change in now if change.kind == "pipeline"]
    others = [change for change in now if change.kind != "pipeline"]
    parts = [f"A fault of the pipeline: {_short(fault.sentence)}" for fault in faults[:1]]
    model = [v for v in (verdicts.model_fall, verdicts.regret) if v is not None and v.now in ALARMS]
    parts += [verdict.sentence for verdict in model[:1]]
    if verdicts.unseen.now in ALARMS:
        parts.append(verdicts.unseen.sentence)
    parts += [_short(change.sentence) for change in others[:1]]
    if others[1:]:
        parts.append(f"Also changed: {', '.join(dict.fromkeys(c.name for c in others[1 : 1 + SHOWN]))}.")
    if parts and not model:
        parts.append(_of_model(verdicts))
    return parts


def _calm(verdicts: Verdicts, last: str) -> str:
    """Return the sentence on a newest window without news."""
    if verdicts.data.now == "undecided":
        found = f"Whether anything changed in {last} is undecided: it has too few users."
    else:
        found = f"No news in {last}: the inputs are as usual."
    return f"{found} {_of_model(verdicts)}"


def _of_model(verdicts: Verdicts) -> str:
    if verdicts.model_fall is None:
        return "The model was not examined (give --run)."
    if verdicts.model_fall.now == "undecided":
        if verdicts.model_fall.severity in ALARMS:
            return "The model ranked worse before; whether it still does is undecided."
        return "Whether the model ranks worse is undecided."
    return "The model does not rank worse, as far as can be told."


def _wait_for(verdicts: Verdicts) -> str:
    """Return what would decide the first question that is open."""
    waiting = [v for v in _all(verdicts) if v.action == "wait" and v.wait_for]
    order = (verdicts.model_fall, verdicts.data)
    waiting.sort(key=lambda v: order.index(v) if v in order else len(order))
    return f" ({waiting[0].wait_for})" if waiting else ""


def _all(verdicts: Verdicts) -> list[Verdict]:
    found = (getattr(verdicts, name) for name in type(verdicts).model_fields)
    return [verdict for verdict in found if verdict is not None]


def _short(sentence: str) -> str:
    """Return a sentence without what stands in brackets about events."""
    return re.sub(r" \(counting events [^)]*\)", "", sentence)
