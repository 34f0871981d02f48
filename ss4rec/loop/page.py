"""The page of a watched model: what serves, what was decided last and why, and everything before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from drift.config import ALARMS
from ss4rec.loop.settings import WatchConfig
from ss4rec.report import Cell, Line, charts, render, write_page

QUESTIONS = {
    "pipeline": "Is the pipeline at fault?",
    "data": "Did the inputs change?",
    "unseen": "Is too much unknown to the model?",
    "model_fall": "Does the model rank worse?",
    "regret": "Is popularity better?",
}
TONES = {"look": "bad", "wait": "warn", "retrain": "s1", "nothing": ""}


def write_loop_page(path: Path, config: WatchConfig, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write the page from the journal."""
    write_page(path, loop_page(path.parent, config, rows))


def loop_page(base: Path, config: WatchConfig, rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the page.

    Args:
        base: the page's folder; links are relative to it.
        config: what is watched.
        rows: the journal, with at least one look and decision.
    """
    cycles = cycles_of(rows)
    last = cycles[-1]
    look, decided = last["look"], last["decide"]
    moved = last.get("promote")
    champion = moved["version"] if moved else look["champion"]
    verdicts = look.get("verdicts") or {}
    decision = f"{decided['action'].capitalize()}: {decided['reason']}"
    return render(
        "ss4rec.loop",
        "watch.html.j2",
        model=Path(config.model).name,
        headline=moved["reason"] if moved else decision,
        why=f"Why a challenger was trained. {decision}" if moved else "",
        champion="nothing serves yet" if champion is None else f"version {champion} serves",
        answers=[
            (question, Cell(verdicts[name], "bad" if verdicts[name] in ALARMS else ""))
            for name, question in QUESTIONS.items()
            if verdicts.get(name) is not None
        ],
        report=_link(base, look.get("report")),
        groups=_groups(last.get("compare")),
        metric=(last.get("compare") or {}).get("metric", ""),
        chart=_chart(cycles),
        history=[_row(cycle) for cycle in reversed(cycles)],
        clears=[(_time(row["at"]), row["window"], row["reason"]) for row in rows if row["step"] == "clear"],
    )


def cycles_of(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Mapping[str, Any]]]:
    """Return the steps of each cycle that has decided, the oldest first."""
    cycles: dict[str, dict[str, Mapping[str, Any]]] = {}
    for row in rows:
        if row["step"] != "clear":
            cycles.setdefault(row["cycle"], {})[row["step"]] = row
    return [cycle for cycle in cycles.values() if "decide" in cycle]


def _row(cycle: Mapping[str, Mapping[str, Any]]) -> list[Any]:
    look, decided, moved = cycle["look"], cycle["decide"], cycle.get("promote")
    trained = cycle.get("train")
    cost = "" if trained is None else f"{trained['how']}, {trained['seconds']:,.0f} s"
    windows = look["windows"]
    return [
        _time(look["at"]),
        windows[-1] if windows else "none",
        Cell(decided["action"], TONES[decided["action"]]),
        Cell(decided["reason"], "wrap"),
        cost,
        "" if moved is None else Cell("promoted" if moved["promoted"] else "kept", tip=moved["reason"]),
        str(moved["version"] if moved else look["champion"] or ""),
    ]


def _time(text: str) -> str:
    return text[:16].replace("T", " ")


def _groups(judged: Mapping[str, Any] | None) -> list[list[Any]]:
    if judged is None:
        return []
    return [
        [
            row["group"],
            row["users"],
            row["events"],
            round(row["champion"], 4),
            round(row["challenger"], 4),
            f"{row['low']:+.4f} to {row['high']:+.4f}",
            f"{row['p']:.3g}",
        ]
        for row in judged["rows"]
    ]


def _chart(cycles: Sequence[Mapping[str, Mapping[str, Any]]]) -> Any:
    """Draw the champion's HR@10 and that of popularity at each look; empty below two looks."""
    names = {"all.HR@10": ("champion", "s1"), "pop_rolling.HR@10": ("recent popularity", "s2")}
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    for number, cycle in enumerate(cycles, start=1):
        for name, points in found.items():
            value = (cycle["look"].get("quality") or {}).get(name)
            if value is not None:
                points.append((float(number), float(value)))
    lines = [
        Line(names[name][0], points, names[name][1]) for name, points in found.items() if len(points) > 1
    ]
    if not lines:
        return ""
    return charts.lines("HR@10 in the last window", "by look", lines)


def _link(base: Path, report: str | None) -> str:
    """Return the relative address of a report's page; empty without one."""
    if report is None:
        return ""
    path = Path(report) / "report.html"
    return path.relative_to(base).as_posix() if path.is_relative_to(base) else path.as_uri()
