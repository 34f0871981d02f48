"""The report as one HTML page without any reference to the outside: what it shows; the template says where."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

from drift.cells.types import ALIBI, ALL_SIGNALS, COMPARISONS, OWN_TEST, REFERENCE
from drift.config import ALARMS, SEVERITIES
from drift.report.contents import Report, Verdict
from drift.report.model_part import model_part
from drift.report.summary import words_for
from drift.report.words import percent, say_level, span
from drift.signals.definitions import Signal
from ss4rec.report import Axis, Cell, Frame, Line, Mark, charts, render

TONES = {
    "none": "good",
    "noted": "warn",
    "drift": "bad",
    "severe": "severe",
    "undecided": "muted",
    "error": "error",
}
"""One colour for each verdict; nothing else on the page has the colour of `severe`."""
QUESTIONS = {
    "pipeline": "Is the pipeline at fault?",
    "data": "Did the inputs change?",
    "unseen": "Does the catalogue still cover what is used?",
    "model_fall": "Does the model rank worse?",
    "regret": "Is recent popularity better than the model?",
    "lists": "Does the model recommend other things?",
}
TESTS = {
    "w1": "Wasserstein, users permuted",
    "ks": "Kolmogorov-Smirnov, users permuted",
    "js": "Jensen-Shannon, users permuted",
}
TIMELINES = 12
"""Signals with a time line of their own, the most changed ones."""
SHOWN_WINDOWS = 40
"""Windows in the tables of distributions, the last ones."""


def page(report: Report, layout: tuple[Signal, ...]) -> str:
    """Return the report as one page."""
    own = [cell for cell in report.cells if cell["detector"] == OWN_TEST]
    levels = {(c["signal"], c["window"]): c for c in own if c["comparison"] == REFERENCE}
    order = sorted(layout, key=lambda signal: -_largest(levels, signal.name)[0])
    return render(
        "drift.report",
        "drift.html.j2",
        report=report,
        facts=_facts(report),
        answers=[_answer(report, name) for name in QUESTIONS],
        changes=[_change(change) for change in report.changes],
        details=[(f"{c.name}, {c.first}", c.details) for c in report.changes if c.details],
        nothing=report.verdicts.data.sentence,
        model=model_part(report, TONES) if report.quality else None,
        smallest_fall="" if report.smallest_fall is None else percent(report.smallest_fall),
        keys=[(TONES[name], name) for name in TONES],
        signals=[_signal_row(report, signal, levels) for signal in order],
        timelines=_timelines(report, order, levels),
        heat=_heat(report, order, levels),
        volume=_volume(report),
        turnover=_turnover(report),
        windows=[_window_row(window) for window in report.windows],
        events=[
            f"{event['date']}: {event['name']} ({event['window'] or 'outside of the windows'})"
            for event in report.known_events
        ],
        distributions=[_distribution(report, signal) for signal in order],
        alibi=_alibi(report),
        comparisons=_comparisons(own),
        method=_method(report),
    )


def verdict_cell(severity: str) -> Cell:
    """Return a verdict in its colour."""
    return Cell(severity, TONES[severity])


def _facts(report: Report) -> str:
    return (
        f"{len(report.windows)} windows after the cut: {span(report.windows[0]['name'], report.last_window)}. They are "
        f"compared with {span(report.reference[0], report.reference[-1])}, the reference. What is usual was learned "
        f"from {span(report.calibration[0], report.calibration[-1])}."
    )


def _answer(report: Report, name: str) -> list[Any]:
    """Return a question's row: its verdicts over all and now, the sentence, and what to do."""
    verdict: Verdict | None = getattr(report.verdicts, name)
    if verdict is None:
        unknown = "The model was not examined: give --run."
        return [
            QUESTIONS[name],
            Cell("not asked", "muted"),
            Cell("not asked", "muted"),
            unknown,
            "give --run",
        ]
    text = verdict.sentence + (
        f" {verdict.wait_for[0].upper()}{verdict.wait_for[1:]}."
        if verdict.wait_for and verdict.action == "wait"
        else ""
    )
    return [
        QUESTIONS[name],
        verdict_cell(verdict.severity),
        verdict_cell(verdict.now),
        text,
        words_for(name, report.verdicts, report.changes),
    ]


def _change(change: Any) -> list[Any]:
    until = f"since {change.first}" if change.ongoing else span(change.first, change.last)
    name = Cell(change.name, TONES[change.severity], f"{change.kind}; moved: {', '.join(change.signals)}")
    size = Cell(f"{change.ratio:.1f}", "", f"largest in {change.peak}")
    return [name, size, change.sentence, change.action, until]


def _largest(levels: dict[tuple[str, str], dict[str, Any]], name: str) -> tuple[float, dict[str, Any] | None]:
    """Return the largest effect of a signal in multiples of its limit, and its cell."""
    cells = [
        c for (signal, _), c in levels.items() if signal == name and c["status"] == "ok" and c["threshold"]
    ]
    decided = [c for c in cells if c["severity"] in (*ALARMS, "noted")] or cells
    if not decided:
        return 0.0, None
    best = max(decided, key=lambda c: c["effect"] / c["threshold"])
    return best["effect"] / best["threshold"], best


def _signal_row(report: Report, signal: Signal, levels: dict[tuple[str, str], dict[str, Any]]) -> list[Any]:
    """Return a signal's row: its levels at both ends, its line, its verdict and since when."""
    _, cell = _largest(levels, signal.name)
    values = report.levels[signal.name]
    known = [value for value in values if value is not None]
    line = charts.sparkline(known, signal.name) if known else Markup("")
    shown = (values[0], values[-1], report.event_levels[signal.name][-1])
    figures = [say_level(signal, value) if value is not None else "" for value in shown]
    found = [levels.get((signal.name, window["name"])) for window in report.windows]
    severities = [one["severity"] for one in found if one is not None]
    verdict = verdict_cell(max(severities, key=SEVERITIES.index, default="undecided"))
    mine = [e for e in report.episodes if e.signal == signal.name and e.comparison == REFERENCE]
    since = min((e.first for e in mine), key=[w["name"] for w in report.windows].index, default="")
    size: Cell | str = ""
    p = ""
    if cell is not None:
        tip = f"{TESTS[signal.distance]}: {cell['effect']:.3f}{f' {signal.unit}' if signal.unit else ''}, limit "
        tip += f"{cell['threshold']:.3f}, in {cell['window']}"
        size, p = Cell(f"{cell['effect'] / cell['threshold']:.1f}", "", tip), f"{cell['p_adj']:.4f}"
    name = Cell(signal.name, "", signal.about)
    return [name, verdict, since, *figures, line, size, p, Cell(signal.about, "wrap")]


def _timelines(report: Report, order: list[Signal], levels: dict[tuple[str, str], dict[str, Any]]) -> Markup:
    """Draw the most changed signals, all on one axis."""
    names = [window["name"] for window in report.windows]
    ratios = {
        signal.name: [
            (float(at), c["effect"] / c["threshold"])
            for at, name in enumerate(names)
            if (c := levels.get((signal.name, name))) and c["status"] == "ok" and c["threshold"]
        ]
        for signal in order[:TIMELINES]
    }
    top = max((value for points in ratios.values() for _, value in points), default=1.0)
    y = Axis(0.0, max(1.5, 1.05 * min(top, 12.0)))
    events = _event_places(report)
    panels = []
    for signal in order[:TIMELINES]:
        points = [(at, min(value, y.high)) for at, value in ratios[signal.name]]
        if not points:
            continue
        usual = Line("usual", [(at, 1.0) for at, _ in points], "muted", [(0.0, 1.0)] * len(points), "dotted")
        panels.append(
            charts.lines(
                signal.name,
                signal.about,
                [usual, Line("times the limit", points, "s1")],
                x=Axis.of(names),
                y=y,
                events=events,
            )
        )
    return charts.small_multiples("", "", panels)


def _event_places(report: Report) -> list[tuple[float, str]]:
    """Return the place and name of the known events inside the windows."""
    names = [window["name"] for window in report.windows]
    return [
        (float(names.index(event["window"])), f"{event['date']}: {event['name']}")
        for event in report.known_events
        if event["window"] in names
    ]


def _heat(
    report: Report, order: list[Signal], levels: dict[tuple[str, str], dict[str, Any]]
) -> dict[str, Any]:
    """Signal by window; the number is the effect in multiples of its limit, figures under the mouse."""
    marks = {event["window"]: event["name"] for event in report.known_events}
    names = [window["name"] for window in report.windows]
    columns = [Cell(name, "event", marks[name]) if name in marks else name for name in names]
    since = {e.signal: e.first for e in reversed(report.episodes) if e.comparison == REFERENCE}
    rows = []
    for signal in order:
        cells = [levels.get((signal.name, name)) or levels.get((ALL_SIGNALS, name)) for name in names]
        rows.append(
            (Cell(signal.name, "", signal.about), [_heat_cell(c) for c in cells], since.get(signal.name, ""))
        )
    return {"columns": columns, "rows": rows}


def _heat_cell(cell: dict[str, Any] | None) -> Cell | None:
    if cell is None:
        return None
    if cell["status"] != "ok":
        return Cell("!", TONES["error"], cell["error"] or cell["status"])
    tip = (
        f"{cell['effect_name']} {cell['effect']:.3f} [{cell['effect_low']:.3f}, {cell['effect_high']:.3f}], limit "
        f"{cell['threshold']:.3f}, p {cell['p']:.4f}, adjusted {cell['p_adj']:.4f}, users {cell['n_users_ref']:,} and "
        f"{cell['n_users_cur']:,}"
    )
    return Cell(f"{cell['effect'] / cell['threshold']:.1f}", TONES[cell["severity"]], tip)


def _volume(report: Report) -> Markup:
    """Draw users, new users and events per user."""
    names = [window["name"] for window in report.windows]
    users = [("users", "s1"), ("new_users", "s3")]
    lines = [
        Line(name.replace("_", " "), [(float(at), w[name]) for at, w in enumerate(report.windows)], tone)
        for name, tone in users
    ]
    per_user = [(float(at), w["events"] / max(w["users"], 1)) for at, w in enumerate(report.windows)]
    x, events = Axis.of(names), _event_places(report)
    y = Axis.around([value for line in lines for _, value in line.points], zero=True)
    of_each = Axis.around([value for _, value in per_user], zero=True)
    return charts.lines("Users", "in each window", lines, x=x, y=y, events=events) + charts.lines(
        "Events per user", "in each window", [Line("", per_user, "s1")], x=x, y=of_each, events=events
    )


def _turnover(report: Report) -> str:
    past = report.past_turnover
    return "" if past is None else f" Past windows: {past[0]:.2f} to {past[1]:.2f}."


def _window_row(window: dict[str, Any]) -> list[Any]:
    turnover = "" if window["turnover"] is None else f"{window['turnover']:.2f}"
    each = f"{window['events'] / max(window['users'], 1):.1f}"
    counts = [f"{window[name]:,}" for name in ("users", "new_users", "events")]
    return [window["name"], *counts, each, turnover, verdict_cell(window["verdict"])]


def _distribution(report: Report, signal: Signal) -> tuple[Markup, list[str], list[list[Any]]]:
    """Return one small plot, and a table of all windows."""
    sides = report.distributions[signal.name]
    ref, cur = sides["reference"], sides[report.last_window]
    marks = [
        Mark(
            float(b), value, "s1", f"{signal.labels[b]}: {percent(value)}; {percent(ref[b])} in the reference"
        )
        for b, value in enumerate(cur)
    ]
    outline = [(float(b), value) for b, value in enumerate(ref)]
    frame = Frame(height=150)
    chart = charts.columns(
        signal.name,
        signal.about,
        marks,
        x=Axis.of(signal.labels),
        fraction=0.85,
        outline=outline,
        frame=frame,
    )
    kept = ["reference", *[name for name in sides if name != "reference"][-SHOWN_WINDOWS:]]
    rows = [[name, *(f"{100 * value:.1f}" for value in sides[name])] for name in kept]
    return chart, ["window", *signal.labels], rows


def _alibi(report: Report) -> dict[str, Any] | None:
    """Return alibi-detect's table: a row for each detector and space, a column for each window."""
    theirs = [c for c in report.cells if c["detector"].startswith(ALIBI)]
    if not theirs:
        return None
    names = [w["name"] for w in report.windows]
    windows = [name for name in names if any(c["window"] == name for c in theirs)]
    keys = dict.fromkeys((c["detector"], c["signal"]) for c in theirs if c["signal"] != ALL_SIGNALS)
    keys |= dict.fromkeys((c["detector"], c["signal"]) for c in theirs)
    rows = []
    for detector, space in keys:
        mine = [c for c in theirs if (c["detector"], c["signal"]) == (detector, space)]
        control = next((c for c in mine if c["comparison"] != REFERENCE), None)
        found = {c["window"]: c for c in mine if c["comparison"] == REFERENCE}
        cells = [_alibi_cell(found.get(name)) for name in windows]
        space_name = "failed" if space == ALL_SIGNALS else space
        rows.append([detector.removeprefix(ALIBI), space_name, *cells, _alibi_cell(control)])
    return {"head": ["detector", "looks at", *windows, "control"], "rows": rows}


def _alibi_cell(cell: dict[str, Any] | None) -> Cell | str:
    if cell is None:
        return ""
    if cell["status"] != "ok":
        return Cell("too few" if cell["status"] == "too_few" else "failed", TONES["error"], cell["error"])
    if cell["p"] is None:
        words = "no alarm" if cell["effect"] is None else f"after {cell['effect']:.0f}"
    else:
        words = f"{cell['p']:.2g}" if cell["p"] >= 1e-4 else "<.0001"
    effect = "none" if cell["effect"] is None else f"{cell['effect']:.3g}"
    tip = f"{cell['effect_name']} {effect}, users {cell['n_users_ref']:,} and {cell['n_users_cur']:,}"
    return Cell(words, TONES[cell["severity"]], tip)


def _comparisons(own: list[dict[str, Any]]) -> list[list[Any]]:
    rows = []
    for name, about in COMPARISONS.items():
        mine = [cell for cell in own if cell["comparison"] == name]
        smallest = min((c["p_adj"] for c in mine if c["p_adj"] is not None), default=None)
        alarms = sum(c["severity"] in ALARMS for c in mine)
        failed = sum(c["status"] == "error" for c in mine)
        rows.append(
            [name, about, len(mine), alarms, "no test" if smallest is None else f"{smallest:.4f}", failed]
        )
    return rows


def _method(report: Report) -> str:
    config = report.config
    return (
        "The unit is the user: each user counts once in a window, and whole users are permuted, since events of one "
        "user are alike. p is adjusted for all signals of a window (max-T), for all windows (Holm), and for the kinds "
        "of tests that raise alarms: one report without drift has an alarm with a chance of at most "
        f"{config['alpha']}. An alarm needs that and an effect above the limit. Comparisons with the reference say how "
        f"far the inputs are from training; those with the window before date sudden changes. Below "
        f"{config['min_users']} users on a side the verdict is undecided, which is no all-clear. Times are those of "
        "rating, not of watching."
    )
