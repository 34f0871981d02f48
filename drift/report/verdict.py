"""From p and effect to a verdict on each cell: significance over the whole report first, then size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from drift.cells.compare import lag_of, past_effects, thresholds
from drift.cells.types import (
    ALIBI,
    ALL_SIGNALS,
    CONTROL,
    FAMILIES,
    IDENTICAL,
    OWN_TEST,
    PREVIOUS,
    REFERENCE,
    RETURNING,
    VOLUME,
    Cell,
    CellContext,
    Row,
)
from drift.config import SEVERITIES, DriftConfig, Severity
from drift.stats.resampling import holm


def judge(context: CellContext, rows: list[Row]) -> None:
    """Fill in p_adj, threshold and severity, family by family.

    p is adjusted for the windows (Holm) and for the other families that raise alarms (`FAMILIES`), so that one report
    without drift has an alarm with a chance of at most alpha.
    """
    past = past_effects(context)
    index = {window.name: number for number, window in enumerate(context.plan.windows)}
    for comparison in (REFERENCE, RETURNING, PREVIOUS, CONTROL):
        mine = [row for row in rows if row.comparison == comparison and row.detector == OWN_TEST]
        mine = [row for row in mine if row.signal != ALL_SIGNALS]
        limits = {}
        for name in dict.fromkeys(row.window for row in mine):
            limits[name] = thresholds(context, past, lag_of(context.plan, Cell(comparison, index[name])))
        _judge_family(context.config, mine, limits, comparison)
    for detector in (VOLUME, IDENTICAL):
        _judge_family(context.config, [row for row in rows if row.detector == detector], {}, detector)
    _judge_alibi(context, rows)


def _judge_family(
    config: DriftConfig, mine: list[Row], limits: dict[str, npt.NDArray[Any]], family: str
) -> None:
    """Adjust and judge the rows of one family; rows of one window are in the order of its limits."""
    names = list(dict.fromkeys(row.window for row in mine))
    if not names:
        return
    share = FAMILIES.get(family, 1.0)
    p_WS = np.array([[row.p_max for row in mine if row.window == name] for name in names])
    if family in (VOLUME, IDENTICAL):
        p_WS = p_WS * p_WS.shape[1]  # max-T has done this for the others
    adjusted_WS = holm(p_WS, config.planned_windows if family in FAMILIES else 0)
    count = max(len(names), config.planned_windows)
    for w, name in enumerate(names):
        for s, row in enumerate(row for row in mine if row.window == name):
            row.p_adj = float(np.minimum(1.0, adjusted_WS[w, s] / share))
            if name in limits:
                row.threshold = float(limits[name][s])
            row.severity = severity(config, row, count / share)


def _judge_alibi(context: CellContext, rows: list[Row]) -> None:
    """Judge alibi-detect's rows as ours: p over all its windows, and a statistic beyond what past windows gave."""
    future = {context.name(window) for window in context.plan.future}
    theirs = [row for row in rows if row.detector.startswith(ALIBI) and row.status == "ok"]
    for key in dict.fromkeys((row.detector, row.signal) for row in theirs):
        mine = [row for row in theirs if (row.detector, row.signal) == key and row.comparison == REFERENCE]
        known = [row for row in mine if row.window in future]
        past = [row.effect for row in mine if row.window not in future and not np.isnan(row.effect)]
        p_W = holm(np.array([[row.p] for row in known]))[:, 0] if known else ()
        for row, p_adj in zip(known, p_W, strict=True):
            row.p_adj, row.threshold = float(p_adj), max(past, default=float("nan"))
            if np.isnan(
                row.p
            ):  # the online detectors have no p: one that raised an alarm says after how many users
                row.severity = "none" if np.isnan(row.effect) else "noted"
                continue
            row.severity = "noted" if p_adj <= context.config.alpha else "none"
            if row.severity == "noted" and row.effect > row.threshold:
                row.severity = "drift"


def severity(config: DriftConfig, row: Row, windows: float) -> Severity:
    """Return the verdict of a cell: significance first, then size.

    Args:
        config: limits.
        row: the cell.
        windows: windows that p is adjusted for, times the other families.
    """
    users = min(row.n_users_ref, row.n_users_cur)
    if row.status != "ok" or users < config.min_users or row.p_floor * windows > config.alpha:
        return "undecided"
    if not row.p_adj <= config.alpha:
        return "none"
    if row.effect < row.threshold:
        return "noted"
    return "severe" if row.effect >= config.severe_factor * row.threshold else "drift"


def worst(severities: Sequence[Severity]) -> Severity:
    """Return the highest severity, `undecided` if there is none."""
    return max(severities, key=SEVERITIES.index, default="undecided")
