"""RUN/report.html: what a run was trained on, how it learned, how good it is, for whom, and what it recommends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from ss4rec.errors import UsageError
from ss4rec.evaluation.evaluator import SETTINGS, EvalResult, Seen, TargetTime
from ss4rec.evaluation.saved import MODEL, SavedEvaluation, load_evaluation, saved_evaluations
from ss4rec.evaluation.segments import METRIC, MIN_USERS, SegmentRow, segments_by
from ss4rec.io.untrusted import read_json
from ss4rec.report import Axis, Bar, Cell, Line, Mark, charts, render, write_page
from ss4rec.runs.folder import RESULT_FILE, RunFolder

PAGE = "report.html"
K = 10
EXAMPLES = 6
SEGMENT_LETTERS = (21, 14)
"""Room for names of segments and for their figures: the same in all charts, so that bars can be compared."""
_WORDS = {
    "kept": "seen items kept", "excluded": "seen items excluded", "known": "target time known",
    "unknown": "target time unknown",
}  # fmt: skip
_PARTS = (
    ("train_rows", "train_users", "", "up to the cut"),
    ("later_events", "later_users", "", "after it"),
    ("fit_rows", "fit_users", "", "train"),
    ("valid_targets", "valid_users", "valid_cold_targets", "choose the model"),
    ("test_targets", "test_users", "test_cold_targets", "test"),
)
"""Numbers of a division: events, their users, those on items that never trained, and what they do."""
LIST_WORDS = {
    "coverage": "fraction of all items that anybody is shown",
    "Gini": "how unequally items are shown: 0 all the same, 1 one item only",
    "entropy": "how evenly places go to items, in nats",
    "personalisation": "1 - overlap of two users' lists",
    "popularity": "mean training events of an item on a list",
    "novelty": "how few users know an item on a list, in bits",
    "serendipity": "hits that popularity would not have made",
    "diversity": "how different the genres of two items on a list are",
    "miscalibration": "distance of a list's genres from the history's (KL, 0 is the same)",
}


def write_run_page(run: Path, name: str | None = None, metric: str = METRIC) -> Path:
    """Write the page of a run into its folder and return its path; see `run_page`."""
    write_page(run / PAGE, run_page(run, name, metric))
    return run / PAGE


def run_page(run: Path, name: str | None = None, metric: str = METRIC) -> str:
    """Return a run's page; parts that the run does not have (yet) are left out.

    Args:
        run: the run folder.
        name: which evaluation; None: `test`, or the first that there is.
        metric: by which segments are measured.

    Raises:
        DataError: if it is no run folder, or has no such evaluation.
        UsageError: if there is no such metric.
    """
    folder = RunFolder.open(run)
    names = saved_evaluations(run)
    saved = load_evaluation(run, name or names[0]) if name or names else None
    epochs = [row for row in folder.metrics() if row.get("kind") == "epoch"]
    parts: dict[str, Any] = {"results": None, "segments": [], "examples": [], "lists": None}
    if saved:
        parts |= {
            "results": results_part(saved),
            "segments": segment_charts(saved, metric),
            "examples": examples(saved),
            "lists": lists_part(saved.results),
        }
    return render(
        "ss4rec.evaluation",
        "run.html.j2",
        name=run.name,
        headline=headline(run, saved),
        facts=facts(run),
        curves=learning_curves(epochs),
        speed=speed(run, saved),
        min_users=MIN_USERS,
        segment_metric=metric,
        list_words=LIST_WORDS,
        **parts,
    )


def setting_words(setting: tuple[Seen, TargetTime]) -> str:
    """Return a setting as words, as `seen items kept, target time known`."""
    return ", ".join(_WORDS[part] for part in setting)


def headline(run: Path, saved: SavedEvaluation | None) -> str:
    """Say the result in one sentence."""
    if saved is None:
        return f"{run.name}: not evaluated yet"
    values = {name: result.setting(*saved.setting).metrics for name, result in saved.results.items()}
    key = f"NDCG@{K}"
    model = values.pop(MODEL)
    text = f"{run.name}: HR@{K} {model[f'HR@{K}']:.4f}, {key} {model[key]:.4f}"
    if values:
        best = max(values, key=lambda name: values[name][key])
        text += f"; best baseline ({best}) {values[best][f'HR@{K}']:.4f} and {values[best][key]:.4f}"
    return text


def facts(run: Path) -> list[tuple[str, str]]:
    """Return what was trained on what, as pairs of name and text."""
    folder = RunFolder.open(run)
    config = folder.config()
    found = [("configuration", f"{config.preset}, {config.fingerprint()[:12]}, seed {config.train.seed}")]
    setting = setting_words((config.protocol.seen, config.protocol.target_time))
    found.append(("protocol", f"{config.protocol.name} ({setting})"))
    try:
        record = folder.record()
    except Exception:  # a run that stopped before its record was written has a page too
        return found
    size = f"{record.num_users:,} users, {record.num_items:,} items, {record.num_interactions:,} events"
    found += [
        ("data", f"{record.data_name}: {size}"),
        *([("division", division_words(record.division))] if record.division else []),
        (
            "model",
            f"{record.num_parameters:,} parameters, width {config.model.dim}, {config.model.blocks} blocks",
        ),
        ("trained", f"{record.created} on {record.workers} x {record.device}"),
        ("code", f"commit {(record.commit or 'unknown')[:12]}; torch {record.versions.get('torch', '?')}"),
    ]
    return found


def division_words(division: Mapping[str, int]) -> str:
    """Say how many events train, choose the model and test (`Plan.facts`), and with a cut how many lie on each side."""
    parts = []
    for events, users, cold, verb in _PARTS:
        if number := division.get(events):
            of = f" of {division[users]:,} users" if users in division else ""
            never = f", {division[cold]:,} of items that never trained" if division.get(cold) else ""
            parts.append(f"{number:,} events{of} {verb}{never}")
    return "; ".join(parts)


def learning_curves(epochs: Sequence[dict[str, Any]]) -> list[Markup]:
    """Return charts over epochs: loss, validation, speed."""

    def line(field: str, name: str, tone: str) -> Line:
        points = [(float(row["epoch"]), float(row[field])) for row in epochs if row.get(field) is not None]
        return Line(name, points, tone)

    wanted = [
        ("Loss", "mean training loss by epoch", [line("train_loss", "training loss", "s1")]),
        (
            "Validation",
            "by epoch; the best epoch by NDCG@10 is what is tested",
            [
                line("valid_hr@10", "HR@10", "s2"),
                line("valid_ndcg@10", "NDCG@10", "s1"),
                line("valid_mrr@10", "MRR@10", "s3"),
            ],
        ),
        ("Speed", "training events per second by epoch", [line("events_per_s", "events/s", "s1")]),
    ]  # fmt: skip
    return [charts.lines(*chart) for chart in wanted if any(row.points for row in chart[2])]


def results_part(saved: SavedEvaluation) -> dict[str, Any]:
    """Return the chart and the table of metrics of all scorers."""
    results, key = saved.results, f"NDCG@{K}"
    users = results[MODEL].num_users
    bars = []
    for name, result in results.items():
        setting = result.setting(*saved.setting)
        low, high = setting.intervals.get(key, (None, None))
        tip = f"{name}: {key} {setting.metrics[key]:.4f}" + (f" ({low:.4f} to {high:.4f})" if low else "")
        tone = "s1" if name == MODEL else "muted"
        bars.append(Bar(name, setting.metrics[key], f"{setting.metrics[key]:.4f}", tone, tip, low, high))
    return {
        "setting": setting_words(saved.setting),
        "about": f"{saved.record.split} events of {users:,} users, ranked among {saved.record.num_items:,} items",
        "chart": charts.bars(key, f"{setting_words(saved.setting)}; lines are 95 % intervals over users", bars),
        "head": ["seen items", "target time", "scorer", *_columns(results)],
        "rows": [
            [*setting, name, *(_metric(result, setting, column) for column in _columns(results))]
            for setting in SETTINGS
            for name, result in results.items()
        ],
    }  # fmt: skip


def saved_segments(saved: SavedEvaluation, metric: str) -> list[list[SegmentRow]]:
    """Return a metric of the model in every segment, one list for each way to divide the ranked events.

    Raises:
        UsageError: if there is no such metric.
    """
    try:
        return segments_by(metric, saved.ranks_of(), saved.targets, saved.items)
    except ValueError as error:
        raise UsageError(str(error)) from None


def segment_charts(saved: SavedEvaluation, metric: str = METRIC) -> list[Markup]:
    """Return a chart of a metric per segmentation, all on one axis; segments that are too small are grey."""
    divided = saved_segments(saved, metric)
    ends = [row.high for rows in divided for row in rows if not row.too_small]
    axis = Axis.around(ends or [1.0], zero=True)
    return [
        charts.bars(
            rows[0].segmentation,
            "",
            [_segment_bar(row, axis) for row in rows],
            axis=axis,
            letters=SEGMENT_LETTERS,
        )
        for rows in divided
    ]


def lists_part(results: dict[str, EvalResult]) -> dict[str, Any] | None:
    """Return the table of list metrics and the chart of exposure."""
    lists = {name: result.lists for name, result in results.items() if result.lists}
    if MODEL not in lists:
        return None
    model = lists[MODEL]
    names = list(model.metrics)
    marks = [
        Mark(n - 1, share, "s1", f"tenth {n}: {share:.1%} of places, {trained:.1%} of training events")
        for n, (share, trained) in enumerate(zip(model.exposure, model.training, strict=True), start=1)
    ]
    outline = [(float(n), share) for n, share in enumerate(model.training)]
    return {
        "k": model.k,
        "head": ["scorer", *(Cell(name, "", LIST_WORDS[name]) for name in names)],
        "rows": [
            [name, *(_number(found.metrics.get(column)) for column in names)] for name, found in lists.items()
        ],
        "chart": charts.columns(
            "Exposure",
            "fraction of all places by tenth of the items, the most popular first; the line: of training events",
            marks,
            x=Axis.of([f"{n}" for n in range(1, len(marks) + 1)]),
            outline=outline,
        ),
        "words": [(name, LIST_WORDS[name]) for name in names],
    }


def examples(saved: SavedEvaluation, count: int = EXAMPLES) -> list[dict[str, Any]]:
    """Return a few users: the end of the history, what was recommended, and what they did.

    They are spread evenly from the best rank to the worst, so that failures are shown as well as hits.
    """
    ranks_N = saved.ranks_of()
    titles = ["", *_titles(saved)]
    places = np.linspace(0, len(ranks_N) - 1, min(count, len(ranks_N))).astype(int)
    found = []
    for row in np.argsort(ranks_N, kind="stable")[places].tolist():
        target = saved.targets["target"][row].as_py()
        recommended = [item for item in saved.ranks["list"][row].as_py() if item]
        pause_s = saved.targets["target_time"][row].as_py() - saved.targets["last_time"][row].as_py()
        found.append(
            {
                "user": saved.targets["user"][row].as_py(),
                "history": saved.targets["history"][row].as_py(),
                "recent": [titles[item] for item in saved.ranks["recent"][row].as_py() if item],
                "recommended": [(titles[item], item == target) for item in recommended],
                "target": titles[target] if target else "an item that never trained",
                "rank": ranks_N[row],
                "pause": pause_words(pause_s),
            }
        )
    return found


def pause_words(pause_s: int) -> str:
    """Return a time span as words, as `3 days later`."""
    for size, name in (
        (86_400 * 365, "year"),
        (86_400, "day"),
        (3600, "hour"),
        (60, "minute"),
        (1, "second"),
    ):
        if pause_s >= size:
            count = pause_s // size
            return f"{count:,} {name}{'s' if count > 1 else ''} later"
    return "in the same second"


def speed(run: Path, saved: SavedEvaluation | None) -> list[tuple[str, str]]:
    """Return what training and ranking cost, as pairs of name and text."""
    folder = RunFolder.open(run)
    rows = folder.metrics()
    epochs = [row for row in rows if row.get("kind") == "epoch"]
    status = [row for row in rows if row.get("kind") == "status"]
    found = []
    if epochs:
        elapsed_s = epochs[-1].get("elapsed_s") or 0.0
        trained = sum(row["epoch"] > 0 for row in epochs)  # 0: the first weights of a warm start
        found.append(("training", f"{trained} epochs in {_span(elapsed_s)}"))
        workers = folder.config().resources.workers
        found.append(
            ("cost", f"{workers * elapsed_s / 3600:.3g} worker hours ({workers} x {_span(elapsed_s)})")
        )
    if status:
        step_ms = float(np.median([row["step_ms"] for row in status]))
        found.append(("median step", f"{step_ms:.1f} ms"))
        found.append(("data wait", f"{np.mean([row['data_wait_share'] for row in status]):.1%} of the time"))
        found.append(("peak memory", f"{max(row['memory_gib'] for row in status):.2f} GiB"))
    if saved:
        found.append(("ranking", f"{_span(saved.record.seconds)} for the model and all baselines"))
    path = run / RESULT_FILE
    ended = read_json(path).get("training", {}).get("ended") if path.is_file() else None
    return found + ([("ended", str(ended))] if ended else [])


def _span(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 60 else str(timedelta(seconds=round(seconds)))


def _columns(results: dict[str, EvalResult]) -> list[str]:
    return list(results[MODEL].settings[0].metrics)


def _metric(result: EvalResult, setting: tuple[Seen, TargetTime], name: str) -> Cell | str:
    found = result.setting(*setting)
    value = found.metrics.get(name)
    if value is None:
        return ""
    ends = found.intervals.get(name)
    return Cell(f"{value:.4f}", "", f"95 %: {ends[0]:.4f} to {ends[1]:.4f}" if ends else "")


def _segment_bar(row: SegmentRow, axis: Axis) -> Bar:
    small = f"; fewer than {MIN_USERS} users: too small to conclude anything" if row.too_small else ""
    tip = f"{row.label}: {row.value:.4f} ({row.low:.4f} to {row.high:.4f}), {row.users:,} users{small}"
    tone = "muted" if row.too_small else "s1"
    value, high = min(row.value, axis.high), min(row.high, axis.high)
    return Bar(row.label, value, f"{row.value:.3f} · {row.users:,}", tone, tip, min(row.low, axis.high), high)


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _titles(saved: SavedEvaluation) -> list[str]:
    ids, titles = (saved.items[name].to_pylist() for name in ("source_id", "title"))
    return [title or f"item {item}" for item, title in zip(ids, titles, strict=True)]
