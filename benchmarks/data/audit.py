"""How long does `ss4rec data audit` take, in a process of its own, start of Python included?

    python -m benchmarks.data.audit --source globo-news.zip

Prepares the archive with --k-core 0, audits it with each --split, and writes a record: seconds, seconds of CPU, peak
memory, lights, and the share of the next day's targets that are cold.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.record import headline, write_record
from ss4rec.api import prepare

GOAL_S = 60.0


def measure(folder: Path, split: str) -> dict[str, Any]:
    """Audit a prepared folder once."""
    command = [sys.executable, "-m", "ss4rec.cli", "data", "audit", "--data", str(folder), "--split", split]
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    shown = subprocess.run([*command, "--json"], capture_output=True, text=True, check=True)
    seconds, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    found = json.loads(shown.stdout)
    return {
        "split": split,
        "seconds": round(seconds, 1),
        "cpu_seconds": round(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, 1),
        "peak_mib": after.ru_maxrss >> 10,
        "headline": found["headline"],
        "next_day_cold": round(found["facts"]["next_day"]["cold_items"], 4),
        "cold_targets": round(found["facts"]["division"]["cold_targets"], 4),
    }


def main() -> None:
    """Prepare, audit, write the record."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--source", type=Path, required=True, help="archive of globo-news, or any other source"
    )
    parser.add_argument("--splits", nargs="+", default=["leave-one-out", "time-to-split"])
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "results")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ss4rec-audit-") as scratch:
        folder = Path(scratch) / asked.source.stem
        prepare(asked.source, folder, k_core=0)
        rows = [measure(folder, split) for split in asked.splits]
    for row in rows:
        print(row)
    slowest = max(row["seconds"] for row in rows)
    name = (
        "audit.seconds_globo" if asked.source.stem == "globo-news" else f"audit.seconds_{asked.source.stem}"
    )
    print(write_record("data-audit", rows, [headline(name, slowest, "s", GOAL_S)], asked.out))


if __name__ == "__main__":
    main()
