"""CPU seconds of `ss4rec data prepare` against those of another checkout, in turns.

    python -m benchmarks.data.prepare_cost --other CHECKOUT --source ml-1m=ZIP --source shuffled=CSV [--turns 8]

A row is one source: user and system seconds of the whole command, imports included, as the median of its turns. Seconds
of the CPU, unlike those of the clock, bear other work on the machine; the two codes take turns all the same.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.record import headline, write_record

ROOT = Path(__file__).parents[2]


def cpu_s(code: Path, source: Path) -> float:
    """Prepare a source once with the code in a checkout and return the CPU seconds of the process."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "ss4rec.cli", "data", "prepare", "--source", str(source)]
        environment = {**os.environ, "PYTHONPATH": str(code)}
        subprocess.run(
            [*command, "--out", f"{folder}/out"], env=environment, cwd=code, check=True, capture_output=True
        )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Measure every source and write the record."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--other", type=Path, required=True, help="checkout to compare with")
    parser.add_argument("--source", action="append", required=True, metavar="NAME=PATH")
    parser.add_argument("--turns", type=int, default=8)
    options = parser.parse_args()
    rows = []
    for text in options.source:
        name, _, path = text.partition("=")
        codes = {"here": ROOT, "other": options.other.resolve()}
        found: dict[str, list[float]] = {place: [] for place in codes}
        for turn in range(options.turns):
            for place in sorted(codes, reverse=bool(turn % 2)):
                found[place].append(cpu_s(codes[place], Path(path).resolve()))
        medians = {f"{place}_cpu_s": round(statistics.median(values), 3) for place, values in found.items()}
        ratio = statistics.median(a / b for a, b in zip(found["here"], found["other"], strict=True))
        rows.append({"name": name, **medians, "turns": options.turns, "ratio": round(ratio, 3)})
        print(rows[-1], flush=True)
    worst = max(float(row["ratio"]) for row in rows)
    figure = headline("data.prepare_cpu_ratio", worst, "ratio", 1.05, "the other checkout, worst source")
    print(write_record("prepare_cost", rows, [figure], ROOT / "benchmarks" / "results"))


if __name__ == "__main__":
    main()
