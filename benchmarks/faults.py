"""The promises of docs/reliability.md: which rows' tests pass, what a checkpoint costs, and what soaks have measured.

python -m tools.soak --minutes 30 --seed 1 --out soak-1.json
python -m benchmarks.faults soak-1.json ...
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch

from benchmarks.record import headline, write_record
from ss4rec.data.synth.generate import synth
from ss4rec.model.ss4rec import SS4Rec
from ss4rec.presets import preset
from ss4rec.runs import checkpoint
from ss4rec.train.optim import make_optimizer
from tools import soak

ROOT = Path(__file__).parents[1]
ROWS = 21
ELSEWHERE = {19: (ROOT / "tests/tuning/test_sweep_ray.py", "sweep_prunes or several_workers")}
"""Rows whose tests stand with what they test: file and words that choose them."""
ITEMS_ML_1M = 3416
"""Items of ML-1M's 5-core."""


def rows_by_test(path: Path) -> dict[str, list[int]]:
    """Return which rows of the table each test of a file says that it shows, in the first words of its docstring."""
    found = {}
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            head = re.match(r"Rows? ([\d, ]+):", ast.get_docstring(node) or "")
            found[node.name] = [int(number) for number in head[1].split(",")] if head else []
    return found


def run_tests(files: Sequence[Path], reports: Path) -> Iterator[dict[str, Any]]:
    """Run each file in a process of its own unless `reports` has its report already; yield a row a test."""
    words = {path: (row, chosen) for row, (path, chosen) in ELSEWHERE.items()}
    for path in (*files, *words):
        row, chosen = words.get(path, (0, ""))
        rows, report = rows_by_test(path), reports / f"{path.stem}.xml"
        if not report.exists():
            command = [
                sys.executable,
                "-m",
                "pytest",
                "-q",
                str(path.relative_to(ROOT)),
                f"--junitxml={report}",
                *(["-k", chosen] if chosen else []),
            ]
            subprocess.run(
                command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=1200
            )
        for case in ElementTree.parse(report).iter("testcase"):
            if case.find("skipped") is not None:  # for want of a GPU
                continue
            name = case.get("name", "")
            yield {
                "file": path.name,
                "test": name,
                "rows": [row] if row else rows.get(name.split("[")[0], []),
                "passed": case.find("failure") is None and case.find("error") is None,
                "time_s": float(case.get("time", "0")),
                **{p.get("name", ""): float(p.get("value", "nan")) for p in case.iter("property")},
            }


def rows_that_hold(tests: Sequence[dict[str, Any]]) -> list[int]:
    """Return the rows of the table that have a test and whose tests all passed."""
    numbers = {number for test in tests for number in test["rows"]}
    return sorted(n for n in numbers if all(test["passed"] for test in tests if n in test["rows"]))


def recoveries_s(repeats: int) -> list[float]:
    """Return the seconds from SIGKILL of one of two workers to the first step of the new group, several times over."""
    os.environ.pop("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", None)  # tests look more often than users do
    rng, found = np.random.default_rng(1), []
    with tempfile.TemporaryDirectory() as folder:
        synth(Path(folder) / "data", users=150, items=120, mean_len=26, seed=1)
        ray.init(num_cpus=3, include_dashboard=False, namespace="ss4rec", log_to_driver=False)
        for number in range(repeats):
            work = Path(folder) / str(number)
            work.mkdir()
            held, recovery = soak.train_round(Path(folder) / "data", work / "run", "kill", 2, rng)
            if not held or recovery is None:
                raise RuntimeError(f"training {number} did not recover")
            found.append(recovery)
        ray.shutdown()
    return found


def save_s(repeats: int = 9) -> float:
    """Return the median seconds of a checkpoint of ML-1M's CPU preset, written, checksummed, flushed, old ones pruned."""
    config = preset("ml_1m_cpu")
    model = SS4Rec(config.model, ITEMS_ML_1M)
    optimizer = make_optimizer(model, config.optim)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    state = optimizer.state_dict()["state"]
    training = {f"optimizer.{i}.{k}": tensor for i, entry in state.items() for k, tensor in entry.items()}
    times = []
    with tempfile.TemporaryDirectory(dir=ROOT) as folder:
        for step in range(repeats):
            began = time.perf_counter()
            checkpoint.save(
                Path(folder),
                model=model.state_dict(),
                training=training,
                state={"global_step": step, "score": None},
            )
            checkpoint.prune(Path(folder), 1)
            times.append(time.perf_counter() - began)
    return statistics.median(times)


def main() -> None:
    """Run everything, print, write the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("soaks", nargs="*", type=Path, help="what `tools.soak --out` wrote")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results")
    parser.add_argument(
        "--reports", type=Path, help="folder of pytest's reports FILE.xml; what it has is not run again"
    )
    parser.add_argument("--recoveries", type=int, default=3, help="trainings with a worker killed; 0: none")
    parser.add_argument("--no-tests", action="store_true", help="only measure")
    options = parser.parse_args()
    recoveries = recoveries_s(options.recoveries) if options.recoveries else []
    with tempfile.TemporaryDirectory() as folder:
        reports = options.reports or Path(folder)
        files = [] if options.no_tests else sorted((ROOT / "tests/faults").glob("test_*.py"))
        tests = list(run_tests(files, reports)) if files else []
    holds = rows_that_hold(tests)
    soaks = [json.loads(path.read_text()) for path in options.soaks]
    every_s = preset("ml_1m_cpu").train.checkpoint_every_s
    cost_s = save_s()
    slopes = [found["summary"]["rss_slope_mib_per_min"] for found in soaks]
    slopes = [slope for slope in slopes if slope is not None]
    seconds = sum(test["time_s"] for test in tests)
    if tests:
        passed = sum(test["passed"] for test in tests)
        print(f"{passed} of {len(tests)} tests pass in {seconds:.0f} s; rows {holds} hold")
    print(f"a checkpoint takes {1000 * cost_s:.0f} ms; recoveries {recoveries} s; slopes {slopes} MiB/min")
    peer = f"one save every {every_s:g} s"
    headlines = [headline("faults.checkpoint_overhead_share", cost_s / every_s, "share", 0.01, peer)]
    if tests:
        peer = "rows of the table of promises"
        headlines.append(headline("faults.passed", len(holds), "rows", ROWS, peer))
    if recoveries:
        headlines.append(
            headline("faults.recovery_s", statistics.median(recoveries), "s", None, "Ray alone: 11 s")
        )
    if slopes:
        headlines.append(headline("faults.rss_slope_mib_per_min", max(slopes), "MiB/min", 1.0))
    rows = [
        *tests,
        *({"soak_seed": found["seed"], **found["summary"]} for found in soaks),
        {"save_s": cost_s},
        {"recoveries_s": recoveries},
    ]
    print(write_record("faults", rows, headlines, options.out))


if __name__ == "__main__":
    main()
