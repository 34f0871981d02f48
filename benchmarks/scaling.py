"""Targets a second with 1 and more GPUs of one host through Ray Train, at the same batch for each GPU.

`python -m benchmarks.scaling --data DIR [--workers 1 --workers 2]` trains the paper's model with each number of
workers in turn, each in a process and a Ray cluster of its own, and reads the steady state from the run's status
lines. It prints a table and writes `scaling-<YYYYMMDD>.json`. `--smoke` uses CPU workers (gloo) and tiny data.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click

from benchmarks.record import headline, write_record
from benchmarks.train_step.steady import ENDLESS, make_catalogue, steady_figures
from ss4rec.cli.options import resolve_config
from ss4rec.config import override

WINDOWS_PER_WORKER = 256


@click.command(help=__doc__)
@click.option("--data", type=click.Path(path_type=Path), help="Prepared folder; a smoke test makes its own.")
@click.option("--workers", multiple=True, type=click.IntRange(min=1), default=(1, 2), show_default=True)
@click.option(
    "--batch", default=WINDOWS_PER_WORKER, show_default=True, help="Windows a step for each worker."
)
@click.option(
    "--source",
    type=click.Choice(["local", "ray"]),
    default="local",
    show_default=True,
    help="Workers read shards themselves, or Ray Data streams them.",
)
@click.option("--set", "assignments", multiple=True, metavar="FIELD=VALUE", help="Override a field.")
@click.option(
    "--seconds",
    default=20.0,
    show_default=True,
    help="Training time of each run, with the compilation of kernels.",
)
@click.option("--out", type=click.Path(path_type=Path), default=Path("benchmarks/results"), show_default=True)
@click.option("--smoke", is_flag=True, help="CPU workers, tiny data; the record is called scaling-smoke.")
@click.option("--run", type=click.Path(path_type=Path), hidden=True, help="Be the process of one run.")
def main(
    data: Path | None,
    workers: tuple[int, ...],
    batch: int,
    source: str,
    assignments: tuple[str, ...],
    seconds: float,
    out: Path,
    smoke: bool,
    run: Path | None,
) -> None:
    """Measure every number of workers, or be the process that trains with one of them."""
    if run is not None and data is not None:
        fields = (*assignments, f"data.source={source}", f"train.batch_size={batch * workers[0]}")
        train_once(data, run, workers[0], fields, seconds, smoke)
        return
    with tempfile.TemporaryDirectory(prefix="scaling-") as temporary:
        folder = Path(temporary)
        if smoke:
            batch, data = 4, make_catalogue(folder / "data", items=120, users=40, length=20)
        if data is None:
            raise click.UsageError("--data is missing; make one with `ss4rec data prepare`")
        common = [
            f"--data={data.resolve()}",
            f"--batch={batch}",
            f"--source={source}",
            f"--seconds={seconds}",
        ]
        common += [*(f"--set={text}" for text in assignments), *["--smoke"] * smoke]
        rows = [run_process(count, folder / f"w{count}", common) for count in workers]
    for row in rows:
        row |= {"windows_per_worker": batch, "source": source}
        if "targets_per_s" in row and "targets_per_s" in rows[0]:
            row["ratio_to_first"] = row["targets_per_s"] / rows[0]["targets_per_s"]
        show(row)
    found = headlines(rows)
    print(*(f"{entry['name']} {entry['value']:.3f} (goal {entry['goal']})" for entry in found), sep="\n")
    print(write_record("scaling-smoke" if smoke else "scaling", rows, found, out))


def run_process(workers: int, run: Path, common: list[str]) -> dict[str, Any]:
    """Train with `workers` workers in a process of its own and read its figures."""
    began = time.monotonic()
    log = run.with_suffix(".log")
    with log.open("w") as stream:
        code = subprocess.run(
            [sys.executable, "-m", "benchmarks.scaling", f"--run={run}", f"--workers={workers}", *common],
            stdout=stream, stderr=subprocess.STDOUT, check=False,
        ).returncode  # fmt: skip
    row: dict[str, Any] = {"workers": workers, "wall_s": round(time.monotonic() - began, 1)}
    if code:
        return row | {"error": log.read_text()[-800:]}
    placement = json.loads((run / "result.json").read_text()).get("training", {})
    figures = steady_figures(run)
    if not figures["status_lines"]:
        return row | {"error": "training ended before its second status line; give more --seconds"}
    return row | figures | {"epochs": placement.get("epochs"), "ended": placement.get("ended")}


def train_once(
    data: Path, run: Path, workers: int, fields: tuple[str, ...], seconds: float, smoke: bool
) -> None:
    """Train the paper's model through Ray Train for some seconds; only status lines come of it."""
    from ss4rec.train.run import train

    if not smoke and "RAY_ADDRESS" in os.environ:
        raise click.UsageError("RAY_ADDRESS is set; each run needs a cluster of its own on this host")
    fixed = ("train.precision=bf16", f"resources.workers={workers}")
    timed = override(resolve_config("paper", fixed), ENDLESS)
    timed = override(timed, {"train.max_minutes": seconds / 60, "resources.gpu": "no" if smoke else "yes"})
    if smoke:
        timed = override(
            timed, {"data.max_len": 16, "data.overlap": 4, "resources.cpus_per_worker": 0.5, "resources.data_cpus": 0.5}
        )  # fmt: skip
    train(resolve_config(timed, fields), data, run)


def show(row: dict[str, Any]) -> None:
    """Print a row."""
    if "error" in row:
        print(f"{row['workers']} workers: FAILED: {row['error']}")
        return
    print(
        f"{row['workers']} workers  {row.get('targets_per_s', 0):13,.0f} targets/s  {row.get('step_ms', 0):7.2f} ms  "
        f"data wait {row.get('data_wait_share', 0):.1%}  {row.get('memory_gib', 0):.2f} GiB  "
        f"{row.get('ratio_to_first', 0):.3f} of one worker's{'' if row.get('steady') else '  NOT STEADY'}  "
        f"(took {row['wall_s']} s)"
    )


def headlines(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the speed of two workers over that of one, if both were measured."""
    rates = {row["workers"]: row["targets_per_s"] for row in rows if "targets_per_s" in row}
    if not {1, 2} <= rates.keys():
        return []
    peer = f"1 worker: {rates[1]:,.0f} targets/s"
    return [headline("scaling.two_gpu_ratio", rates[2] / rates[1], "times", 1.9, peer)]


if __name__ == "__main__":
    main()
