"""Trains rows of an ablation on any number of cards and ranks the test items: `python -m benchmarks.quality --help`.

Each row is a preset with overrides (`benchmarks/quality/rows.py`), trained with each seed in a process of its own,
`--parallel` at a time on each card. The epoch is chosen on validation; test items are ranked once, after training. The
same command again takes what `--runs` holds of a row and seed as it is, and trains the rest.

CPU smoke test:  python -m benchmarks.quality table --data data/synthetic --group smoke --minutes 1 --seeds 1
"""

from __future__ import annotations

import json
import os
import queue
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch

from benchmarks.quality.rows import Row
from benchmarks.quality.rows import rows as rows_of
from benchmarks.quality.table import headlines, markdown, merged, save_ranks, write_curves
from benchmarks.record import device_name, write_record
from ss4rec.config import RunConfig
from ss4rec.evaluation.alone import rank_alone
from ss4rec.evaluation.evaluator import rank_column, summarise
from ss4rec.evaluation.metrics import ndcg
from ss4rec.io.atomic import write_json
from ss4rec.runs import checkpoint
from ss4rec.runs.folder import RunFolder
from ss4rec.runs.load import load_model, load_weights
from ss4rec.runs.provenance import git_commit
from ss4rec.train.loop import TrainLoop
from ss4rec.train.worker import loop_alone

PASSED = 0.2022
"""Test NDCG@10 (seen kept) of the official code, which a run should pass soon."""
KEPT_SNAPSHOTS = 12
"""Checkpoints kept from the first validation above `PASSED` on; the test is a little harder."""


@click.group()
def main() -> None:
    """Ablations of quality."""


@main.command()
@click.option("--data", type=click.Path(path_type=Path), required=True, help="Prepared folder.")
@click.option("--hashed", type=click.Path(path_type=Path), help="The same prepared with --ties hash.")
@click.option("--row", "texts", multiple=True, help='"NAME: PRESET FIELD=VALUE ..." or "PRESET ...".')
@click.option("--group", "groups", multiple=True, help="Rows of benchmarks/quality/rows.py.")
@click.option("--only", multiple=True, help="Names of the group's rows to run; by default all.")
@click.option("--seeds", default=3, show_default=True)
@click.option("--minutes", default=9.0, show_default=True, help="Most training time of each run.")
@click.option("--parallel", default=1, show_default=True, help="Runs at a time on each card.")
@click.option("--runs", type=click.Path(path_type=Path), default=Path("runs/quality"), show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=Path("benchmarks/results"), show_default=True)
@click.option("--name", default="quality", show_default=True, help="Name of the record.")
@click.option(
    "--test/--no-test", "ranks_test", default=True, help="Whether test items are looked at, at all."
)
@click.option("--gather", is_flag=True, help="Train nothing: the table of what --runs holds.")
@click.option("--best", help="Row whose means are the headline (target time known).")
@click.option("--best-no-time", help="Row whose means are the headline where target time is not known.")
def table(
    data: Path,
    hashed: Path | None,
    texts: tuple[str, ...],
    groups: tuple[str, ...],
    only: tuple[str, ...],
    seeds: int,
    minutes: float,
    parallel: int,
    runs: Path,
    out: Path,
    name: str,
    ranks_test: bool,
    gather: bool,
    best: str | None,
    best_no_time: str | None,
) -> None:
    """Train all rows and print the table."""
    chosen = [Row.parse(text) for text in texts] + [row for group in groups for row in rows_of(group)]
    chosen = [row for row in chosen if not only or row.name in only]
    folders = {"file": data, "hash": hashed}
    if not chosen or any(folders[row.ties] is None for row in chosen):
        raise click.UsageError("give rows (--row, --group), and --hashed if one of them has ties=hash")
    slots: queue.Queue[str] = queue.Queue()
    for card in visible_cards() * parallel:
        slots.put(card)

    def run(job: tuple[Row, int]) -> dict[str, Any]:
        row, seed = job
        if found := _kept(row, seed, folders[row.ties], runs, ranks_test):
            return found
        card = slots.get()
        try:
            found = _spawn(row, seed, folders[row.ties], minutes, runs, card, parallel, ranks_test)
        finally:
            slots.put(card)
        print(f"{row.name}, seed {seed}: {found.get('seconds', found.get('error'))}", flush=True)
        return found

    # Slow rows first would end sooner, but the order of a table is its own.
    jobs = [(row, seed) for row in chosen for seed in range(seeds if row.preset != "peer" else 1)]
    if gather:
        jobs = [(row, seed) for row, seed in jobs if _kept(row, seed, folders[row.ties], runs, ranks_test)]
    with ThreadPoolExecutor(slots.qsize()) as pool:
        results = merged(list(pool.map(run, jobs)), runs)
    curves = write_curves(name, results, out)
    print(f"curves: {curves}")
    devices = sorted({run["device"] for row in results for run in row["runs"] if "device" in run})
    found = headlines(results, best, best_no_time)
    print(write_record(name, results, found, out, ", ".join(devices) or None))
    print(markdown(results))


def visible_cards() -> list[str]:
    """Return the cards that this process may use, as CUDA_VISIBLE_DEVICES names them; one slot where there is none."""
    named = [card.strip() for card in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if card.strip()]
    return named or [str(card) for card in range(max(1, torch.cuda.device_count()))]


@main.command()
@click.argument("text")
@click.option("--data", type=click.Path(path_type=Path), required=True)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--minutes", type=float, default=9.0, show_default=True)
@click.option("--runs", type=click.Path(path_type=Path), default=Path("runs/quality"), show_default=True)
@click.option("--test/--no-test", "ranks_test", default=True)
@click.option("--began", type=float, help="Unix time of the cold start; by default now.")
@click.option("--runs-on-card", default=1, show_default=True, help="How many share the card, for the record.")
def one(
    text: str,
    data: Path,
    seed: int,
    minutes: float,
    runs: Path,
    ranks_test: bool,
    began: float | None,
    runs_on_card: int,
) -> None:
    """Train and evaluate one row with one seed; its record is written into the run folder."""
    began = began or time.time()
    row = Row.parse(text)
    run = runs / f"{row.name}-{seed}"
    if row.preset == "peer":
        from benchmarks.quality.peers import run_peer

        fields = run_peer(row, data, run, seed, minutes, ranks_test)
    else:
        fields = _train(row.config(seed, minutes), data, run, began, ranks_test)
    fields |= {"name": row.name, "row": row.text, "seed": seed, "data": data.name}
    fields |= {"runs_on_card": runs_on_card}
    fields |= {"seconds": round(time.time() - began, 1), "commit": git_commit(), "device": device_name()}
    write_json(run / "quality.json", fields)


def _train(config: RunConfig, data: Path, run: Path, began: float, ranks_test: bool) -> dict[str, Any]:
    """Train; then, and not before, look at the test items."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with loop_alone(config, data, run, device) as loop:
        passing = _epochs(loop, run, began)
        outcome = loop.outcome().as_dict()
    folder = RunFolder(run)
    fields: dict[str, Any] = {
        "fingerprint": config.fingerprint(),
        "config": config.model_dump(mode="json"),
        "outcome": outcome,
        "parameters": folder.record().num_parameters,
        "backends": folder.record().backends,
        "trained_s": round(time.time() - began, 1),
        "events_per_s": _events_per_s(folder),
        "curve": _curve(folder),
    }
    if device.type == "cuda":
        fields["peak_gib"] = round(torch.cuda.max_memory_reserved() / 2**30, 2)
    if not ranks_test:
        return fields
    model, _ = load_model(run, str(device))
    ranks = rank_alone(model, config, run, data)
    save_ranks(run, ranks)
    fields["test"] = summarise(ranks, config.evaluation.ks).model_dump(mode="json")
    for snapshot in passing:
        load_weights(model, checkpoint.read(snapshot["path"]))
        kept_U = rank_alone(model, config, run, data)[rank_column("kept", "known")].to_numpy()
        score = ndcg(kept_U, 10)
        if score >= PASSED:
            fields["passed"] = {key: snapshot[key] for key in ("epoch", "seconds", "valid")} | {"test": score}
            break
    return fields


def _epochs(loop: TrainLoop, run: Path, began: float) -> list[dict[str, Any]]:
    """Train to the end; keep the first checkpoints whose validation passes `PASSED`, with their seconds."""
    passing: list[dict[str, Any]] = []
    for metrics in loop.epochs():
        score = metrics.get("valid_ndcg@10", 0.0)
        if score < PASSED or len(passing) == KEPT_SNAPSHOTS or metrics["epoch"] != loop.outcome().best_epoch:
            continue
        seconds = round(time.time() - began, 2)
        best = checkpoint.best(loop.folder.checkpoints)
        path = run / "passing" / best.path.name
        shutil.copytree(best.path, path)
        passing.append({"epoch": metrics["epoch"], "seconds": seconds, "valid": score, "path": path})
    return passing


def _curve(folder: RunFolder) -> list[list[float]]:
    """Return epoch, seconds of training, loss, and validation NDCG@10 with seen items kept and excluded."""
    names = (
        "epoch",
        "elapsed_s",
        "train_loss",
        "valid_ndcg@10",
        "valid_ndcg@10_unseen",
        "valid_hr@10_unseen",
    )
    lines = [row for row in folder.metrics() if row["kind"] == "epoch" and "valid_ndcg@10" in row]
    return [[round(line[name], 5) for name in names] for line in lines]


def _events_per_s(folder: RunFolder) -> float:
    """Return the median over epochs of the targets trained on in a second."""
    return float(np.median([row["events_per_s"] for row in folder.metrics() if row["kind"] == "epoch"]))


def _kept(row: Row, seed: int, data: Path | None, runs: Path, ranks_test: bool) -> dict[str, Any] | None:
    """Return what an earlier command found for this row, seed and data, if it came to an end.

    One that looked at test items is no answer to one that must not, nor the other way round.
    """
    path = runs / f"{row.name}-{seed}" / "quality.json"
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    if not found or data is None:
        return None
    same = (found["row"], found["data"], "test" in found) == (row.text, data.name, ranks_test)
    return found if same else None


def _spawn(
    row: Row,
    seed: int,
    data: Path | None,
    minutes: float,
    runs: Path,
    card: str,
    runs_on_card: int,
    ranks_test: bool,
) -> dict[str, Any]:
    """Run `one` in a process of its own on one card, return what it wrote."""
    began = time.time()
    log = runs / f"{row.name}-{seed}.log"
    # A training that was cut off would be continued, and its seconds would not be those of a cold start.
    shutil.rmtree(runs / f"{row.name}-{seed}", ignore_errors=True)
    log.parent.mkdir(parents=True, exist_ok=True)
    options = {"data": data, "seed": seed, "minutes": minutes, "runs": runs, "began": began}
    options |= {"runs-on-card": runs_on_card}
    command = [sys.executable, "-m", "benchmarks.quality", "one", row.text]
    command += [word for name, value in options.items() for word in (f"--{name}", str(value))]
    command.append("--test" if ranks_test else "--no-test")
    with log.open("w") as file:
        code = subprocess.run(
            command,
            stdout=file,
            stderr=subprocess.STDOUT,
            check=False,
            env=os.environ | {"CUDA_VISIBLE_DEVICES": card},
        ).returncode
    if code != 0:
        return {"name": row.name, "row": row.text, "seed": seed, "error": log.read_text()[-800:]}
    found: dict[str, Any] = json.loads((runs / f"{row.name}-{seed}" / "quality.json").read_text())
    return found


if __name__ == "__main__":
    main()
