"""The model's part of the report page: HR@10 over windows beside its baselines, and the split of its change."""

from __future__ import annotations

import html
from typing import Any

WIDTH, HEIGHT, LEFT, BASE, TOP = 740, 220, 44, 186, 14
LINES = (
    ("model", "all.HR@10", "the model, with intervals"),
    ("retrained", "retrained.HR@10", "retrained models"),
    ("follow", "follow.HR@10", "what followed the last item in the past"),
    ("pop_rolling", "pop_rolling.HR@10", "popularity of the year before"),
    ("pop_frozen", "pop_frozen.HR@10", "popularity at the cut"),
    ("shuffled", "shuffled.HR@10", "the model with shuffled histories"),
)
"""Class of the line, field of the record, words."""
COLUMNS = (
    ("users", "n_users", ","), ("HR@10", "all.HR@10", ".3f"), ("low", "all.HR@10.low", ".3f"),
    ("high", "all.HR@10.high", ".3f"), ("NDCG@10", "all.NDCG@10", ".3f"), ("MRR@10", "all.MRR@10", ".3f"),
    ("HR known items", "known_items.HR@10", ".3f"), ("HR known users", "known_users.HR@10", ".3f"),
    ("HR retrained", "retrained.HR@10", ".3f"), ("HR follow", "follow.HR@10", ".3f"),
    ("HR popularity of the year", "pop_rolling.HR@10", ".3f"), ("HR frozen popularity", "pop_frozen.HR@10", ".3f"),
    ("HR shuffled", "shuffled.HR@10", ".3f"), ("mix", "mix", "+.3f"), ("within", "within", "+.3f"),
    ("confidence less HR", "calibration_gap", "+.3f"), ("entropy", "entropy", ".2f"), ("coverage", "coverage", ".3f"),
    ("hidden p", "hidden_p", ".3f"), ("adjusted p", "p_adj", ".4f"),
)  # fmt: skip
"""Head, field, format."""


def quality_section(
    records: list[dict[str, Any]], events: list[dict[str, Any]], colours: dict[str, str]
) -> str:
    """Return the section, empty without a model.

    Args:
        records: `Report.quality`.
        events: `Report.known_events`, drawn as lines in their windows.
        colours: CSS class of each verdict.
    """
    if not records:
        return ""
    heads = "".join(f"<th>{html.escape(head)}</th>" for head, *_ in COLUMNS)
    rows = "".join(
        f"<tr><th>{record['window']}</th>"
        + "".join(f"<td>{_number(record[field], form)}</td>" for _, field, form in COLUMNS)
        + f'<td class="{colours[record["severity"]]}">{record["severity"]}</td></tr>'
        for record in records
    )
    present = [(name, words) for name, field, words in LINES if any(r[field] is not None for r in records)]
    legend = " ".join(f'<span class="key line {name}">{words}</span>' for name, words in present)
    return (
        "<h2>Model: HR@10 by window</h2><p>One event a user, ranked among the whole vocabulary. The first window is "
        "the reference of the others.</p>"
        f'{_weak(records[0])}<p>{legend}</p><div class="scroll">{_plot(records, events)}</div>'
        "<h2>Why: change of HR@10 since the first window</h2><p><i>Mix</i>: other users and items are asked for. "
        "<i>Within</i>: the same kinds of users and items are served worse or better. They add up to the change.</p>"
        f'<div class="scroll">{_decomposition(records)}</div>'
        f'<div class="scroll"><table><tr><th>window</th>{heads}<th>verdict</th></tr>{rows}</table></div>'
    )


def _weak(first: dict[str, Any]) -> str:
    """Warn of a model that a baseline beats from the first day: verdicts compare with that day and can not tell."""
    better = [
        words
        for name, field, words in LINES
        if name in ("follow", "pop_rolling", "pop_frozen") and first[field] >= first["all.HR@10"]
    ]
    if not better:
        return ""
    return (
        f"<p><b>In the first window the model is no better than {html.escape(' and '.join(better))}.</b> The verdict "
        "compares later windows with the first one and says nothing about this.</p>"
    )


def _number(value: float | None, form: str) -> str:
    return "none" if value is None else format(value, form)


def _places(count: int) -> tuple[list[float], float]:
    """Return the middle of each window and the width of one."""
    step = (WIDTH - LEFT - 6) / count
    return [LEFT + step * (n + 0.5) for n in range(count)], step


def _labels(records: list[dict[str, Any]], at: list[float], y: float) -> str:
    """Name every window, or every few where they are many."""
    every = -(-len(records) // 12)
    return "".join(
        f'<text x="{x:.1f}" y="{y}">{record["window"]}</text>'
        for n, (x, record) in enumerate(zip(at, records, strict=True))
        if n % every == 0
    )


def _plot(records: list[dict[str, Any]], events: list[dict[str, Any]]) -> str:
    """Draw HR@10 with intervals, baselines and known events."""
    fields = [field for _, field, _ in LINES] + ["all.HR@10.high"]
    top = max([1e-6, *(r[field] for r in records for field in fields if r[field] is not None)])
    at, step = _places(len(records))

    def y(value: float) -> float:
        return BASE - (BASE - TOP) * value / top

    parts = [
        f'<text class="axis" x="{LEFT - 4}" y="{y(top * share) + 4:.1f}">{top * share:.2f}</text>'
        f'<line class="axis" x1="{LEFT}" x2="{WIDTH - 6}" y1="{y(top * share):.1f}" y2="{y(top * share):.1f}"/>'
        for share in (0, 0.5, 1)
    ]
    names = {record["window"]: n for n, record in enumerate(records)}
    for event in events:
        if event["window"] in names:
            x = at[names[event["window"]]] - step / 2
            parts.append(
                f'<line class="event" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{BASE}"><title>{event["date"]} '
                f"{html.escape(event['name'])}</title></line>"
            )
    for name, field, words in reversed(LINES):
        known = [(x, r[field]) for x, r in zip(at, records, strict=True) if r[field] is not None]
        if known:
            points = " ".join(f"{x:.1f},{y(value):.1f}" for x, value in known)
            parts.append(f'<polyline class="{name}" points="{points}"><title>{words}</title></polyline>')
    for x, record in zip(at, records, strict=True):
        low, high = y(record["all.HR@10.low"]), y(record["all.HR@10.high"])
        parts.append(f'<line class="interval" x1="{x:.1f}" x2="{x:.1f}" y1="{low:.1f}" y2="{high:.1f}"/>')
    return (
        f'<svg class="plot" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="HR@10 by window">'
        f"{''.join(parts)}{_labels(records, at, BASE + 18)}</svg>"
    )


def _decomposition(records: list[dict[str, Any]]) -> str:
    """Draw the mix and the within part as bars up and down from 0."""
    height, middle = 120, 52
    top = max([1e-6, *(abs(r[part]) for r in records for part in ("mix", "within"))])
    at, step = _places(len(records))
    bars = []
    for x, record in zip(at, records, strict=True):
        for side, part in ((-1, "mix"), (0, "within")):
            size = 44 * abs(record[part]) / top
            start = middle - size if record[part] > 0 else middle
            left = x + side * step * 0.36
            bars.append(
                f'<rect class="{part}" x="{left:.1f}" y="{start:.1f}" width="{step * 0.33:.1f}" height="{size:.1f}">'
                f"<title>{record['window']}: {part} {record[part]:+.4f}</title></rect>"
            )
    axis = "".join(
        f'<text class="axis" x="{LEFT - 4}" y="{middle - 44 * sign + 4}">{sign * top:+.2f}</text>'
        for sign in (1, -1)
    )
    return (
        f'<svg class="plot" viewBox="0 0 {WIDTH} {height}" role="img" aria-label="change of HR@10: mix and within">'
        f'{axis}<line class="axis" x1="{LEFT}" x2="{WIDTH - 6}" y1="{middle}" y2="{middle}"/>{"".join(bars)}'
        f'{_labels(records, at, height - 4)}</svg><p><span class="key swatch mix">mix</span> '
        '<span class="key swatch within">within</span></p>'
    )
