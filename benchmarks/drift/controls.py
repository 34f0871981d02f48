"""Controls of `benchmarks.drift` that need a model: pure concept drift, and drift of the data alone.

The model is the planted one (`drift.simulate.PlantedModel`); targets, ranks and verdicts are those of a report.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from benchmarks.drift.simulate import Plant, PlantedModel, Simulated, simulate
from drift.cells.run import run_cell
from drift.cells.types import Cell, CellContext
from drift.config import DriftConfig
from drift.model.followers import count_pairs
from drift.model.names import BEFORE_CUT
from drift.model.quality import summarise
from drift.model.rank import Baselines, RankTask, rank_shard
from drift.model.targets import TargetChoice
from drift.plan import Plan
from drift.report.verdict import judge
from drift.signals.definitions import Signal
from drift.signals.histograms import HistogramMaker, UserHistograms
from drift.signals.items import ItemCounts, counts_before, read_item_facts
from drift.stats.distances import slices
from ss4rec.config import DataConfig

PAST, STEP, WINDOWS = 10, 12, 14
"""First future window, window of the change, windows in all. Users come back up to 8 windows later, so histories and
tenures settle with the eighth; the reference is the two windows before the cut."""
CONCEPT = Plant(windows=WINDOWS, users=500, items=400, step=STEP, concept=True)
DATA_ONLY = Plant(windows=WINDOWS, users=500, items=400, step=STEP, rating=0.3, gap=0.3)


MOVING = ("item_age", "first_seen", "hour", "weekday", "expected_next", "duplicate")
"""Signals that the simulation does not hold still: films age, and windows begin on different days of the week. What
follows what is the planted change of `CONCEPT`, which the marginals do not show; a film may follow itself, so that
duplicates change with it."""


@dataclass(frozen=True)
class Alarms:
    """What one run of `WINDOWS` windows said; windows before the step are without drift in every plant."""

    data_before: bool
    data_after: bool
    quality_before: bool
    quality_after: bool


def controlled(task: tuple[Plant, int]) -> Alarms:
    """Return the alarms of data (adjusted p of at most 5 %) and of quality (verdict drift or severe)."""
    plant, seed = task
    with threadpool_limits(1):
        made = simulate(plant, seed)
        config = DriftConfig(bootstrap=2, min_users=100)
        data = _data_alarms(made, plant, config)
        quality = _quality_alarms(made, plant, config)
    before, after = range(PAST, plant.step), range(plant.step, plant.windows)
    return Alarms(*(any(w in found for w in side) for found in (data, quality) for side in (before, after)))


def _data_alarms(made: Simulated, plant: Plant, config: DriftConfig) -> set[int]:
    plan = layout_plan(made, [PAST - 2, PAST - 1], 1, list(range(PAST, plant.windows)))
    context = still_context(made, plan, config)
    rows = [row for window in plan.future for row in run_cell(context, Cell("reference", window))]
    judge(context, rows)
    index = {context.name(window): window for window in plan.future}
    return {index[row.window] for row in rows if row.p_adj <= config.alpha}


def still_context(made: Simulated, plan: Plan, config: DriftConfig) -> CellContext:
    """UserHistograms a simulation and keep the signals that it holds fixed."""
    counts = ItemCounts.of_shard(made.shard, made.windows, made.items.num_rows)
    make = profiler(made, counts, plan.year_before)
    return CellContext(config, plan, *fixed(make(made.shard), make))


def fixed(profile: UserHistograms, make: HistogramMaker) -> tuple[UserHistograms, tuple[Signal, ...]]:
    """Keep the signals whose distribution the simulation holds fixed: its catalogue ages, as no film is added."""
    kept = [
        (signal, part)
        for signal, part in zip(make.layout, slices(make.layout), strict=True)
        if signal.name not in MOVING
    ]
    counts_RK = np.concatenate([profile.counts_RK[:, part] for _, part in kept], axis=1)
    return replace(profile, counts_RK=counts_RK), tuple(signal for signal, _ in kept)


def profiler(made: Simulated, counts: ItemCounts, year_before: Sequence[int] = ()) -> HistogramMaker:
    """Return pass 1 for a simulation."""
    catalogue = read_item_facts(made.items, made.items.num_rows, made.items.num_rows)
    wanted = list(range(len(made.windows)))
    return HistogramMaker(made.windows, wanted, catalogue, counts, year_before)


def layout_plan(made: Simulated, reference: list[int], first_past: int, future: list[int]) -> Plan:
    """Return a plan with calibration from `first_past` to the reference's end."""
    year_before = list(range(max(0, reference[0] - 4), reference[0]))
    calibration = list(range(first_past, reference[-1] + 1))
    cut_s = made.windows[future[0]].start_s - 1
    return Plan(made.windows, cut_s, reference, calibration, future, year_before)


def _quality_alarms(made: Simulated, plant: Plant, config: DriftConfig) -> set[int]:
    records = quality_records(made, range(PAST, plant.windows), config)
    return {int(record["window"]) for record in records if record["severity"] in ("drift", "severe")}


def quality_records(
    made: Simulated, future: Sequence[int], config: DriftConfig, users: Sequence[int] | None = None
) -> list[dict[str, Any]]:
    """Rank up to `targets_per_user` events of each user and window with the planted model.

    Args:
        made: the simulation.
        future: windows after the cut.
        config: limits; `quality_users` is not looked at.
        users: the users to rank; None: all.
    """
    everyone = np.arange(made.shard.num_rows) if users is None else np.array(users)
    choice = TargetChoice(
        data=DataConfig(max_len=20, overlap=2),
        windows=made.windows,
        users=dict.fromkeys((BEFORE_CUT, *future), everyone),
        cut_s=made.windows[future[0]].start_s - 1,
        vocabulary=made.items.num_rows,
        per_user=config.targets_per_user,
        reference_s=made.windows[max(future[0] - 4, 0)].start_s,
    )
    task = RankTask(choice, seed=config.seed, baselines=_baselines(made, future))
    ranks = rank_shard(PlantedModel(made), made.shard, task)
    assert ranks is not None
    return summarise(ranks, [(window, str(window)) for window in future], config, made.items.num_rows)[0]


def _baselines(made: Simulated, future: Sequence[int]) -> Baselines:
    counts_WV = ItemCounts.of_shard(made.shard, made.windows, made.items.num_rows).counts_WV
    rolling = {window: counts_before(counts_WV, window, 4) for window in future}
    rolling[BEFORE_CUT] = rolling[future[0]]
    cut_s = made.windows[future[0]].start_s - 1
    follow_VV = count_pairs(made.shard, made.items.num_rows, cut_s)
    return Baselines(counts_WV[: future[0]].sum(axis=0), rolling, follow_VV)
