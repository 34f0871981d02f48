"""From changes and the model's figures to one answer for each question, and to the sentence that is read first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from drift.calendar import MONTHS
from drift.cells.types import OWN_TEST, REFERENCE, CellContext, Row
from drift.config import ALARMS, SEVERITIES, Severity
from drift.model.lists import WORDS, changed
from drift.model.quality import UNDECIDED_FALL
from drift.report.contents import Action, Change, Verdict, Verdicts
from drift.report.episodes import WindowMeans
from drift.report.verdict import worst
from drift.report.words import percent

LONGER = ("hour", "day", "week", "month", "quarter", "year")
UNSEEN_USERS = 30
"""Users from which a window's share of unseen items is told."""


def answer(
    context: CellContext,
    rows: Sequence[Row],
    changes: Sequence[Change],
    quality: list[dict[str, Any]],
    means: WindowMeans,
    fresh: Sequence[str],
) -> Verdicts:
    """Return all verdicts; `fresh` are the windows that this report looked at for the first time."""
    faults = [change for change in changes if change.kind == "pipeline"]
    others = [change for change in changes if change.kind != "pipeline"]
    undecided = undecided_windows(context, rows)
    wait_for = what_would_decide(context) if undecided else ""
    return Verdicts(
        pipeline=_of_changes(faults, "look", context, undecided, fresh, wait_for, "no fault of the pipeline was found"),
        data=_of_changes(others, "nothing", context, undecided, fresh, wait_for,
                         "the inputs did not change more than they did before"),
        unseen=_unseen(context, means, fresh),
        model_fall=_of_model(quality, "severity", _fall_words, fresh, context),
        regret=_of_model(quality, "regret.severity", _regret_words, fresh, context),
        lists=_of_model(quality, "lists.severity", _list_words, fresh, context, alarm="nothing"),
    )  # fmt: skip


def undecided_windows(context: CellContext, rows: Sequence[Row]) -> list[str]:
    """Return the windows in which no signal could be decided."""
    main = [row for row in rows if (row.detector, row.comparison) == (OWN_TEST, REFERENCE)]
    names = [context.name(window) for window in context.plan.future]
    decided = {row.window for row in main if row.severity != "undecided"}
    return [name for name in names if name not in decided]


def what_would_decide(context: CellContext) -> str:
    """Say which window length, or which number of users, would allow a verdict."""
    config, plan, made = context.config, context.plan, context.histograms
    counts = [int((made.window_R == window).sum()) for window in plan.future]
    middle = int(np.median(counts))
    words = f"A {config.window} has {middle:,} users (median), {config.min_users:,} are asked for"
    longer = LONGER[LONGER.index(config.window) + 1 :]
    for kind in longer:
        size = MONTHS.get(kind, 1) // MONTHS[config.window] if config.window in MONTHS else 7
        groups = [plan.future[at : at + size] for at in range(0, len(plan.future) - size + 1, size)]
        users = [len(np.unique(made.user_R[np.isin(made.window_R, group)])) for group in groups]
        if users and np.median(users) >= config.min_users:
            return f"{words}: give --set window={kind}, which has {int(np.median(users)):,}"
        if config.window not in MONTHS:
            break
    return (
        f"{words}, and no longer window has them: give --set min_users={max(middle, 20)} to decide on fewer, "
        "where only large changes can be found"
    )


def _of_changes(
    changes: Sequence[Change],
    action: Action,
    context: CellContext,
    undecided: Sequence[str],
    fresh: Sequence[str],
    wait_for: str,
    clear: str,
) -> Verdict:
    """Return the verdict on changes of one kind."""
    names = [context.name(window) for window in context.plan.future]
    ruled = {name: "undecided" if name in undecided else "none" for name in names}

    def over(chosen: Sequence[Change], windows: Sequence[str]) -> Severity:
        floor: Severity = "none" if any(ruled[name] == "none" for name in windows) else "undecided"
        return worst([floor, *(change.severity for change in chosen)])

    now = over([c for c in changes if c.ongoing], names[-1:])
    new = over([c for c in changes if c.first in fresh], [n for n in names if n in fresh] or names)
    severity = over(changes, names)
    if not changes:
        open_ = severity == "undecided"
        sentence = f"Undecided: {wait_for}." if open_ else f"{clear[0].upper()}{clear[1:]}."
        if undecided and not open_:
            sentence += f" {len(undecided)} of {len(names)} windows had too few users."
        decided: Action = "wait" if open_ else "nothing"
        return Verdict(severity=severity, now=now, new=new, since=None, sentence=sentence, action=decided,
                       wait_for=wait_for if undecided else "")  # fmt: skip
    latest = max(changes, key=lambda change: names.index(change.first))
    return Verdict(
        severity=severity,
        now=now,
        new=new,
        since=latest.first,
        sentence=" ".join(change.sentence for change in changes[:2]),
        action=action,
        wait_for=wait_for,
    )


def _unseen(context: CellContext, means: WindowMeans, fresh: Sequence[str]) -> Verdict:
    """Return the verdict on what the model cannot recommend because it never saw it."""
    plan, limit = context.plan, context.config.unseen_limit
    found: dict[str, Severity] = {}
    shares = {}
    for window in plan.future:
        share = means.event_share("unseen_item", [window]) or 0.0
        users = int((context.histograms.window_R == window).sum())
        shares[context.name(window)] = share
        found[context.name(window)] = "undecided" if users < UNSEEN_USERS else _beyond(share, limit)
    names = list(found)
    before = means.event_share("unseen_item", plan.reference) or 0.0
    last = names[-1]
    decided = [name for name in names if found[name] != "undecided"]
    since = _since(decided, [found[name] in ALARMS for name in decided])
    where = "above" if since else "below"
    when = f" since {since.split(' to ')[0]}" if since else ""
    sentence = (
        f"{percent(shares[last])} of events in {last} are on items outside the model's catalogue; {percent(before)} in "
        f"the reference. "
    )
    if found[last] == "undecided":
        sentence += f"Fewer than {UNSEEN_USERS} users are too few to tell"
        sentence += f"; before that it was {where} the limit of {percent(limit)}{when}." if decided else "."
    else:
        sentence += f"That is {where} the limit of {percent(limit)}{when}."
    new = worst([found[name] for name in fresh if name in found])
    open_ = found[last] == "undecided"
    action: Action = "retrain" if found[last] in ALARMS else "wait" if open_ else "nothing"
    wait_for = f"longer windows, with {UNSEEN_USERS} users or more" if open_ else ""
    return Verdict(severity=worst(list(found.values())), now=found[last], new=new, since=since, sentence=sentence,
                   action=action, wait_for=wait_for)  # fmt: skip


def _beyond(share: float, limit: float) -> Severity:
    return "severe" if share >= 2 * limit else "drift" if share >= limit else "none"


def _since(names: Sequence[str], alarmed: Sequence[bool]) -> str | None:
    """Return the first window of the run that reaches the last one, None if the last one is not alarmed."""
    since = None
    for name, is_alarmed in zip(names, alarmed, strict=True):
        since = (since or name) if is_alarmed else None
    return since


def _of_model(
    quality: list[dict[str, Any]],
    field: str,
    words: Callable[[list[dict[str, Any]], str, CellContext], str],
    fresh: Sequence[str],
    context: CellContext,
    alarm: Action = "retrain",
) -> Verdict | None:
    """Return the verdict on one figure of the model, with what an alarm asks for; None without a run."""
    if not quality:
        return None
    severities: list[Severity] = [record[field] for record in quality]
    names = [record["window"] for record in quality]
    new = [record[field] for record in quality if record["window"] in fresh]
    now = severities[-1]
    alarms = [name for name, severity in zip(names, severities, strict=True) if severity in ALARMS]
    since = _since(names, [severity in ALARMS for severity in severities]) or (alarms[0] if alarms else None)
    wait_for = ""
    if now == "undecided":
        few = quality[-1]["n_users"] < context.config.min_users
        wait_for = (
            f"{quality[-1]['n_users']:,} users could be ranked for in {names[-1]}, "
            f"{context.config.min_users:,} are asked for: longer windows, or --set min_users"
            if few
            else f"{quality[-1]['n_users']:,} users are too few: {_more_users(quality[-1]['n_users'], context)}"
        )
    action: Action = alarm if now in ALARMS else "wait" if now == "undecided" else "nothing"
    return Verdict(severity=worst(severities), now=now, new=worst(new), since=since,
                   sentence=words(quality, field, context), action=action, wait_for=wait_for)  # fmt: skip


def _more_users(users: int, context: CellContext) -> str:
    """Say how a window gets more users to rank for."""
    if users >= context.config.quality_users:
        return "rank for more with --set quality_users"
    return f"take windows longer than a {context.config.window}"


def _fall_words(quality: list[dict[str, Any]], field: str, context: CellContext) -> str:
    last = quality[-1]
    figures = (
        f"HR@10 in {last['window']}: {last['all.HR@10']:.3f} "
        f"[{last['all.HR@10.low']:.3f}, {last['all.HR@10.high']:.3f}]; {last['reference']:.3f} in the reference"
    )
    smallest = last["smallest_fall"]
    could = "" if smallest is None else f" A fall of {percent(smallest)} or more would have been found."
    if smallest is not None and smallest > UNDECIDED_FALL:
        could = f" Only a fall of {percent(smallest)} or more could have been found."
    if last[field] in ALARMS:
        return f"The model ranks worse: {figures}, {percent(last['drop'])} less (adjusted p {last['p_adj']:.3g})."
    if last[field] == "undecided":
        return f"Undecided: {figures}, from {last['n_users']:,} users.{could}"
    return f"No fall of the model was found. {figures}.{could}"


def _regret_words(quality: list[dict[str, Any]], field: str, context: CellContext) -> str:
    last = quality[-1]
    figures = (
        f"{last['pop_rolling.HR@10']:.3f} against {last['all.HR@10']:.3f} in {last['window']} (difference "
        f"{last['regret']:+.3f} [{last['regret.low']:+.3f}, {last['regret.high']:+.3f}])"
    )
    if last[field] in ALARMS:
        return f"Recent popularity ranks better than the model: HR@10 {figures}."
    return f"Recent popularity does not rank better than the model, as far as can be told: HR@10 {figures}."


def _list_words(quality: list[dict[str, Any]], field: str, context: CellContext) -> str:
    last = quality[-1]
    found = changed(last, context.config)
    if not found:
        return "The lists that the model recommends are like those before, as far as can be told."
    name = found[0]
    others = f" Also: {', '.join(WORDS[other] for other in found[1:])}." if found[1:] else ""
    return (
        f"The model recommends other things in {last['window']}: {WORDS[name]} {last[name]:.3g}; "
        f"{last[f'{name}.before']:.3g} before (adjusted p {last[f'{name}.p_adj']:.3g}).{others}"
    )


def overall(verdicts: Verdicts, field: str) -> Severity:
    """Return the worst of all verdicts; unseen items alone are never `severe`, since every catalogue grows."""
    found = [getattr(verdicts.pipeline, field), getattr(verdicts.data, field)]
    found += [
        getattr(verdict, field) for verdict in (verdicts.model_fall, verdicts.regret) if verdict is not None
    ]
    unseen = getattr(verdicts.unseen, field)
    if unseen in ALARMS:
        found.append(min(unseen, "drift", key=SEVERITIES.index))
    return worst(found)
