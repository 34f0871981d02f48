"""Results of the recipe benchmark as headline figures and as a table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.recipe.rows import Measure, Training
from benchmarks.record import headline

Results = dict[str, dict[str, Any]]
"""What was measured, by training, then by seed or peer."""
HABITS = ("own frequent", "own recent")


def figures(one: Training, measure: Measure, results: Results) -> dict[str, Any] | None:
    """Return mean and half range over seeds of HR@10 and NDCG@10, and the peers' NDCG@10; None before a seed is done."""
    found = results.get(one.name, {})
    seeds = [run["tests"][measure.name]["metrics"] for name, run in found.items() if name.startswith("seed-")]
    if not seeds:
        return None
    shown: dict[str, Any] = {"seeds": len(seeds)}
    for key, name in (("hr", "HR@10"), ("ndcg", "NDCG@10")):
        values = np.array([seed[name] for seed in seeds])
        shown[key], shown[f"{key}_spread"] = float(values.mean()), float(np.ptp(values) / 2)
    shown["peers"] = {
        name: run["tests"][measure.name]["metrics"]["NDCG@10"]
        for name, run in found.items()
        if name != "baselines" and not name.startswith("seed-") and "tests" in run
    }
    counted = found.get("baselines", {}).get("tests", {}).get(measure.name, {})
    counted = {name: value["metrics"]["NDCG@10"] for name, value in counted.items()}
    if measure.against_peers:
        shown["peers"] |= {name: value for name, value in counted.items() if name in HABITS}
        hours = {name: value for name, value in counted.items() if name.endswith("now") and "hours" in name}
        if hours:
            best = max(hours, key=lambda name: hours[name])
            shown["peers"][best] = hours[best]
    elif counted:
        best = max(counted, key=lambda name: counted[name])
        shown["peers"][best] = counted[best]
    shown["ratio"] = shown["ndcg"] / max([*shown["peers"].values(), 1e-9])
    minutes = [run["seconds"] / 60 for name, run in found.items() if name.startswith("seed-")]
    shown["minutes"] = float(np.mean(minutes))
    return shown


def headlines(trainings: Sequence[Training], results: Results) -> list[dict[str, Any]]:
    """Return the headline figures of a record."""
    found = []
    for one in trainings:
        for measure in one.measures:
            shown = figures(one, measure, results)
            if shown is None:
                continue
            if measure.against_peers:
                found.append(
                    headline(f"recipe.{measure.name}", shown["ratio"], "NDCG@10 ratio", measure.goal_ndcg)
                )
            name = f"recipe.{measure.name.removesuffix('_ratio')}"
            goals = (None, None) if measure.against_peers else (measure.goal_hr, measure.goal_ndcg)
            found.append(headline(f"{name}.hr10", shown["hr"], "HR@10", goals[0], measure.published))
            found.append(headline(f"{name}.ndcg10", shown["ndcg"], "NDCG@10", goals[1], measure.published))
    return found


def markdown(trainings: Sequence[Training], results: Results) -> str:
    """Return the table."""
    lines = [
        "| data | goal | seeds | HR@10 | NDCG@10 | best published | in the same run, NDCG@10 | minutes each |",
        "|---|---|---:|---:|---:|---|---|---:|",
    ]
    for one in trainings:
        for measure in one.measures:
            shown = figures(one, measure, results)
            if shown is None:
                lines.append(f"| `{measure.name}` | | 0 | | | {measure.published} | | |")
                continue
            goal = f"{measure.goal_hr or ''} / {measure.goal_ndcg}".removeprefix(" / ")
            if measure.against_peers:
                goal = f"{measure.goal_ndcg} x the best ({shown['ratio']:.2f})"
            peers = ", ".join(f"{name} {value:.4f}" for name, value in sorted(shown["peers"].items()))
            lines.append(
                f"| `{measure.name}` | {goal} | {shown['seeds']} | {shown['hr']:.4f} ±{10_000 * shown['hr_spread']:.0f} "
                f"| {shown['ndcg']:.4f} ±{10_000 * shown['ndcg_spread']:.0f} | {measure.published} | {peers} "
                f"| {shown['minutes']:.1f} |"
            )
    return "\n".join(lines)
