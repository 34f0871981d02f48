"""Drift: false alarms, power, dating, controls, peers and time on planted truth (`drift.simulate`).

    python -m benchmarks.drift --out benchmarks/results            (about 30 minutes on 2 cores)
    python -m benchmarks.drift --reps 20 --runs 4 --peer-reps 4    (a quick look)

Users are clusters with heavy-tailed activity. Signals are tested together but for the two of item age: the simulated
catalogue gets no new films, so these would move by themselves. An alarm is a max-T p of at most 5 % (single windows), a
Holm-adjusted p of at most 5 % (timelines); a report asks for an effect above the past's as well. Controls that need a
model are in `benchmarks.drift_controls`, peers on the same windows in `benchmarks.drift_peers`.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from dataclasses import replace
from datetime import UTC, datetime
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from threadpoolctl import threadpool_limits

from benchmarks.drift_controls import (
    CONCEPT,
    DATA_ONLY,
    controlled,
    layout_plan,
    profiler,
    still_context,
)
from benchmarks.drift_peers import peer_alarms, tabular_seconds
from drift.catalogue import ItemCounts
from drift.cells import Cell, CellContext, run_cell
from drift.config import DriftConfig
from drift.profile import Profile
from drift.simulate import Plant, simulate
from drift.stats import permutation_test
from drift.verdict import date_changes, judge
from ss4rec.runs import git_commit, installed_versions

REFERENCE, FUTURE = 4, 34
QUIET = Plant(windows=7, users=1000, step=6, returning=0.0)
"""The last window has a year, and so has the one before it, each of its windows with a past of its own."""


def single(task: tuple[Plant, int]) -> float:
    """Return the smallest max-T p of the last window against the one before it, as a cell of a report computes it."""
    plant, seed = task
    with threadpool_limits(1):
        made, last = simulate(plant, seed), plant.windows - 1
        config = DriftConfig(permutations=999, bootstrap=2, seed=seed + 1)
        context = still_context(made, layout_plan(made, [last - 1], last - 1, [last]), config)
        return min(row.p_max for row in run_cell(context, Cell("reference", last)))


def timeline(task: tuple[Plant, int]) -> tuple[int, int, int, int | None]:
    """Return flagged windows before and from the step, windows from the step, and the dated step (windows off)."""
    plant, seed = task
    with threadpool_limits(1):
        made, past = simulate(plant, seed), plant.windows - FUTURE
        plan = layout_plan(made, list(range(past - REFERENCE, past)), 0, list(range(past, plant.windows)))
        context = still_context(made, plan, DriftConfig(bootstrap=2, seed=seed + 1))
        rows = [row for window in plan.future for row in run_cell(context, Cell("reference", window))]
        judge(context, rows)
        names = [context.name(window) for window in plan.future]
        flagged = [any(row.p_adj <= 0.05 for row in rows if row.window == name) for name in names]
        split = max(plant.step - past, 0)
        since = date_changes(context, rows).get("rating")
        off = None if since is None else names.index(since) - split
        return sum(flagged[:split]), sum(flagged[split:]), FUTURE - split, off


def seconds_1m(seed: int = 0, repeats: int = 5) -> dict[str, Any]:
    """Time pass 1 and one test (1,000 permutations) on a million events a side; alibi-detect's TabularDrift beside."""
    made = simulate(Plant(windows=2, users=8_100, returning=0.0), seed)
    make = profiler(made, ItemCounts.of_shard(made.shard, made.windows, made.items.num_rows))
    wall, cpu = [], []
    for _ in range(repeats):
        started, cpu_started = time.perf_counter(), time.process_time()
        profile = make(made.shard)
        ref, cur = (profile.blocks([window], make.layout) for window in (0, 1))
        permutation_test(ref, cur, make.layout, 1000, np.random.default_rng(0))
        wall.append(time.perf_counter() - started)
        cpu.append(time.process_time() - cpu_started)
    return {
        "events": int(profile.events_R.sum()),
        "signals": len(make.layout),
        "permutations": 1000,
        "wall_s": wall,
        "cpu_s": cpu,
        "alibi_tabular_wall_s": tabular_seconds(made),
    }


def _write_shard(task: tuple[Path, int]) -> int:
    folder, number = task
    made = simulate(Plant(windows=FUTURE + REFERENCE, users=100), number)
    users = pa.array(made.shard["user"].to_numpy() + np.int32(number * 100_000))
    shard = made.shard.set_column(0, "user", users)
    pq.write_table(shard, folder / f"{number:03d}.parquet")
    return len(shard["items"].combine_chunks().flatten())


def seconds_12m(shards: int) -> dict[str, Any]:
    """Time both passes from shards on disk for 34 future quarters, and the peak memory of this process."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with get_context("spawn").Pool(2) as pool:
            rows = sum(pool.map(_write_shard, [(folder, number) for number in range(shards)]))
        made = simulate(Plant(windows=FUTURE + REFERENCE, users=1), 0)
        started = time.perf_counter()
        paths = sorted(folder.iterdir())
        counts = ItemCounts.of_shard(pq.read_table(paths[0]), made.windows, made.items.num_rows)
        for path in paths[1:]:
            counts = counts.merge(ItemCounts.of_shard(pq.read_table(path), made.windows, made.items.num_rows))
        make = profiler(made, counts)
        profile = Profile.merge([make(pq.read_table(path)) for path in paths])
        plan = layout_plan(made, list(range(REFERENCE)), 0, list(range(REFERENCE, REFERENCE + FUTURE)))
        context = CellContext(DriftConfig(), plan, profile, make.layout)
        judge(context, [row for w in plan.future for row in run_cell(context, Cell("reference", w))])
        seconds = time.perf_counter() - started
    peak_gib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {"events": rows, "windows": FUTURE, "permutations": 2000, "wall_s": seconds, "peak_gib": peak_gib}


def seeds(plant: Plant, first: int, count: int) -> list[tuple[Plant, int]]:
    """Return tasks of one plant."""
    return [(plant, first + number) for number in range(count)]


def share(alarms: np.ndarray | list[bool]) -> float:
    """Return the share of alarms."""
    return float(np.mean(alarms))


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Run everything; returns the rows of the record."""
    shifted = replace(QUIET, rating=0.10)
    wander = Plant(windows=FUTURE + 20, users=500, wander=0.01, step=FUTURE + 20)
    stepped = replace(wander, step=37, rating=0.10)
    rows: dict[str, Any] = {"seconds_12m": seconds_12m(args.shards), "seconds_1m": seconds_1m()}
    print(rows, flush=True)
    with get_context("spawn").Pool(2) as pool:

        def say(name: str, values: dict[str, Any]) -> None:
            rows[name] = values
            print(name, values, flush=True)

        null_p = pool.map(single, seeds(QUIET, 0, args.reps), chunksize=2)
        say("single_null", {"reps": args.reps, "p<=.05": share(np.array(null_p) <= 0.05)})
        drift_p = pool.map(single, seeds(shifted, 10_000, args.reps // 2), chunksize=2)
        say("single_rating+0.10", {"reps": args.reps // 2, "p<=.05": share(np.array(drift_p) <= 0.05)})
        for name, plant in (("concept", CONCEPT), ("data_only", DATA_ONLY)):
            found = pool.map(controlled, seeds(plant, 20_000, args.runs), chunksize=1)
            fields = ("data_before", "data_after", "quality_before", "quality_after")
            say(name, {"runs": args.runs, **{f: share([getattr(a, f) for a in found]) for f in fields}})
        for name, plant in (("no_drift", QUIET), ("rating+0.10", shifted)):
            peers = pool.map(peer_alarms, seeds(plant, 30_000, args.peer_reps), chunksize=1)
            flagged = {peer: share([found[peer] for found in peers]) for peer in peers[0]}
            say(f"peers_{name}", {"reps": args.peer_reps, "flagged": flagged})
        quiet = pool.map(timeline, seeds(wander, 0, args.runs), chunksize=1)
        steps = pool.map(timeline, seeds(stepped, 10_000, args.runs), chunksize=1)
    after = sum(found for _, found, _, _ in steps) / sum(size for _, _, size, _ in steps)
    dated = share([off is not None and abs(off) <= 1 for *_, off in steps])
    say("timeline", {"runs": args.runs, "future_windows": FUTURE, "users": 500,
                     "flagged": share([before > 0 for before, *_ in quiet]),
                     "step_windows_flagged": after, "step_dated": dated})  # fmt: skip
    return rows


def headlines(rows: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the figures that are judged, with their goals and the peers of this run."""
    still, moved = (rows[f"peers_{name}"]["flagged"] for name in ("no_drift", "rating+0.10"))
    alibi, evidently = "alibi ks, all rows", "evidently's default rule, all rows"
    tabular = rows["seconds_1m"]["alibi_tabular_wall_s"]
    figures: list[tuple[str, float, str, str, str | None]] = [
        ("drift.power", rows["single_rating+0.10"]["p<=.05"], "share", ">= 0.95",
         f"evidently's default rule {moved[evidently]:.2f}"),
        ("drift.false_alarm_rate", rows["single_null"]["p<=.05"], "share", "<= 0.05",
         f"alibi-detect KS on rows {still[alibi]:.2f}, evidently's default rule {still[evidently]:.2f}"),
        ("drift.timeline_false_alarm_rate", rows["timeline"]["flagged"], "share", "<= 0.05", None),
        ("drift.step_dated_share", rows["timeline"]["step_dated"], "share", ">= 0.90", None),
        ("drift.concept_found_by_quality", rows["concept"]["quality_after"], "share", ">= 0.90", None),
        ("drift.concept_data_alarms", rows["concept"]["data_after"], "share", "<= 0.05", None),
        ("drift.data_only_quality_alarms", rows["data_only"]["quality_after"], "share", "<= 0.05", None),
        ("drift.seconds_1m", float(np.median(rows["seconds_1m"]["wall_s"])), "s", "<= 2",
         f"alibi-detect TabularDrift {tabular:.1f} s in this run; evidently 29 to 31 s elsewhere"),
        ("drift.seconds_12m_rows", rows["seconds_12m"]["wall_s"], "s", "<= 180", None),
        ("drift.peak_gib", rows["seconds_12m"]["peak_gib"], "GiB", "<= 4", None),
    ]  # fmt: skip
    return [
        {"name": name, "value": round(float(value), 4), "unit": unit, "goal": goal, "peer": peer}
        for name, value, unit, goal, peer in figures
    ]


def main() -> None:
    """Run everything and write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--reps", type=int, default=400, help="single windows without drift; half as many with"
    )
    parser.add_argument("--runs", type=int, default=40, help="timelines and controls of each kind")
    parser.add_argument("--peer-reps", type=int, default=40, help="windows that peers see, of each kind")
    parser.add_argument(
        "--shards", type=int, default=23, help="shards of half a million rows for the large run"
    )
    parser.add_argument("--out", type=Path, help="folder of records")
    args = parser.parse_args()
    commit = git_commit()  # of the code that runs now; the checkout may move on meanwhile
    rows = measure(args)
    record = {
        "benchmark": "drift",
        "commit": commit,
        "command": f"python -m benchmarks.drift --reps {args.reps} --runs {args.runs} "
        f"--peer-reps {args.peer_reps} --shards {args.shards}",
        "device": "2 CPU cores, shared",
        "versions": installed_versions(),
        "rows": rows,
        "headline": headlines(rows),
    }
    text = json.dumps(record, indent=1)
    print(text)
    if args.out:
        (args.out / f"drift-{datetime.now(UTC):%Y%m%d}.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
