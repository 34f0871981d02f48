"""Seconds of ranking with a model on one worker and on two: `python -m benchmarks.drift.ranking --data CUT --run RUN`.

What is ranked are up to 20 events of each user after the cut, as by a drift report and by the gate of `ss4rec watch`
(`drift.ray_passes.rankers`). The start of the workers is part of the time, so take enough users for half a minute
on one. One worker and two take turns, so that what else the machine does meets both. Seconds say something on a machine
without other work alone, and of two workers where it has two cores. Both give the same table; that is checked.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import click
import pyarrow as pa

from benchmarks.record import headline, write_record
from drift.ray_passes import rankers
from ss4rec.cluster.connect import cluster
from ss4rec.data.prepared.folder import PreparedFolder
from ss4rec.data.split import TIMELINE, SplitRecord
from ss4rec.loop.compare import Gate, gate_users, rank_gate
from ss4rec.loop.settings import CompareConfig

GOAL = 1.7


@click.command(help=__doc__)
@click.option("--data", type=click.Path(path_type=Path, exists=True), required=True, help="Split folder.")
@click.option(
    "--run", type=click.Path(path_type=Path, exists=True), required=True, help="Trained on its past."
)
@click.option("--users", default=4000, show_default=True, help="Maximum users.")
@click.option("--repeats", default=3, show_default=True, help="Turns of each; the fastest counts.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder of records.")
def main(data: Path, run: Path, users: int, repeats: int, out: Path | None) -> None:
    """Rank on one worker and on two."""
    timeline, cut_s = PreparedFolder.open(data / TIMELINE), SplitRecord.load(data).cut_s
    gate, config = Gate(cut_s + 1, timeline.manifest.last_time_s + 1), CompareConfig(users=users)
    chosen = gate_users(timeline, gate, config)
    seconds: dict[int, list[float]] = {1: [], 2: []}
    tables: list[pa.Table] = []
    with cluster("local"):
        for workers in (1, 2) * repeats:
            started = time.perf_counter()
            with rankers(workers) as rank:
                tables.append(rank_gate(run, timeline, gate, chosen, config, cut_s, rank=rank))
            seconds[workers].append(time.perf_counter() - started)
            print(f"{workers} of 2: {seconds[workers][-1]:.1f} s", flush=True)
    if not all(table.equals(tables[0]) for table in tables):
        raise SystemExit("the ranks of one worker and of two differ")
    counts = {"users": len(chosen), "events": tables[0].num_rows}
    rows = [{"workers": n, "seconds": min(every), "all": every, **counts} for n, every in seconds.items()]
    share = rows[0]["seconds"] / rows[1]["seconds"]
    found = [headline("drift.ranking_two_workers", round(share, 2), "x", GOAL, "one worker")]
    print(json.dumps([rows, found]))
    if out:
        print(write_record("drift-ranking", rows, found, out))


if __name__ == "__main__":
    main()
