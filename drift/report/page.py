"""The report as one HTML page without any reference to the outside."""

from __future__ import annotations

import html
from typing import Any

import numpy as np

from drift.cells.types import ALL_SIGNALS, COMPARISONS, OWN_TEST, REFERENCE
from drift.config import ALARMS
from drift.report.alibi_section import alibi_section
from drift.report.contents import Report
from drift.report.quality_section import quality_section
from drift.report.style import STYLE
from drift.signals.definitions import Signal

COLOURS = {
    "none": "ok",
    "noted": "noted",
    "drift": "drift",
    "severe": "severe",
    "undecided": "und",
    "error": "err",
}


def page(report: Report, layout: tuple[Signal, ...]) -> str:
    """Return the report as one HTML page without any reference to the outside."""
    own = [cell for cell in report.cells if cell["detector"] == OWN_TEST]
    parts = [
        f"<h1>{html.escape(report.headline)}</h1>",
        f'<p>Verdict <b class="{COLOURS[report.verdict]}">{report.verdict}</b>. Reference {report.reference[0]} to '
        f"{report.reference[-1]}, thresholds from {report.calibration[0]} to {report.calibration[-1]}, "
        f"{len(report.windows)} windows after the cut.</p>",
        "<h2>Inputs, all users against the reference</h2>",
        _legend(),
        _heat_map(report, layout, own),
        _windows_table(report),
        _events(report),
        quality_section(report.quality, report.known_events, COLOURS),
        "<h2>Distributions: reference (line) and last window (bars)</h2>",
        '<div class="grid">' + "".join(_histogram(signal, report) for signal in layout) + "</div>",
        "<h2>Controls and other comparisons</h2>",
        _comparisons(own),
        alibi_section(
            report.cells, {w["name"]: w["verdict"] for w in report.windows}, report.config["alpha"], COLOURS
        ),
        "<h2>Method and limits</h2>",
        _method(report),
    ]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" '
        f'content="width=device-width,initial-scale=1"><title>Drift</title><style>{STYLE}</style></head><body>'
        + "".join(parts)
        + "</body></html>\n"
    )


def _legend() -> str:
    names = ("none", "noted", "drift", "severe", "undecided", "error")
    return "<p>" + " ".join(f'<span class="key {COLOURS[name]}">{name}</span>' for name in names) + "</p>"


def _heat_map(report: Report, layout: tuple[Signal, ...], own: list[dict[str, Any]]) -> str:
    """Signal by window; the number is the effect in multiples of its threshold, details in the tooltip."""
    found = {(cell["signal"], cell["window"]): cell for cell in own if cell["comparison"] == REFERENCE}
    names = [window["name"] for window in report.windows]
    marks = {event["window"]: html.escape(event["name"]) for event in report.known_events}
    head = "".join(
        f'<th class="known" title="{marks[name]}"><span>{name}</span></th>'
        if name in marks
        else f"<th><span>{name}</span></th>"
        for name in names
    )
    lines = []
    for signal in layout:
        cells = "".join(
            _heat_cell(found.get((signal.name, name)) or found.get((ALL_SIGNALS, name))) for name in names
        )
        since = report.since.get(signal.name, "")
        lines.append(
            f'<tr><th title="{signal.about}">{signal.name}</th>{cells}<td class="since">{since}</td></tr>'
        )
    table = f"<tr><th></th>{head}<th>since</th></tr>{''.join(lines)}"
    return f'<div class="scroll"><table class="heat">{table}</table></div>'


def _heat_cell(cell: dict[str, Any] | None) -> str:
    if cell is None:
        return "<td></td>"
    if cell["status"] != "ok":
        return f'<td class="err" title="{html.escape(cell["error"] or cell["status"])}">!</td>'
    ratio = cell["effect"] / cell["threshold"]
    tip = (
        f"{cell['effect_name']} {cell['effect']:.3f} [{cell['effect_low']:.3f}, {cell['effect_high']:.3f}], threshold "
        f"{cell['threshold']:.3f}, shift {cell['shift']:+.3f}, p {cell['p']:.4f}, adjusted {cell['p_adj']:.4f}, users "
        f"{cell['n_users_ref']:,} and {cell['n_users_cur']:,}"
    )
    return f'<td class="{COLOURS[cell["severity"]]}" title="{tip}">{ratio:.1f}</td>'


def _windows_table(report: Report) -> str:
    lines = "".join(
        f"<tr><td>{w['name']}</td><td>{w['users']:,}</td><td>{w['new_users']:,}</td><td>{w['events']:,}</td><td>{_share(w['turnover'])}</td>"
        f'<td class="{COLOURS[w["verdict"]]}">{w["verdict"]}</td></tr>'
        for w in report.windows
    )
    past = report.past_turnover
    level = "" if past is None else f" Past windows: {past[0]:.2f} to {past[1]:.2f}."
    return (
        "<details open><summary>Users and events</summary><p>Turnover: share of the 100 items rated most, in the "
        f"window or in the year before it, that are not in both lists.{level}</p>"
        '<div class="scroll"><table><tr><th>window</th><th>users</th><th>new users</th><th>events</th>'
        f"<th>turnover</th><th>inputs</th></tr>{lines}</table></div></details>"
    )


def _share(value: float | None) -> str:
    return "none" if value is None else f"{value:.2f}"


def _events(report: Report) -> str:
    """List the known events; those inside the windows are marked in the plots too."""
    if not report.known_events:
        return ""
    lines = "".join(
        f"<li>{event['date']}: {html.escape(event['name'])} ({event['window'] or 'outside of the windows'})</li>"
        for event in report.known_events
    )
    return f"<h2>Known events</h2><ul>{lines}</ul>"


def _histogram(signal: Signal, report: Report) -> str:
    """One small plot; widths follow the number of bins."""
    ref, cur = (np.array(report.distributions[signal.name][side]) for side in ("reference", "last"))
    top = max(ref.max(), cur.max(), 1e-9)
    step = 240 / signal.size
    bars = "".join(
        f'<rect x="{b * step:.1f}" y="{80 - 76 * v / top:.1f}" width="{step * 0.85:.1f}" height="{76 * v / top:.1f}">'
        f"<title>{html.escape(signal.labels[b])}: {ref[b]:.3f} to {v:.3f}</title></rect>"
        for b, v in enumerate(cur)
    )
    tops = [(b, 80 - 76 * v / top) for b, v in enumerate(ref)]
    line = " ".join(f"{b * step:.1f},{y:.1f} {(b + 0.85) * step:.1f},{y:.1f}" for b, y in tops)
    return (
        f'<figure><figcaption><b>{signal.name}</b> {html.escape(signal.about)}</figcaption><svg viewBox="0 0 240 82" '
        f'role="img" aria-label="{signal.name}">{bars}<polyline points="{line}"/></svg>'
        f"<small>{html.escape(signal.labels[0])} to {html.escape(signal.labels[-1])}</small></figure>"
    )


def _comparisons(own: list[dict[str, Any]]) -> str:
    lines = []
    for name, about in COMPARISONS.items():
        mine = [cell for cell in own if cell["comparison"] == name]
        alarms = [c for c in mine if c["severity"] in ALARMS]
        smallest = min((c["p_adj"] for c in mine if c["p_adj"] is not None), default=None)
        low = "no test" if smallest is None else f"{smallest:.4f}"
        errors = sum(cell["status"] == "error" for cell in mine)
        lines.append(
            f"<tr><td>{name}</td><td>{about}</td><td>{len(mine)}</td><td>{len(alarms)}</td><td>{low}</td><td>{errors}</td></tr>"
        )
    return (
        '<div class="scroll"><table>'
        "<tr><th>comparison</th><th>what</th><th>cells</th><th>alarms</th><th>least adjusted p</th>"
        f"<th>errors</th></tr>{''.join(lines)}</table></div>"
    )


def _method(report: Report) -> str:
    return (
        "<p>The unit is the user: each user counts once a window, whole users are permuted "
        f"({report.config['permutations']} times), users on both sides exchange their two blocks. p is adjusted for "
        "all signals of a window (max-T) and for all windows (Holm). An alarm needs an adjusted p of at most "
        f"{report.config['alpha']} <i>and</i> an effect above what past windows differed by at the same distance in "
        f"time (and above a practical minimum). Below {report.config['min_users']} users a side the verdict is "
        "undecided. Adjustment holds for the comparison with the reference; the other comparisons "
        "explain and raise no alarm. A "
        "date is that of the best single step. Timestamps are times of rating, not of watching. The model was "
        f"{'examined' if report.model_verdict else 'not examined'}.</p>"
    )
