"""Fourteen planted changes: found, named, dated, and faults of the pipeline told from changes of the world.

    python -m benchmarks.drift.planted --out benchmarks/results                (100 archives without a change, too)
    python -m benchmarks.drift.planted --minutes 5                             (a slice; the same command goes on)
    python -m benchmarks.drift.planted --seeds 1 --only "logged twice"

Each archive is one of `ss4rec data synth` with a rhythm of the day and the week, cut at the end of 2017, with one change
from 2019 on, and a report on its quarters to the end of 2020, without a model. A change is *found* if an alarm begins
within a window of it, *named* if one of these has a name that fits; what is named is *dated*, to within a window. A
fault of the pipeline is called one if the advice is to look at the pipeline. A change of the world must not be. `drift.false_timelines` is the share of reports with an alarm on archives without any change. The record is written
once nothing is missing in the cache.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from benchmarks.drift.cache import read_cache
from benchmarks.drift.plants import NONE, PLANTS, Events, Plant, daily, second
from benchmarks.record import headline, write_record
from drift.cells.run import all_cells, run_cell
from drift.cells.types import CellContext
from drift.cells.volume import identical_rows, volume_rows
from drift.cells.wander import past_wander
from drift.config import ALARMS, DriftConfig
from drift.model.quality import Quality
from drift.plan import make_plan
from drift.report.assemble import assemble
from drift.report.contents import Report
from drift.report.metadata import compare_items
from drift.report.verdict import judge
from drift.signals.histograms import HistogramMaker, UserHistograms
from drift.signals.items import ItemCounts, read_item_facts, unseen_shares
from drift.signals.past import PastCounts
from ss4rec.data.prepare.engine import prepare
from ss4rec.data.prepared.folder import PreparedFolder
from ss4rec.data.prepared.item_months import read_item_months
from ss4rec.data.prepared.tables import read_shard
from ss4rec.data.split import TIMELINE, split
from ss4rec.data.synth.generate import synth
from ss4rec.data.synth.settings import SMALL, parse_drift

CUT, STEP, END = second("2018-01-01"), second("2019-01-01"), second("2021-01-01")
STEP_NAME = "2019Q1"
CONTROL, FIRST_CONTROL = "none", 100
USERS, ITEMS, MEAN_LEN = 8000, 400, 40
PROFILE = replace(SMALL, wander=0.01, fashion=3.0)
"""Less fashion than in `ss4rec data synth`: there a fifth of all events go to other items in each quarter, by law."""


def archive(folder: Path, seed: int, drift: str | None, users: int = USERS) -> Events:
    """Make an archive and give it a rhythm."""
    planted = [parse_drift(f"{drift}@2019-01-01")] if drift else []
    synth(folder / "csv", users=users, items=ITEMS, mean_len=MEAN_LEN, seed=seed, fmt="csv", settings=PROFILE,
          drift=planted, processes=1)  # fmt: skip
    table = np.loadtxt(folder / "csv/ratings.csv", delimiter=",", skiprows=1)
    with (folder / "csv/movies.csv").open(newline="") as file:
        movies = list(csv.reader(file))[1:]
    user_E, item_E, time_E = (table[:, column].astype(np.int64) for column in (0, 1, 3))
    events = Events(
        user_E,
        item_E,
        time_E,
        table[:, 2],
        {int(m[0]): m[1] for m in movies},
        {int(m[0]): m[2] for m in movies},
    )
    events = events.keep(events.time_E < END).ordered()
    return daily(events)


def write(events: Events, folder: Path) -> Path:
    """Write an archive as GroupLens does."""
    folder.mkdir(parents=True)
    rows = np.column_stack([events.user_E, events.item_E, events.rating_E, events.time_E])
    np.savetxt(folder / "ratings.csv", rows, fmt=("%d", "%d", "%.1f", "%d"), delimiter=",",
               header="userId,movieId,rating,timestamp", comments="")  # fmt: skip
    with (folder / "movies.csv").open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow(["movieId", "title", "genres"])
        known = set(np.unique(events.item_E).tolist()) | events.titles.keys()
        # An id that nobody described is a film without a title or genres.
        out.writerows([item, events.titles.get(item, f"Film {item}"), events.genres.get(item, "(no genres listed)")]
                      for item in sorted(known))  # fmt: skip
    return folder


def report_on(source: Path, folder: Path, config: DriftConfig, before: Path | None = None) -> Report:
    """Prepare, cut, and report, all in this process; `before` is the cut folder of the file before it grew."""
    prepare(source, folder / "full", k_core=0)
    cut = folder / "cut"
    record = split(folder / "full", cut, CUT - 1)
    timeline = PreparedFolder.open(cut / TIMELINE)
    num_items = timeline.manifest.items
    plan = make_plan(config, timeline.manifest, record.cut_s)
    labels = None
    metadata, fresh = None, None
    if before is not None:
        old = PreparedFolder.open(before / TIMELINE)
        metadata = compare_items(old.items, timeline.items, "the report before")
        past_end = old.manifest.last_time_s
        fresh = [plan.windows[w].name for w in plan.future if plan.windows[w].end_s > past_end + 86_400]
        labels = read_item_facts(old.items, record.vocabulary, record.seen).labels
    facts = read_item_facts(timeline.items, record.vocabulary, record.seen, labels)
    counts = ItemCounts.of_months(read_item_months(cut), plan.windows)
    shards = [read_shard(path) for path in timeline.shard_paths]
    parts = [PastCounts.of_shard(s, plan.windows[plan.reference[0]].start_s, num_items) for s in shards]
    past = sum(parts[1:], parts[0]).tables()
    make = HistogramMaker(plan.windows, plan.wanted, facts, counts, plan.year_before, past, plan.lookback,
                          plan.known_s)  # fmt: skip
    made = UserHistograms.merge([make(shard) for shard in shards])
    unseen = unseen_shares(counts, plan.windows, [w for w in plan.wanted if w <= plan.reference[-1]])
    context = CellContext(config, plan, made, make.layout, unseen, counts, facts, past.mean_V)
    context = replace(context, wander=past_wander(context))
    rows = [row for cell in all_cells(plan, plan.future) for row in run_cell(context, cell)]
    rows += volume_rows(context) + identical_rows(context)
    judge(context, rows)
    return assemble(context, rows, Quality(), counts, [], fresh, metadata)


def planted(name: str, seed: int, users: int = USERS) -> dict[str, Any]:
    """Return what a report says of one planted change in an archive of so many users."""
    plant = PLANTS.get(name, NONE)
    rng = np.random.default_rng([seed, 1])
    config = DriftConfig(bootstrap=2, min_users=200, seed=seed, alibi=())
    with threadpool_limits(1), tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        clean = archive(folder / "made", seed, None, users)
        events = clean
        if plant.generator or plant.twice:
            events = archive(folder / "other", seed, plant.generator, users * (1 + plant.twice))
        changed = plant.change(events, STEP, rng)
        before = None
        if plant.second_file:
            early = write(clean.keep(clean.time_E < STEP), folder / "early")
            prepare(early, folder / "early-full", k_core=0)
            before = folder / "early-cut"
            split(folder / "early-full", before, CUT - 1)
        report = report_on(write(changed, folder / "changed"), folder / "report", config, before)
    return judged(report, plant)


def judged(report: Report, plant: Plant) -> dict[str, Any]:
    """Return whether the planted change was found, named, dated and told from a change of the world."""
    names = [window["name"] for window in report.windows]
    step = names.index(STEP_NAME)
    alarmed = [change for change in report.changes if change.severity in ALARMS]
    near = [change for change in alarmed if abs(names.index(change.first) - step) <= 1]
    fitting = [change for change in near if change.name.startswith(plant.names)] if plant.names else []
    return {
        "found": bool(near),
        "named": bool(fitting),
        "dated": bool(fitting),
        "first": near and near[0].kind == "pipeline",
        "advice": report.verdicts.pipeline.action == "look" and report.verdicts.pipeline.severity in ALARMS,
        "headline": report.headline,
        "changes": [
            f"{c.name} {c.first}..{c.last} {c.kind} x{c.ratio:.1f} {','.join(c.signals[:6])}" for c in alarmed
        ],
        "alarms": len(alarmed),
        "alarms_before": len([c for c in alarmed if names.index(c.first) < step - 1]),
    }


def _run(task: tuple[str, int]) -> tuple[tuple[str, int], dict[str, Any]]:
    return task, planted(*task)


def all_tasks(seeds: int, controls: int, only: Sequence[str] | None = None) -> list[tuple[str, int]]:
    """Return name and seed of each archive."""
    tasks = [(name, seed) for seed in range(seeds) for name in only or PLANTS]
    return tasks if only else [*tasks, *((CONTROL, FIRST_CONTROL + number) for number in range(controls))]


def run_all(
    tasks: Sequence[tuple[str, int]], processes: int, cache: Path, minutes: float = math.inf
) -> dict[str, dict[str, Any]]:
    """Run what is not in the cache yet, for about so many minutes; returns all results by task."""
    done, end = read_cache(cache), time.monotonic() + 60 * minutes
    todo = [task for task in tasks if f"{task[0]}/{task[1]}" not in done]
    with get_context("spawn").Pool(processes) as pool:
        for start in range(0, len(todo), 2 * processes):
            if time.monotonic() > end:
                break
            for (name, seed), found in pool.imap_unordered(_run, todo[start : start + 2 * processes]):
                done[f"{name}/{seed}"] = found
                with cache.open("a") as file:
                    file.write(json.dumps({f"{name}/{seed}": found}) + "\n")
                print(
                    f"{name}/{seed}: named {found['named']}, look {found['advice']}; {found['changes'][:4]}",
                    flush=True,
                )
    return done


def figures(done: dict[str, dict[str, Any]], seeds: int, controls: int) -> list[dict[str, Any]]:
    """Return the headline figures."""
    named = {name: sum(done[f"{name}/{seed}"]["named"] for seed in range(seeds)) for name in PLANTS}
    advice = {
        fault: [done[f"{name}/{seed}"]["advice"] for name, plant in PLANTS.items() if plant.pipeline is fault
                for seed in range(seeds)]
        for fault in (True, False)
    }  # fmt: skip
    alarms = [done[f"{CONTROL}/{FIRST_CONTROL + number}"]["alarms"] > 0 for number in range(controls)]
    missed = [name for name, count in named.items() if count < seeds]
    return [
        headline("drift.planted_found", sum(2 * count > seeds for count in named.values()), "of 14", 13,
                 f"at least; found, named and dated in most of {seeds} seeds; not in all: {', '.join(missed) or 'none'}"),
        headline("drift.pipeline_named_rate", round(float(np.mean(advice[True])), 3), "share", 0.9,
                 f"at least; of {len(advice[True])} faults; of {len(advice[False])} changes of the world "
                 f"{sum(advice[False])} were called one"),
        headline("drift.false_timelines", round(float(np.mean(alarms)), 3), "share", 0.05,
                 f"at most; of {controls} archives of 12 quarters without a change"),
    ]  # fmt: skip


def main() -> None:
    """Run the tasks and write the record."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=3, help="archives for each of the fourteen changes")
    parser.add_argument("--controls", type=int, default=100, help="archives without a change")
    parser.add_argument("--only", nargs="*", choices=[*PLANTS, CONTROL], help="these changes only; no record")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument(
        "--minutes", type=float, default=math.inf, help="stop after about so long; the cache goes on"
    )
    parser.add_argument(
        "--cache", type=Path, default=Path("drift-planted.jsonl"), help="results by task, a line each"
    )
    parser.add_argument("--out", type=Path, help="folder of records; written if nothing is missing")
    options = parser.parse_args()
    tasks = all_tasks(options.seeds, options.controls, options.only)
    done = run_all(tasks, options.processes, options.cache, options.minutes)
    missing = [task for task in tasks if f"{task[0]}/{task[1]}" not in done]
    if missing or options.only:
        print(
            f"no record: {len(missing)} of {len(tasks)} archives are missing"
            if missing
            else "no record with --only"
        )
        return
    found = figures(done, options.seeds, options.controls)
    print(json.dumps(found, indent=1))
    if options.out:
        rows = [{"archive": f"{name}/{seed}", **done[f"{name}/{seed}"]} for name, seed in tasks]
        print(write_record("drift-planted", rows, found, options.out))


if __name__ == "__main__":
    main()
