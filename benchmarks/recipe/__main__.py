"""Trains `auto` on every data set and prints one table: `python -m benchmarks.recipe --data FOLDER`.

`FOLDER` holds the prepared data sets by name (docs/recipe.md says how they are made). Every training is what `ss4rec train
--data D --minutes 4 --protocol P` trains, in a process of its own without Ray, choosing included; nothing else is set but
the seed. The same command goes on where it stopped. CPU smoke test: `--only NAME --seeds 1 --minutes 0.5`.
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

from benchmarks.quality.__main__ import visible_cards
from benchmarks.recipe.rows import TRAININGS, Training, training
from benchmarks.recipe.table import headlines, markdown
from benchmarks.record import device_name, write_record
from ss4rec.io.atomic import write_json
from ss4rec.runs.provenance import git_commit

BASELINES = "baselines"


@click.group(invoke_without_command=True)
@click.option("--data", type=click.Path(path_type=Path), required=True, help="Folder of prepared data sets.")
@click.option("--runs", type=click.Path(path_type=Path), default=Path("runs/recipe"), show_default=True)
@click.option("--minutes", default=4.0, show_default=True)
@click.pass_context
def main(context: click.Context, data: Path, runs: Path, minutes: float) -> None:
    """The recipe on every data set."""
    context.obj = (data, runs, minutes)
    if context.invoked_subcommand is None:
        context.invoke(table)


@main.command()
@click.option("--seeds", default=3, show_default=True)
@click.option("--only", multiple=True, help="Names of trainings; by default all.")
@click.option("--parallel", default=3, show_default=True, help="Trainings at a time on each card.")
@click.option("--peers/--no-peers", default=True, show_default=True)
@click.option("--gather", is_flag=True, help="Train nothing: the table of what --runs holds.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("benchmarks/results"), show_default=True)
@click.option("--limit-s", type=float, help="Begin no training that could not end within this many seconds.")
@click.pass_obj
def table(
    settings: tuple[Path, Path, float],
    seeds: int,
    only: tuple[str, ...],
    parallel: int,
    peers: bool,
    gather: bool,
    out: Path,
    limit_s: float | None,
) -> None:
    """Train what is missing, then print the table and write the record."""
    data, runs, minutes = settings
    chosen = [one for one in TRAININGS if not only or one.name in only]
    jobs = [(one.name, f"seed-{seed}") for seed in range(seeds) for one in chosen]
    if peers:
        jobs += [(one.name, peer) for one in chosen for peer in one.peers]
    jobs += [(one.name, BASELINES) for one in chosen]
    if not gather:
        _run_all(jobs, data, runs, minutes, parallel, limit_s)
    results = {one.name: _results(runs, one) for one in chosen}
    devices = sorted(
        {run["device"] for found in results.values() for run in found.values() if "device" in run}
    )
    rows = [{"training": name, "runs": found} for name, found in results.items()]
    print(write_record("recipe", rows, headlines(chosen, results), out, ", ".join(devices) or None))
    print(markdown(chosen, results))


def _results(runs: Path, one: Training) -> dict[str, Any]:
    """Return what is known of a training, by seed or peer."""
    found = {}
    for path in sorted((runs / one.name).glob("*.json")):
        found[path.stem] = json.loads(path.read_text())
    return found


def _run_all(
    jobs: list[tuple[str, str]], data: Path, runs: Path, minutes: float, parallel: int, limit_s: float | None
) -> None:
    """Run what is missing, each in a process of its own."""
    began = time.monotonic()
    slots: queue.Queue[str] = queue.Queue()
    for card in visible_cards() * parallel:
        slots.put(card)

    def run(job: tuple[str, str]) -> None:
        name, what = job
        if (runs / name / f"{what}.json").exists():
            return
        card = slots.get()
        try:
            longest = 60 * minutes if what != BASELINES else 60.0
            if limit_s is not None and time.monotonic() - began + longest > limit_s:
                return
            _spawn(name, what, data, runs, minutes, card)
        finally:
            slots.put(card)

    with ThreadPoolExecutor(slots.qsize()) as pool:
        list(pool.map(run, jobs))


def _spawn(name: str, what: str, data: Path, runs: Path, minutes: float, card: str) -> None:
    """Run one job on one card."""
    began = time.monotonic()
    (runs / name).mkdir(parents=True, exist_ok=True)
    log = runs / name / f"{what}.log"
    command = [
        sys.executable,
        "-m",
        "benchmarks.recipe",
        "--data",
        data,
        "--runs",
        runs,
        "--minutes",
        minutes,
    ]
    with log.open("w") as file:
        code = subprocess.run(
            [str(word) for word in (*command, "one", name, what)],
            stdout=file,
            stderr=subprocess.STDOUT,
            check=False,
            env=os.environ | {"CUDA_VISIBLE_DEVICES": card},
        ).returncode
    said = "done" if code == 0 else log.read_text()[-600:]
    print(f"{name} {what}: {time.monotonic() - began:.0f} s, {said}", flush=True)


@main.command()
@click.argument("name")
@click.argument("what")
@click.pass_obj
def one(settings: tuple[Path, Path, float], name: str, what: str) -> None:
    """Train `auto` with a seed (`seed-0`), a peer by its name, or count `baselines`; write what was measured."""
    from benchmarks.recipe import work

    data, runs, minutes = settings
    row, began = training(name), time.time()
    run = runs / name / f"{what}.run"
    shutil.rmtree(run, ignore_errors=True)
    run.parent.mkdir(parents=True, exist_ok=True)
    if what == BASELINES:
        fields = work.count_baselines(row, data / row.data)
    elif what.startswith("seed-"):
        fields = work.train_auto(row, data / row.data, run, int(what.removeprefix("seed-")), minutes)
    else:
        fields = work.train_peer(row, data / row.data, what, minutes)
    fields |= {"seconds": round(time.time() - began, 1), "commit": git_commit(), "device": device_name()}
    write_json(runs / name / f"{what}.json", fields)
    shutil.rmtree(run, ignore_errors=True)


if __name__ == "__main__":
    main()
