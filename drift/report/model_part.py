"""The model's part of the page: HR@10 over windows beside its baselines, regret, and the split of its change."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

from drift.model.lists import LISTS
from drift.model.quality import HIT
from drift.report.contents import Report
from ss4rec.report import Axis, Cell, Frame, Line, Mark, charts

LINES = (
    ("pop_frozen.HR@10", "popularity at the cut", "s6", "dashed"),
    ("shuffled.HR@10", "the model, histories shuffled", "muted", "thin"),
    ("pop_rolling.HR@10", "recent popularity", "s2", "dotted"),
    ("follow.HR@10", "what followed the last item", "s4", ""),
    ("retrained.HR@10", "retrained models", "s3", "thick"),
    (HIT, "the model, with interval", "s1", "thick"),
)
"""Field of the record, words, tone and style; later ones lie on top."""
MAIN_COLUMNS = (
    "users",
    "targets",
    "HR@10",
    "low",
    "high",
    "fall",
    "could be found",
    "adjusted p",
    "regret",
    "its p",
)
"""What is shown at once; the rest is one click away."""
COLUMNS = (
    ("users", "n_users", ","), ("targets", "targets", ","), ("HR@10", HIT, ".3f"), ("low", f"{HIT}.low", ".3f"),
    ("high", f"{HIT}.high", ".3f"), ("NDCG@10", "all.NDCG@10", ".3f"), ("known items", "known_items.HR@10", ".3f"),
    ("known users", "known_users.HR@10", ".3f"), ("fall", "drop", ".1%"),
    ("could be found", "smallest_fall", ".1%"), ("adjusted p", "p_adj", ".4f"), ("regret", "regret", "+.3f"),
    ("its p", "regret.p_adj", ".4f"),
    ("retrained gains", "retrained.gain", "+.3f"), ("from", "retrained.low", "+.3f"), ("to", "retrained.high", "+.3f"),
    ("p of the gain", "retrained.p", ".4f"), ("mix", "mix", "+.3f"), ("within", "within", "+.3f"),
    ("too sure by", "calibration_gap", "+.3f"), ("coverage", "coverage", ".3f"),
    ("list popularity", "list_popularity", ".3f"), ("novelty, bits", "novelty", ".2f"),
    ("miscalibration, bits", "miscalibration", ".3f"), ("states differ, p", "hidden_p_adj", ".4f"),
)  # fmt: skip
"""Head, field, format."""
WIDE = Frame(width=700, height=260)


def model_part(report: Report, tones: dict[str, str]) -> dict[str, Any]:
    """Return the charts and the table of the model."""
    records = report.quality
    names = [record["window"] for record in records]
    kept = [
        (head, field, form) for head, field, form in COLUMNS if any(r[field] is not None for r in records)
    ]
    sides = [[one for one in kept if (one[0] in MAIN_COLUMNS) == main] for main in (True, False)]

    def figures(record: dict[str, Any], columns: list[tuple[str, str, str]]) -> list[str]:
        return ["" if record[field] is None else format(record[field], form) for _, field, form in columns]

    rows = [
        [
            record["window"],
            Cell(record["severity"], tones[record["severity"]]),
            Cell(record["regret.severity"], tones[record["regret.severity"]]),
            *figures(record, sides[0]),
        ]
        for record in records
    ]
    return {
        "quality": _quality(report, names),
        "regret": _regret(records, names),
        "parts": _parts(records, names),
        "lists": _lists(records, names),
        "weak": _weak(records[0]),
        "head": ["window", "fall?", "regret?", *(head for head, _, _ in sides[0])],
        "more_head": ["window", *(head for head, _, _ in sides[1])],
        "more_rows": [[record["window"], *figures(record, sides[1])] for record in records],
        "rows": rows,
    }


def _points(records: list[dict[str, Any]], field: str) -> list[tuple[float, float]]:
    return [(float(at), r[field]) for at, r in enumerate(records) if r[field] is not None]


def _quality(report: Report, names: list[str]) -> Markup:
    """Draw HR@10 with its interval, baselines and known events."""
    records = report.quality
    lines = [
        Line(
            words,
            _points(records, field),
            tone,
            [(r[f"{field}.low"], r[f"{field}.high"]) for r in records] if field == HIT else (),
            style,  # type: ignore[arg-type]  # one of the chart's styles
        )
        for field, words, tone, style in LINES
    ]
    reference = Line(
        "reference", [(float(at), r["reference"]) for at, r in enumerate(records)], "strong", (), "dotted"
    )
    events = [
        (float(names.index(event["window"])), f"{event['date']}: {event['name']}")
        for event in report.known_events
        if event["window"] in names
    ]
    values = [value for line in lines for _, value in line.points] + [r[f"{HIT}.high"] for r in records]
    y = Axis.around([*values, records[0]["reference"]], zero=True)
    x, rows = Axis.of(names), [reference, *lines]
    return charts.lines("HR@10 by window", "each user counts once", rows, x=x, y=y, events=events, frame=WIDE)


def _regret(records: list[dict[str, Any]], names: list[str]) -> Markup:
    band = [(r["regret.low"], r["regret.high"]) for r in records]
    zero = Line("", [(0.0, 0.0), (float(len(names) - 1), 0.0)], "muted", (), "dotted")
    line = Line("HR@10 of recent popularity less the model's", _points(records, "regret"), "s2", band)
    return charts.lines("Regret", "above 0: recent popularity is better", [zero, line], x=Axis.of(names))


def _parts(records: list[dict[str, Any]], names: list[str]) -> Markup:
    """Draw the mix and the within part side by side."""
    marks = [
        Mark(at + side * 0.2, record[part], tone, f"{record['window']}: {part} {record[part]:+.4f}")
        for at, record in enumerate(records)
        for side, part, tone in ((-1, "mix", "s6"), (1, "within", "s4"))
    ]
    keys = [("s6", "mix: other users and items"), ("s4", "within: the same kinds, served otherwise")]
    return charts.columns(
        "Change of HR@10",
        "since the reference, in two parts",
        marks,
        x=Axis.of(names),
        fraction=0.36,
        keys=keys,
    )


def _lists(records: list[dict[str, Any]], names: list[str]) -> Markup:
    """Draw what is recommended: each figure relative to its first window."""
    tones = ("s1", "s2", "s4", "s6")
    lines = []
    for field, tone in zip(LISTS, tones, strict=True):
        points = _points(records, field)
        if points and points[0][1]:
            lines.append(
                Line(field.replace("_", " "), [(at, value / points[0][1]) for at, value in points], tone)
            )
    if not lines:
        return Markup("")
    return charts.lines("Recommended lists", "relative to the first window", lines, x=Axis.of(names))


def _weak(first: dict[str, Any]) -> str:
    """Warn of a model that a baseline beats from the first day: falls are measured from there and cannot tell."""
    better = [
        words
        for field, words, _, _ in LINES
        if field in ("follow.HR@10", "pop_rolling.HR@10", "pop_frozen.HR@10") and first[field] >= first[HIT]
    ]
    return f"In the first window the model is no better than {' and '.join(better)}." if better else ""
