"""What a newcomer waits for: the first hour, and the tests; each writes a record.

    python -m benchmarks.newcomer hour [--out FOLDER]
    python -m benchmarks.newcomer test [--times N] [--busy N] [VENV=...]
    python -m benchmarks.newcomer test-all [VENV=...]

`hour` runs tools/first_hour.sh in a folder of its own; `--out` keeps it, with transcript.txt. `test` and `test-all` run
`make` with that target and the variables given; `--busy` runs that many busy processes beside it, for a look at
failures under load, and then no minutes are a headline. All that is run prints as it goes.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.record import headline, write_record

ROOT = Path(__file__).resolve().parents[1]
GOALS = {"test": ("test.minutes", 6.0), "test-all": ("test_all.minutes", 20.0)}


def hour_headlines(told: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the headline figures of `first_hour.json`; what was not reached or not run is left out."""
    seconds, peer = told["seconds"], f"{told['first_hour.steps']} steps, {os.cpu_count()} CPU cores"
    found = [
        headline("first_hour.minutes", told["first_hour.minutes"], "min", 12.0, peer),
        headline("first_hour.steps_failed", told["first_hour.steps_failed"], "steps", 0.0, peer),
    ]
    if told.get("startup.seconds_to_first_step") is not None:
        begin = "ss4rec train on a Ray of its own, from the command to the first step"
        found.append(
            headline("startup.seconds_to_first_step", told["startup.seconds_to_first_step"], "s", None, begin)
        )
    if told.get("install.mib") is not None:
        what = "wheel into a bare environment, CPU torch, pip with its cache as it was"
        found.append(headline("install.mib", told["install.mib"], "MiB", None, what))
        found.append(headline("install.seconds", seconds["install"], "s", None, what))
    return found


def run_hour(out: Path, results: Path) -> int:
    """Run the first hour, write its record, return the script's exit code."""
    load = os.getloadavg()[0]
    code = subprocess.call(["bash", str(ROOT / "tools/first_hour.sh"), str(out)])
    told = json.loads((out / "first_hour.json").read_text())
    rows = [{"step": name, "seconds": seconds} for name, seconds in told["seconds"].items()]
    row = {"what": "first hour", "load_before": round(load, 1), "failed": told["failed"]}
    print(f"record: {write_record('first-hour', [row, *rows], hour_headlines(told), results)}")
    return code


@contextmanager
def busy(processes: int) -> Iterator[None]:
    """Keep processors busy for the length of the block."""
    started = [multiprocessing.Process(target=_spin, daemon=True) for _ in range(processes)]
    for process in started:
        process.start()
    try:
        yield
    finally:
        for process in started:
            process.kill()
            process.join()


def _spin() -> None:
    while True:
        sum(range(10_000))


def test_headlines(target: str, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the headline figures of runs of a target: minutes of the slowest, if nothing ran beside; failures."""
    name, goal = GOALS[target]
    failed = sum(row["exit_code"] != 0 for row in rows)
    beside, kind = rows[0]["busy"], name.partition(".")[0]
    if beside:
        peer = f"{len(rows)} runs of make {target} beside {beside} busy processes"
        return [headline(f"{kind}.failures_beside_load", failed, "runs", 0.0, peer)]
    peer = f"make {target}, slowest of {len(rows)}, {os.cpu_count()} CPU cores"
    minutes = max(row["minutes"] for row in rows)
    return [
        headline(name, minutes, "min", goal, peer),
        headline(f"{kind}.failures", failed, "runs", 0.0, peer),
    ]


def run_tests(target: str, times: int, beside: int, variables: list[str], results: Path) -> int:
    """Run `make TARGET` some times and write the record; return the number of runs that failed."""
    rows: list[dict[str, Any]] = []
    for _ in range(times):
        load, began = os.getloadavg()[0], time.monotonic()
        with busy(beside):
            code = subprocess.call(["make", target, *variables], cwd=ROOT)
        minutes = (time.monotonic() - began) / 60
        row = {"target": target, "busy": beside, "minutes": round(minutes, 2), "exit_code": code}
        rows.append(row | {"load_before": round(load, 1)})
        print(f"make {target}: {minutes:.1f} minutes, exit code {code}", flush=True)
    name = target if not beside else f"{target}-beside-load"
    print(f"record: {write_record(name, rows, test_headlines(target, rows), results)}")
    return sum(row["exit_code"] != 0 for row in rows)


def main(arguments: list[str]) -> int:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["hour", *GOALS])
    parser.add_argument("variables", nargs="*", metavar="NAME=VALUE", help="variables for make")
    parser.add_argument("--out", type=Path, help="folder of the first hour; a temporary one by default")
    parser.add_argument("--times", type=int, default=1)
    parser.add_argument("--busy", type=int, default=0)
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results")
    asked = parser.parse_intermixed_args(arguments)
    if asked.what == "hour":
        with tempfile.TemporaryDirectory(prefix="first-hour-") as temporary:
            return run_hour((asked.out or Path(temporary)).resolve(), asked.results)
    return run_tests(asked.what, asked.times, asked.busy, asked.variables, asked.results)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
