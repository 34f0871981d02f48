"""Drift: false alarms, power, dating, controls, peers and time on planted truth (`benchmarks.drift.simulate`, `ss4rec data synth`).

    python -m benchmarks.drift --cache FILE --large CUT --evidently PYTHON --out benchmarks/results
    python -m benchmarks.drift --cache FILE --reps 20 --runs 4 --peers 4          (a quick look)

Every simulation is a task with a name; its result is a line of the cache, and a command that is given again does what is
missing. The record is written once everything is there. `--only` chooses kinds of tasks.

CUT is the folder that `benchmarks.drift.large` makes, with 12 million events after the cut, PYTHON an
interpreter that has evidently.

Users are clusters with heavy-tailed activity. Signals are tested together but for the two of item age: the simulated
catalogue gets no new films, so these would move by themselves. An alarm is a max-T p of at most 5 % (single windows), a
Holm-adjusted p of at most 5 % (timelines); a report asks for an effect above the past's as well. Controls that need a
model are in `benchmarks.drift.controls`, peers on the same windows in `benchmarks.drift.peers`, whole reports on
`ss4rec data synth` in `benchmarks.drift.synth`.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from benchmarks.drift.cache import read_cache
from benchmarks.drift.controls import (
    CONCEPT,
    DATA_ONLY,
    controlled,
    layout_plan,
    profiler,
    still_context,
)
from benchmarks.drift.large import report_12m
from benchmarks.drift.peers import (
    EVIDENTLY,
    KS_ROWS,
    eight_columns,
    peer_alarms,
    run_evidently,
    same_as_evidently,
    tabular_seconds,
    timeline_alarms,
)
from benchmarks.drift.simulate import Plant, simulate
from benchmarks.drift.synth import CONTROL, PLANTS, planted
from benchmarks.record import headline, write_record
from drift.cells.run import run_cell
from drift.cells.types import Cell
from drift.config import DriftConfig
from drift.report.episodes import WindowMeans, find_episodes
from drift.report.verdict import judge
from drift.signals.items import ItemCounts
from drift.stats.resampling import permutation_test

REFERENCE, FUTURE = 4, 34
QUIET = Plant(windows=7, users=1000, step=6, returning=0.0)
"""The last window has a year, and so has the one before it, each of its windows with a past of its own."""
SHIFTED = replace(QUIET, rating=0.10)
WANDER = Plant(windows=FUTURE + 20, users=500, wander=0.01, step=FUTURE + 20)
STEPPED = replace(WANDER, step=37, rating=0.10)


def single(plant: Plant, seed: int) -> float:
    """Return the smallest max-T p of the last window against the one before it, as a cell of a report computes it."""
    made, last = simulate(plant, seed), plant.windows - 1
    config = DriftConfig(permutations=999, bootstrap=2, seed=seed + 1)
    context = still_context(made, layout_plan(made, [last - 1], last - 1, [last]), config)
    return min(row.p_max for row in run_cell(context, Cell("reference", last)))


def timeline(plant: Plant, peers: bool, seed: int) -> dict[str, Any]:
    """Return flagged windows before and from the step, windows from the step, and the dated step (windows off).

    With `peers` also how many windows two tools flag that are fed with rows.
    """
    made, past = simulate(plant, seed), plant.windows - FUTURE
    reference = list(range(past - REFERENCE, past))
    plan = layout_plan(made, reference, 0, list(range(past, plant.windows)))
    context = still_context(made, plan, DriftConfig(bootstrap=2, seed=seed + 1))
    rows = [row for window in plan.future for row in run_cell(context, Cell("reference", window))]
    judge(context, rows)
    names = [context.name(window) for window in plan.future]
    flagged = [any(row.p_adj <= 0.05 for row in rows if row.window == name) for name in names]
    alarmed = [
        any(row.severity in ("drift", "severe") for row in rows if row.window == name) for name in names
    ]
    split = max(plant.step - past, 0)
    episodes = find_episodes(context, rows, WindowMeans(context))
    since = next(
        (e.first for e in episodes if e.signal == "rating" and names.index(e.first) >= split - 1), None
    )
    return {
        "before": sum(flagged[:split]),
        "alarms_before": sum(alarmed[:split]),
        "after": sum(flagged[split:]),
        "windows_after": FUTURE - split,
        "off": None if since is None else names.index(since) - split,
        "peers": timeline_alarms(made, reference, plan.future) if peers else None,
    }


def seconds_1m(evidently: str | None, seed: int = 0, repeats: int = 5) -> dict[str, Any]:
    """Time pass 1 and one test (1,000 permutations) on a million events a side; peers beside, on 8 columns of them."""
    made = simulate(Plant(windows=2, users=8_200, returning=0.0), seed)
    make = profiler(made, ItemCounts.of_shard(made.shard, made.windows, made.items.num_rows))
    wall, cpu = [], []
    for _ in range(repeats):
        started, cpu_started = time.perf_counter(), time.process_time()
        profile = make(made.shard)
        ref, cur = (profile.blocks([window], make.layout) for window in (0, 1))
        permutation_test(ref, cur, make.layout, 1000, np.random.default_rng(0))
        wall.append(time.perf_counter() - started)
        cpu.append(time.process_time() - cpu_started)
    sides = eight_columns(made)
    theirs = run_evidently(evidently, {"million": sides}, 3) if evidently else None
    return {
        "events": int(profile.events_R.sum()),
        "signals": len(make.layout),
        "permutations": 1000,
        "wall_s": wall,
        "cpu_s": cpu,
        "alibi_tabular_wall_s": tabular_seconds(sides),
        "evidently_wall_s": theirs["million"]["seconds"] if theirs else None,
        "evidently_version": theirs["version"] if theirs else None,
    }


def control(plant: Plant, seed: int) -> dict[str, bool]:
    """Return a control's alarms."""
    return asdict(controlled((plant, seed)))


KINDS: dict[str, Callable[[int], Any]] = {
    "single_null": partial(single, QUIET),
    "single_shift": partial(single, SHIFTED),
    "concept": partial(control, CONCEPT),
    "data_only": partial(control, DATA_ONLY),
    "peers_null": partial(peer_alarms, QUIET),
    "peers_shift": partial(peer_alarms, SHIFTED),
    "timeline_null": partial(timeline, WANDER, False),
    "timeline_null_peers": partial(timeline, WANDER, True),
    "timeline_step": partial(timeline, STEPPED, False),
    **{f"synth_{name}": partial(planted, name) for name in (CONTROL, *PLANTS)},
}
"""What a task does with its seed."""
FIRST_SEED = {
    "single_shift": 10_000,
    "concept": 20_000,
    "data_only": 20_000,
    "peers_null": 30_000,
    "peers_shift": 30_000,
    "timeline_null_peers": 50_000,
    "timeline_step": 10_000,
}


def counts(args: argparse.Namespace) -> dict[str, int]:
    """Return how many tasks of each kind there are."""
    found: dict[str, int] = dict.fromkeys(KINDS, args.synth)
    found |= {"single_null": args.reps, "single_shift": args.reps // 2, "timeline_null": args.timelines}
    found |= dict.fromkeys(("concept", "data_only", "timeline_step"), args.runs)
    return found | dict.fromkeys(("peers_null", "peers_shift", "timeline_null_peers"), args.peers)


def work(task: tuple[str, int]) -> tuple[str, Any]:
    """Do one task on one thread."""
    kind, number = task
    with threadpool_limits(1):
        return f"{kind}/{number}", KINDS[kind](FIRST_SEED.get(kind, 0) + number)


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Do what the cache lacks; returns all results by task."""
    done, chosen = read_cache(args.cache), args.only or ["time", *KINDS]

    def keep(name: str, value: Any) -> None:
        done[name] = value
        with args.cache.open("a") as file:
            file.write(json.dumps({name: value}) + "\n")
        print(name, value, flush=True)

    if "time" in chosen:
        if "time_1m" not in done:
            keep("time_1m", seconds_1m(args.evidently))
        if "time_12m" not in done and args.large:
            cut = args.large.resolve()
            keep("time_12m", report_12m(cut) | {"peak_gib": report_12m(cut, watch=True)["peak_gib"]})
        if "same_rule" not in done and args.evidently:
            keep("same_rule", same_as_evidently(args.evidently, QUIET, range(30_000, 30_005)))
    todo = [
        (kind, number)
        for kind, count in counts(args).items()
        for number in range(count)
        if kind in chosen and f"{kind}/{number}" not in done
    ]
    if todo:
        with get_context("spawn").Pool(2) as pool:
            for name, value in pool.imap_unordered(work, todo):
                keep(name, value)
    return done


def rows_of_record(args: argparse.Namespace, done: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Sum up the tasks of each kind."""
    of = {kind: [done[f"{kind}/{n}"] for n in range(count)] for kind, count in counts(args).items()}
    rows: dict[str, dict[str, Any]] = {
        name: done[name] for name in ("time_1m", "time_12m", "same_rule") if name in done
    }
    for kind in ("single_null", "single_shift"):
        rows[kind] = {"windows": len(of[kind]), "flagged": share(p <= 0.05 for p in of[kind])}
    for kind in ("concept", "data_only"):
        rows[kind] = {"runs": len(of[kind])} | {
            name: share(a[name] for a in of[kind]) for name in of[kind][0]
        }
    for kind in ("peers_null", "peers_shift"):
        flagged = {peer: share(found[peer] for found in of[kind]) for peer in of[kind][0]}
        rows[kind] = {"windows": len(of[kind]), "flagged": flagged}
    quiet, beside, steps = (
        of["timeline_null"] + of["timeline_null_peers"],
        of["timeline_null_peers"],
        of["timeline_step"],
    )
    rows["timeline"] = {
        "runs": len(quiet),
        "future_windows": FUTURE,
        "users": WANDER.users,
        "flagged": share(run["before"] > 0 for run in quiet),
        "with_an_alarm": share(run["alarms_before"] > 0 for run in quiet),
        "windows_flagged": sum(run["before"] for run in quiet) / (len(quiet) * FUTURE),
        "peer_runs": len(beside),
        **{
            f"{name}: {what}": share(value)
            for name in (KS_ROWS, EVIDENTLY)
            for what, value in (
                ("flagged", [run["peers"][name] > 0 for run in beside]),
                ("windows_flagged", [run["peers"][name] / FUTURE for run in beside]),
            )
        },
    }
    rows["timeline_step"] = {
        "runs": len(steps),
        "windows_flagged": sum(run["after"] for run in steps) / sum(run["windows_after"] for run in steps),
        "dated_within_one": share(run["off"] is not None and abs(run["off"]) <= 1 for run in steps),
    }
    for name in (CONTROL, *PLANTS):
        runs = of[f"synth_{name}"]
        rows[f"synth_{name}"] = {"runs": len(runs)} | {
            key: share(run[key] for run in runs) for key in runs[0] if runs[0][key] is not None
        }
    return rows


def share(values: Any) -> float:
    """Return the mean."""
    return round(float(np.mean(list(values))), 4)


def headlines(rows: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the figures that are judged, with their goals and the peers of this run."""
    still, moved = (rows[f"peers_{name}"]["flagged"] for name in ("null", "shift"))
    line, one, large = rows["timeline"], rows["time_1m"], rows["time_12m"]
    evidently = f"{one['evidently_wall_s']:.1f} s" if one["evidently_wall_s"] else "not run"
    return [
        headline("drift.power", rows["single_shift"]["flagged"], "share", 0.95,
                 f"at least; evidently's default rule {moved[EVIDENTLY]:.2f}"),
        headline("drift.false_alarm_rate", rows["single_null"]["flagged"], "share", 0.05,
                 f"at most; alibi-detect KS on rows {still[KS_ROWS]:.2f}, evidently's default rule {still[EVIDENTLY]:.2f}"),
        headline("drift.timeline_false_alarm_rate", line["flagged"], "share", 0.05,
                 f"at most; alibi-detect KS on rows {line[f'{KS_ROWS}: flagged']:.2f}, "
                 f"evidently's default rule {line[f'{EVIDENTLY}: flagged']:.2f}"),
        headline("drift.step_dated_share", rows["timeline_step"]["dated_within_one"], "share", 0.90, "at least"),
        headline("drift.concept_found_by_quality", rows["concept"]["quality_after"], "share", 0.90, "at least"),
        headline("drift.concept_data_alarms", rows["concept"]["data_after"], "share", 0.05, "at most"),
        headline("drift.data_only_quality_alarms", rows["data_only"]["quality_after"], "share", 0.05, "at most"),
        headline("drift.seconds_1m", round(float(np.median(one["wall_s"])), 3), "s", 2,
                 f"at most; same run: alibi-detect TabularDrift {one['alibi_tabular_wall_s']:.1f} s, evidently {evidently}"),
        headline("drift.seconds_12m_rows", round(large["wall_s"], 1), "s", 180, "at most"),
        headline("drift.peak_gib", round(large["peak_gib"], 2), "GiB", 4, "at most"),
    ]  # fmt: skip


def main() -> None:
    """Run what is missing and write the record."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cache", type=Path, required=True, help="results by task, a line each")
    parser.add_argument("--only", nargs="*", choices=["time", *KINDS], help="kinds of tasks; default: all")
    parser.add_argument(
        "--reps", type=int, default=1000, help="single windows without drift; half as many with"
    )
    parser.add_argument("--timelines", type=int, default=160, help="timelines without drift")
    parser.add_argument(
        "--runs", type=int, default=40, help="timelines with a step, and controls of each kind"
    )
    parser.add_argument(
        "--peers", type=int, default=40, help="windows and timelines that peers see, of each kind"
    )
    parser.add_argument("--synth", type=int, default=20, help="data sets of `ss4rec data synth` of each kind")
    parser.add_argument("--large", type=Path, help="split folder for the large run")
    parser.add_argument("--evidently", help="interpreter that has evidently")
    parser.add_argument("--out", type=Path, help="folder of records; written if nothing is missing")
    args = parser.parse_args()
    done = measure(args)
    missing = [
        f"{kind}/{n}"
        for kind, count in counts(args).items()
        for n in range(count)
        if f"{kind}/{n}" not in done
    ]
    missing += [name for name in ("time_1m", "time_12m") if name not in done]
    if missing:
        print(f"no record yet: {len(missing)} tasks are missing, {missing[0]} is one")
        return
    rows = rows_of_record(args, done)
    summary = headlines(rows)
    print(json.dumps([rows, summary], indent=1))
    if args.out:
        parts = [{"part": name, **values} for name, values in rows.items()]
        print(write_record("drift", parts, summary, args.out))


if __name__ == "__main__":
    main()
