"""Trains rows of an ablation on one device and ranks the test items: `python benchmarks/quality.py --help`.

Each row is a preset with overrides, trained with each seed in a process of its own, `--parallel` at a time on one
card. The epoch is chosen on validation; test items are ranked once, after training.

CPU smoke test:  python benchmarks/quality.py --data data/synthetic --row debug --minutes 1 --seeds 1
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.record import headline, write_record
from ss4rec.cli.options import resolve_config
from ss4rec.evaluation.evaluator import EvalResult
from ss4rec.runs import RunFolder, write_json
from ss4rec.train.session import evaluate_alone, train_alone

GOALS = {
    "quality.seen_kept.hr10": ("kept", "known", "HR@10", 0.375),
    "quality.seen_kept.ndcg10": ("kept", "known", "NDCG@10", 0.225),
    "quality.seen_excluded.hr10": ("excluded", "known", "HR@10", 0.430),
    "quality.seen_excluded.ndcg10": ("excluded", "known", "NDCG@10", 0.270),
}


@click.group()
def main() -> None:
    """Ablations of quality on one device."""


@main.command()
@click.option("--data", type=click.Path(path_type=Path), required=True)
@click.option(
    "--row", "rows", multiple=True, required=True, help='"NAME: PRESET FIELD=VALUE ..." or "PRESET ...".'
)
@click.option("--seeds", default=3, show_default=True)
@click.option("--minutes", default=7.0, show_default=True, help="Training time of each run.")
@click.option("--parallel", default=5, show_default=True)
@click.option("--runs", type=click.Path(path_type=Path), default=Path("runs/quality"), show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=Path("benchmarks/results"), show_default=True)
@click.option("--best", help="Row whose means are the headline.")
def table(
    data: Path,
    rows: tuple[str, ...],
    seeds: int,
    minutes: float,
    parallel: int,
    runs: Path,
    out: Path,
    best: str | None,
) -> None:
    """Train all rows and print the table."""
    jobs = [(row, seed) for row in rows for seed in range(seeds)]
    with ThreadPoolExecutor(parallel) as pool:
        results = list(pool.map(lambda job: _spawn(data, *job, minutes, runs, parallel), jobs))
    write_record("quality", results, _headlines(results, best), out)
    Console(width=150).print(_table(results))


@main.command()
@click.argument("row")
@click.option("--data", type=click.Path(path_type=Path), required=True)
@click.option("--seed", type=int, required=True)
@click.option("--minutes", type=float, required=True)
@click.option("--runs", type=click.Path(path_type=Path), required=True)
def one(row: str, data: Path, seed: int, minutes: float, runs: Path) -> None:
    """Train and evaluate one row with one seed; its record is written into the run folder."""
    name, preset, changes = _parse(row)
    fixed = [
        f"train.seed={seed}",
        f"train.max_minutes={minutes}",
        "tracking.wandb=disabled",
        "train.status_every_s=30",
    ]
    config = resolve_config(preset, [*fixed, *changes])
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    run = runs / f"{name}-{seed}"
    outcome = train_alone(config, data, run, device)
    result = evaluate_alone(run, data, device)
    folder = RunFolder(run)
    curve = [row for row in folder.metrics() if row["kind"] == "epoch"]
    fields: dict[str, Any] = {"name": name, "row": row, "seed": seed, "fingerprint": config.fingerprint()}
    fields |= {"outcome": outcome.as_dict(), "parameters": folder.record().num_parameters, "curve": curve}
    fields |= {"backends": folder.record().backends, "test": result.model_dump(mode="json")}
    write_json(run / "quality.json", fields)


def _spawn(data: Path, row: str, seed: int, minutes: float, runs: Path, parallel: int) -> dict[str, Any]:
    """Run `one` in a process of its own, return what it wrote."""
    began = time.monotonic()
    name, _, _ = _parse(row)
    log = runs / f"{name}-{seed}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [
        sys.executable,
        "-m",
        "benchmarks.quality",
        "one",
        row,
        "--data",
        str(data),
        "--seed",
        str(seed),
    ]
    command += ["--minutes", str(minutes), "--runs", str(runs)]
    with log.open("w") as file:
        code = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, check=False).returncode
    if code != 0:
        return {"name": name, "row": row, "seed": seed, "error": log.read_text()[-800:]}
    found = json.loads((runs / f"{name}-{seed}" / "quality.json").read_text())
    return found | {"seconds": round(time.monotonic() - began, 1), "runs_on_card": parallel}


def _parse(row: str) -> tuple[str, str, list[str]]:
    """Split a row into its name, its preset and its overrides."""
    name, colon, rest = row.partition(":")
    preset, *changes = (rest if colon else row).split()
    return name.strip().replace(" ", "-") if colon else preset, preset, changes


def _value(result: dict[str, Any], seen: str, known: str, metric: str) -> float:
    return EvalResult.model_validate(result["test"]).setting(seen, known).metrics[metric]  # type: ignore[arg-type]


def _headlines(results: list[dict[str, Any]], best: str | None) -> list[dict[str, Any]]:
    chosen = [result for result in results if result["name"] == best and "test" in result]
    if not chosen:
        return []
    peer = "SS4Rec variant .3523/.2153 (seen kept), HSTU-Tensorflow .3419/.1944 (seen excluded), published"
    return [
        headline(
            name,
            float(np.mean([_value(result, *setting[:3]) for result in chosen])),
            "share",
            setting[3],
            peer,
        )
        for name, setting in GOALS.items()
    ]


def _table(results: list[dict[str, Any]]) -> Table:
    """One line a row: mean and spread over its seeds."""
    columns = [
        "row",
        "seeds",
        "epochs",
        "minutes",
        *(f"{s}, {k}: {m}" for s, k, m, _ in GOALS.values()),
    ]
    table = Table(
        *columns, title="Test metrics at 10, mean ± half range over seeds; epoch chosen on validation"
    )
    for name in dict.fromkeys(result["name"] for result in results):
        group = [result for result in results if result["name"] == name]
        done = [result for result in group if "test" in result]
        if not done:
            table.add_row(name, "failed", group[0]["error"][-100:])
            continue
        settings = [setting[:3] for setting in GOALS.values()]
        cells = [_spread([_value(result, *setting) for result in done]) for setting in settings]
        epochs = _spread([result["outcome"]["epochs"] for result in done], digits=0)
        minutes = f"{np.mean([result['outcome']['elapsed_s'] for result in done]) / 60:.1f}"
        table.add_row(name, str(len(done)), epochs, minutes, *cells)
    return table


def _spread(values: list[float], digits: int = 4) -> str:
    half = (max(values) - min(values)) / 2
    return f"{np.mean(values):.{digits}f}" + (f" ± {half:.{digits}f}" if len(values) > 1 else "")


if __name__ == "__main__":
    main()
