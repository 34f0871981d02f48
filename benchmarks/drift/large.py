"""A whole report on 12 million generated events after the cut: seconds and memory on two cores.

    python -m benchmarks.drift.large --work FOLDER --out benchmarks/results
    python -m benchmarks.drift.large --work FOLDER --users 3000          (a quick look; no record)

The data are those of `ss4rec data synth --like ml-32m`: 220,000 users, of whose 34 million events 12 million lie after
2015-03-31. They are made once in FOLDER and take some minutes. Then a report without a model is written by `ss4rec drift`
as a user starts it: a process of its own, a new local Ray, quarters, all comparisons; its start and Ray's are part of
the time. Seconds say something on a machine without other work alone. Then it is written once more, in another process,
for its peak memory: that of all processes together, shared pages counted once. Looking at it takes a third of a core.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.memory import watched
from benchmarks.record import headline, write_record
from drift.report.contents import REPORT_NAME
from drift.report.store import PAGE_NAME
from ss4rec.data.prepare.engine import prepare
from ss4rec.data.split import SplitRecord, parse_cut, split
from ss4rec.data.synth.generate import synth
from ss4rec.data.synth.settings import LIKE

CUTOFF = "2015-03-31"
USERS = 220_000
OPTIONS = ("--address", "local", "--set", "wandb=disabled", "--set", "alibi=[]", "--set", "fail_on=never")
"""Of the report. Whatever it finds is no failure here."""


def cut_folder(work: Path, users: int) -> Path:
    """Return the split folder of so many users, made if it is not there."""
    cut = work / f"cut-{users}"
    if not cut.exists():
        like = LIKE["ml-32m"]
        csv, full = work / f"csv-{users}", work / f"full-{users}"
        if not csv.exists():
            synth(csv, users=users, items=like.items, mean_len=like.mean_len, seed=1, fmt="csv",
                  settings=replace(like.settings, wander=0.01))  # fmt: skip
        if not full.exists():
            prepare(csv, full, k_core=0)
        split(full, cut, parse_cut(CUTOFF), k_core=5)
    return cut


def report_12m(cut: Path, watch: bool = False) -> dict[str, Any]:
    """Time a whole report without a model, and keep what says that it was one; `watch` its memory.

    Raises:
        RuntimeError: if the report did not end well.
    """
    with tempfile.TemporaryDirectory() as out:
        started = time.perf_counter()
        command = [sys.executable, "-m", "ray_jobs.drift", "--data", str(cut), "--out", out, *OPTIONS]
        with subprocess.Popen(command) as job, watched(watch, job.pid) as memory:
            code = job.wait()
        seconds = time.perf_counter() - started
        if code:
            raise RuntimeError(f"{' '.join(command)} ended with {code}")
        report = json.loads((Path(out) / REPORT_NAME).read_text())
        size = (Path(out) / PAGE_NAME).stat().st_size
    return {
        "future_events": SplitRecord.load(cut).future_events,
        "events_in_windows": sum(window["events"] for window in report["windows"]),
        "windows": len(report["windows"]),
        "cells": len(report["cells"]),
        "errors": sum(cell["status"] == "error" for cell in report["cells"]),
        "permutations": report["config"]["permutations"],
        "wall_s": seconds,
        "report_bytes": size,
        **({} if memory is None else {"peak_gib": memory.peak / 2**30}),
    }


def main() -> None:
    """Make the data, time a report, and write the record."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--work", type=Path, required=True, help="folder of the generated data, kept for the next time"
    )
    parser.add_argument(
        "--users", type=int, default=USERS, help="generated users; a record needs the default"
    )
    parser.add_argument("--out", type=Path, help="folder of records")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    cut = cut_folder(options.work.resolve(), options.users)
    rows = [
        {"part": part, **report_12m(cut, watch)} for part, watch in (("report", False), ("watched", True))
    ]
    figures = [
        headline("drift.seconds_12m_rows", round(rows[0]["wall_s"], 1), "s", 180, "at most"),
        headline("drift.peak_gib", round(rows[1]["peak_gib"], 2), "GiB", 4, "at most"),
    ]
    print(json.dumps([rows, figures], indent=1))
    if options.out and options.users == USERS:
        print(write_record("drift-large", rows, figures, options.out))


if __name__ == "__main__":
    main()
