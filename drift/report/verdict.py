"""From p and effect to a verdict per cell, window and run, and to the sentence that a person reads first."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from drift.cells.compare import past_effects, thresholds, window_means
from drift.cells.types import ALL_SIGNALS, CONTROL, OWN_TEST, PREVIOUS, REFERENCE, RETURNING, CellContext, Row
from drift.config import ALARMS, SEVERITIES, DriftConfig, Severity
from drift.stats.distances import named_slices
from drift.stats.resampling import change_point, holm

CATALOGUE = {"unseen_item", "lasting_top", "first_seen", "item_age"}
"""Signals that move because items come and go."""


def judge(context: CellContext, rows: list[Row]) -> None:
    """Fill in p_adj (Holm over windows), threshold and severity of our own tests, comparison by comparison."""
    past = past_effects(context)
    index = {window.name: number for number, window in enumerate(context.plan.windows)}
    centre = float(np.mean(context.plan.reference))
    for comparison in (REFERENCE, RETURNING, PREVIOUS, CONTROL):
        mine = [
            row
            for row in rows
            if row.comparison == comparison and row.detector == OWN_TEST and row.signal != ALL_SIGNALS
        ]
        names = list(dict.fromkeys(row.window for row in mine))
        if not names:
            continue
        p_WS = np.array([[row.p_max for row in mine if row.window == name] for name in names])
        adjusted_WS = holm(p_WS, context.config.planned_windows if comparison == REFERENCE else 0)
        for w, name in enumerate(names):
            lag = {PREVIOUS: 1, CONTROL: 0}.get(comparison, round(index[name] - centre))
            limit_S = thresholds(context, past, lag)
            for s, row in enumerate(row for row in mine if row.window == name):
                row.p_adj, row.threshold = float(adjusted_WS[w, s]), float(limit_S[s])
                row.severity = severity(context.config, row, len(names))


def severity(config: DriftConfig, row: Row, windows: int) -> Severity:
    """Return the verdict of a cell: significance first, then size."""
    users = min(row.n_users_ref, row.n_users_cur)
    if row.status != "ok" or users < config.min_users or row.p_floor * windows > config.alpha:
        return "undecided"
    if row.p_adj > config.alpha:
        return "none"
    if row.effect < row.threshold:
        return "noted"
    return "severe" if row.effect >= config.severe_factor * row.threshold else "drift"


def worst(severities: Sequence[Severity]) -> Severity:
    """Return the highest severity, `undecided` if there is none."""
    return max(severities, key=SEVERITIES.index, default="undecided")


def date_changes(context: CellContext, rows: list[Row]) -> dict[str, str]:
    """Return, for each signal with an alarm, the first window of the later level: the best single step since R."""
    alarmed = {row.signal for row in rows if row.comparison == REFERENCE and row.severity in ALARMS}
    plan = context.plan
    if not alarmed:
        return {}
    means_WK, users_W = window_means(context, plan.future)
    reference = context.histograms.blocks(plan.reference, context.layout)
    levels_WK = np.vstack([reference.mean(context.layout)[None], means_WK])
    weights_W = np.r_[len(reference.users_N), users_W].astype(float)
    return {
        name: context.name(plan.future[change_point(levels_WK[:, part], weights_W) - 1])
        for name, part in named_slices(context.layout).items()
        if name in alarmed
    }


def headline(data: str, model: str | None, since: dict[str, str], model_since: str | None) -> str:
    """Say in words whether inputs changed, whether the model was harmed, since when, and what to do."""
    changed, harmed = data in ALARMS, model in ALARMS
    first = min(since.values(), default="")
    names = ", ".join(sorted(since, key=lambda name: since[name])[:4])
    inputs = (
        f"inputs changed since {first} ({names})"
        if changed
        else "no change of inputs beyond what the past did"
    )
    if data == "undecided":
        inputs = "too few users to decide whether inputs changed"
    if model is None:
        advice = "give --run to learn whether it matters to the model" if changed else "nothing to do"
        return f"{_upper(inputs)}; the model was not examined. To do: {advice}."
    if model == "undecided":
        return f"{_upper(inputs)}; too few users to decide whether the model was harmed. To do: use longer windows."
    if harmed and changed:
        return f"Both: {inputs}, and the model is harmed since {model_since}. To do: retrain on newer data."
    if harmed:
        return f"The model is harmed since {model_since}, with {inputs}: what follows what has changed. To do: retrain."
    if changed:
        advice = (
            "retrain when new items should be recommended"
            if since.keys() <= CATALOGUE
            else "look for a cause in the pipeline or the site"
        )
        return f"{_upper(inputs)}, but no harm to the model was shown. To do: {advice}."
    return f"Neither: {inputs}, and no harm to the model was shown. To do: nothing."


def _upper(text: str) -> str:
    return text[0].upper() + text[1:]
