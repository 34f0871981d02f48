"""The page of a comparison: who is better, by how much, for whom, and whether it is luck."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from markupsafe import Markup

from ss4rec.evaluation.compare import Comparison, Recipe, Row, words
from ss4rec.evaluation.run_page import LIST_WORDS, SEGMENT_LETTERS, facts, learning_curves, setting_words
from ss4rec.evaluation.saved import MODEL
from ss4rec.evaluation.segments import MIN_USERS
from ss4rec.report import Axis, Bar, Cell, Line, charts, render
from ss4rec.runs.folder import RunFolder

_HEAD = ("", "first", "second", "difference", "95 % interval", "relative", "p", "adjusted p")
_TONES = ("s1", "s2", "s3", "s4", "s5", "s6")


def comparison_page(found: Comparison) -> str:
    """Return the page."""
    pairs = list(dict.fromkeys((row.first, row.second) for row in found.rows))
    return render(
        "ss4rec.evaluation",
        "compare.html.j2",
        title=" and ".join(recipe.name for recipe in found.recipes),
        verdicts=verdicts(found),
        about=about(found),
        notes=found.notes,
        head=_HEAD,
        rows=[table_row(row) for row in found.rows],
        curves=_curves(found.recipes),
        segments=[(pair, found.metrics[0], _segments(found.segments, *pair)) for pair in pairs],
        lists=_lists(found.recipes),
        recipes=[
            (recipe.name, [(run.run.name, facts(run.run)) for run in recipe.runs]) for recipe in found.recipes
        ],
        min_users=MIN_USERS,
    )


def verdicts(found: Comparison) -> list[str]:
    """Say for each pair what was found: the first metric, and how many users that is."""
    said = []
    for first, second in dict.fromkeys((row.first, row.second) for row in found.rows):
        rows = [row for row in found.rows if (row.first, row.second) == (first, second)]
        shown = [row for row in rows if row.is_found] or rows[:1]
        shown.sort(key=lambda row: not row.metric.startswith("HR@"))
        said += [words(row) for row in shown[:2]]
    return said


def about(found: Comparison) -> str:
    """Say what was compared, and how far the answer reaches."""
    users = found.rows[0].difference.users
    seeds = [len(recipe.runs) for recipe in found.recipes]
    text = f"{users:,} users, each ranked by all; {setting_words(found.setting)}."
    if max(seeds) == 1:
        return (
            text
            + " One seed each: this says which of these models is better. For recipes, train several seeds."
        )
    return (
        text
        + f" Seeds: {', '.join(map(str, seeds))}; the spread between seeds is in the intervals and p values."
    )


def table_row(row: Row) -> list[Any]:
    """Return a comparison as cells."""
    d = row.difference
    relative = f"{d.relative:+.1%}" if d.first else "none"
    verdict = ("good" if d.mean > 0 else "bad") if row.is_found else ""
    return [
        f"{row.metric}, {row.second} less {row.first}",
        f"{d.first:.4f}",
        f"{d.second:.4f}",
        Cell(f"{d.mean:+.4f}", verdict),
        f"{d.low:+.4f} to {d.high:+.4f}",
        relative,
        f"{d.p:.4f}",
        f"{row.p_adjusted:.4f}",
    ]


def comparison_json(found: Comparison) -> dict[str, Any]:
    """Return everything as plain JSON values."""

    def plain(row: Row) -> dict[str, Any]:
        difference = asdict(row.difference) | {"mean": row.difference.mean}
        verdict = {"found": row.is_found, "too_small": row.too_small, "words": words(row)}
        return asdict(row) | {"difference": difference} | verdict

    return {
        "recipes": {recipe.name: [str(run.run) for run in recipe.runs] for recipe in found.recipes},
        "setting": {"seen": found.setting[0], "target_time": found.setting[1]},
        "notes": list(found.notes),
        "rows": [plain(row) for row in found.rows],
        "segments": [plain(row) for row in found.segments],
        "verdicts": verdicts(found),
    }


def _segments(rows: Sequence[Row], first: str, second: str) -> list[Markup]:
    """Return a chart of differences per segmentation of one pair, all on one axis."""
    own = [row for row in rows if (row.first, row.second) == (first, second)]
    large = [row.difference for row in own if not row.too_small]
    axis = Axis.around([end for d in large for end in (d.low, d.high)] or [0.0, 1.0], zero=True)
    return [
        charts.bars(
            name,
            "",
            [_bar(row, axis) for row in own if row.segmentation == name],
            axis=axis,
            letters=SEGMENT_LETTERS,
        )
        for name in dict.fromkeys(row.segmentation for row in own)
    ]


def _bar(row: Row, axis: Axis) -> Bar:
    d = row.difference
    mean, low, high = (min(max(value, axis.low), axis.high) for value in (d.mean, d.low, d.high))
    tone = "muted" if row.too_small or not row.is_found else "good" if d.mean > 0 else "bad"
    small = "; too few users to conclude anything" if row.too_small else f"; adjusted p {row.p_adjusted:.4f}"
    values = f"{d.first:.4f} and {d.second:.4f}, {d.mean:+.4f} ({d.low:+.4f} to {d.high:+.4f})"
    tip = f"{row.segment}: {values}, {d.users:,} users{small}"
    return Bar(row.segment, mean, f"{d.mean:+.3f} · {d.users:,}", tone, tip, low, high)


def _curves(recipes: Sequence[Recipe]) -> list[Markup]:
    """Return validation over epochs of every run; runs of one recipe have one colour."""
    lines = []
    for recipe, tone in zip(recipes, _TONES * len(recipes), strict=False):
        if recipe.scorer != MODEL:
            continue
        for run in recipe.runs:
            epochs = [row for row in RunFolder(run.run).metrics() if row.get("kind") == "epoch"]
            scored = [row for row in epochs if row.get("valid_ndcg@10") is not None]
            points = [(float(row["epoch"]), float(row["valid_ndcg@10"])) for row in scored]
            lines.append(Line(run.run.name, points, tone))
    if len(lines) == 1:
        epochs = [row for row in RunFolder(recipes[-1].runs[0].run).metrics() if row.get("kind") == "epoch"]
        return learning_curves(epochs)
    return (
        [charts.lines("Validation NDCG@10", "by epoch", lines)] if any(line.points for line in lines) else []
    )


def _lists(recipes: Sequence[Recipe]) -> dict[str, Any]:
    """Return the list metrics of every run."""
    found = {
        (recipe.name if recipe.scorer != MODEL else run.run.name): run.results[recipe.scorer].lists
        for recipe in recipes
        for run in recipe.runs
    }
    known = {name: lists for name, lists in found.items() if lists}
    names = list(dict.fromkeys(name for lists in known.values() for name in lists.metrics))
    rows = [[name, *(_short(lists.metrics.get(column)) for column in names)] for name, lists in known.items()]
    return {"head": ["run", *(Cell(name, "", LIST_WORDS.get(name, "")) for name in names)], "rows": rows}


def _short(value: float | None) -> str:
    return "none" if value is None else f"{value:.4g}"
