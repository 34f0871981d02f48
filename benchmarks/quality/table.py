"""From the results of single trainings to a table, headline figures and learning curves."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from benchmarks.record import headline
from ss4rec.evaluation.bootstrap import bootstrap_mean
from ss4rec.evaluation.evaluator import EvalResult, Seen, TargetTime, rank_column
from ss4rec.evaluation.metrics import Metric, hit_rate, ndcg

Result = dict[str, Any]
METRICS: tuple[Metric, ...] = (hit_rate, ndcg)
GOALS = {
    "quality.seen_kept": (("kept", "known"), (0.375, 0.225), "SS4Rec variant .3523 / .2153, published"),
    "quality.seen_excluded": (
        ("excluded", "known"),
        (0.430, 0.270),
        "HSTU-Tensorflow .3419 / .1944, published",
    ),
}
NO_TIME_GOAL = (0.360, 0.215)
NO_TIME_PEER = "SASRec with 3,000 negatives .3159 / .1857, published"
SETTINGS: tuple[tuple[Seen, TargetTime], ...] = (
    ("kept", "known"),
    ("excluded", "known"),
    ("excluded", "unknown"),
)


def save_ranks(run: Path, ranks: pa.Table) -> None:
    """Keep every user's ranks for intervals over seeds."""
    ranks = ranks.sort_by("user")
    columns = {name: ranks[name].to_numpy() for name in ranks.column_names}
    np.savez_compressed(run / "ranks.npz", **columns)


def merged(results: Sequence[Result], runs: Path) -> list[Result]:
    """Return one entry a row: means, half ranges and intervals over its seeds, and what each seed gave.

    `difference` is that of NDCG@10 (seen excluded, time known) to the first tested row, with a 95 % bootstrap interval
    over users who are the same on both sides.
    """
    groups: dict[str, list[Result]] = {}
    for result in results:
        groups.setdefault(result["name"], []).append(result)
    entries = [_merge(group, runs) for group in groups.values()]
    tested = [entry for entry in entries if "test" in entry]
    gains_XU = [_gains(_folders(entry["runs"], runs), "excluded", "known", ndcg) for entry in tested]
    for entry, gains_U in zip(tested[1:], gains_XU[1:], strict=True):
        gained_U = gains_U - gains_XU[0]
        entry["difference"] = {"mean": float(gained_U.mean()), "interval": bootstrap_mean(gained_U, seed=0)}
    return entries


def _merge(group: list[Result], runs: Path) -> Result:
    done = [result for result in group if "error" not in result]
    entry: Result = {"name": group[0]["name"], "row": group[0]["row"], "runs": group}
    if errors := [result["error"] for result in group if "error" in result]:
        entry["error"] = errors[0]
    curves = [result["curve"] for result in done if result.get("curve")]
    if curves:
        # The epoch is the one with the best validation NDCG@10, seen items kept.
        best = [max(curve, key=lambda line: line[3]) for curve in curves]
        entry["valid"] = {
            name: _spread([line[place] for line in best])
            for name, place in (("kept NDCG@10", 3), ("excluded NDCG@10", 4), ("excluded HR@10", 5))
        }
    tests = [EvalResult.model_validate(result["test"]) for result in done if "test" in result]
    if tests:
        entry["test"] = {
            f"{seen}, {known}, {metric.name}@10": _spread(
                [test.setting(seen, known).metrics[f"{metric.name}@10"] for test in tests]
            )
            | {"interval": bootstrap_mean(_gains(_folders(done, runs), seen, known, metric), seed=0)}
            for seen, known in SETTINGS
            for metric in METRICS
        }
    return entry


def _spread(values: list[float]) -> dict[str, float]:
    return {"mean": float(np.mean(values)), "half_range": (max(values) - min(values)) / 2}


def _folders(group: Sequence[Result], runs: Path) -> list[Path]:
    """Return the run folders of those that did not fail."""
    return [runs / f"{result['name']}-{result['seed']}" for result in group if "error" not in result]


def _gains(folders: list[Path], seen: Seen, known: TargetTime, metric: Metric) -> npt.NDArray[np.float64]:
    """Return every user's mean gain over seeds, `[U]`."""
    column = rank_column(seen, known)
    return np.mean([metric.gains(np.load(folder / "ranks.npz")[column], 10) for folder in folders], axis=0)


def headlines(entries: Sequence[Result], best: str | None, best_no_time: str | None) -> list[dict[str, Any]]:
    """Return the headline figures that the chosen rows give."""
    named = {entry["name"]: entry for entry in entries if "test" in entry}
    found: list[dict[str, Any]] = []
    if best in named:
        for prefix, ((seen, known), goals, peer) in GOALS.items():
            found += _pair(prefix, named[best], f"{seen}, {known}", goals, peer)
        done = [run for run in named[best]["runs"] if "error" not in run]
        passed = [run["passed"]["seconds"] for run in done if "passed" in run]
        if len(passed) == len(done):
            peer = f"{len(done)} seeds, from the start of the process; slowest {max(passed):.0f} s"
            found.append(headline("quality.seconds_to_0.2022", float(np.mean(passed)), "s", 60, peer))
        minutes = [run["seconds"] / 60 for run in done]
        peer = f"cold start to test ranks; {done[0]['runs_on_card']} runs shared a card"
        found.append(headline("quality.total_minutes", float(np.mean(minutes)), "minutes", 10, peer))
    if best_no_time in named:
        found += _pair(
            "quality.no_target_time", named[best_no_time], "excluded, unknown", NO_TIME_GOAL, NO_TIME_PEER
        )
    return found


def _pair(
    prefix: str, entry: Result, setting: str, goals: tuple[float, float], peer: str
) -> list[dict[str, Any]]:
    return [
        headline(
            f"{prefix}.{short}", entry["test"][f"{setting}, {metric.name}@10"]["mean"], "share", goal, peer
        )
        for short, metric, goal in zip(("hr10", "ndcg10"), METRICS, goals, strict=True)
    ]


def markdown(entries: Sequence[Result]) -> str:
    """Return the table as Markdown: means, half ranges over seeds; validation where the test was not looked at."""
    tested = any("test" in entry for entry in entries)
    pairs = [f"{seen}, {known}: HR / NDCG" for seen, known in SETTINGS] + [
        "95 % NDCG (excluded, known)",
        "to the first row",
    ]
    head = ["row", "seeds", "epochs", "minutes", "valid kept", "valid excluded", *(pairs if tested else [])]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for entry in entries:
        done = [run for run in entry["runs"] if "error" not in run]
        cells = [entry["name"], str(len(done))]
        if not done:
            lines.append(f"| {entry['name']} | failed: {entry['error'][-200:]!r} |")
            continue
        outcomes = [run["outcome"] for run in done if "outcome" in run]
        cells.append(f"{np.mean([o['best_epoch'] for o in outcomes]):.0f}" if outcomes else "")
        cells.append(f"{np.mean([run['seconds'] for run in done]) / 60:.1f}")
        valid = entry.get("valid")
        cells += [_cell(valid["kept NDCG@10"]), _cell(valid["excluded NDCG@10"])] if valid else ["", ""]
        if "test" in entry:
            for seen, known in SETTINGS:
                two = [entry["test"][f"{seen}, {known}, {metric.name}@10"] for metric in METRICS]
                cells.append(" / ".join(_cell(part) for part in two))
            low, high = entry["test"]["excluded, known, NDCG@10"]["interval"]
            cells.append(f"{_short(low)} to {_short(high)}")
            if difference := entry.get("difference"):
                low, high = difference["interval"]
                cells.append(f"{difference['mean']:+.4f} ({low:+.4f} to {high:+.4f})")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(spread: dict[str, float]) -> str:
    half = f" ±{spread['half_range'] * 1e4:.0f}" if spread["half_range"] else ""
    return _short(spread["mean"]) + half


def _short(value: float) -> str:
    return f"{value:.4f}".removeprefix("0")


def write_curves(name: str, entries: Sequence[Result], folder: Path) -> Path:
    """Take the curves out of the entries into a compact file of their own, and return its path."""
    curves = {
        f"{entry['name']}-{run['seed']}": run.pop("curve")
        for entry in entries
        for run in entry["runs"]
        if run.get("curve")
    }
    for entry in entries:
        for run in entry["runs"]:
            if "fingerprint" in run:
                run.pop("config", None)  # the row says it in one line; a peer's stays
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-curves-{datetime.now(UTC):%Y%m%d}.json"
    columns = ["epoch", "elapsed_s", "train_loss", "ndcg@10 kept", "ndcg@10 excluded", "hr@10 excluded"]
    path.write_text(json.dumps({"columns": columns, "curves": curves}) + "\n")
    return path
