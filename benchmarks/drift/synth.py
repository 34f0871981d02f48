"""Whole reports on data of `ss4rec data synth`: ratings that wander, and one planted change a kind, all in memory.

The verdict is that of a report: adjusted p *and* an effect above what past quarters differed by.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from drift.cells.run import run_cell
from drift.cells.types import Cell, CellContext
from drift.config import DriftConfig
from drift.plan import make_plan
from drift.report.episodes import WindowMeans, find_episodes
from drift.report.verdict import judge
from drift.signals.histograms import HistogramMaker, UserHistograms
from drift.signals.items import ItemCounts, read_item_facts
from ss4rec.data.prepare.engine import prepare
from ss4rec.data.prepared.folder import PreparedFolder
from ss4rec.data.prepared.item_months import read_item_months
from ss4rec.data.prepared.tables import read_shard
from ss4rec.data.split import TIMELINE, split
from ss4rec.data.synth.generate import synth
from ss4rec.data.synth.settings import SMALL, Drift

CUT, STEP, END = (int(datetime(year, 1, 1, tzinfo=UTC).timestamp()) for year in (2018, 2019, 2021))
"""First quarter after the cut is 2018Q1; what is planted begins with 2019Q1; the last quarter is 2020Q4."""
CONTROL = "none"
PLANTS = {
    "rating": (Drift("rating", STEP, 0.2), ("rating",)),
    "pace": (Drift("pace", STEP, 3.0), ("log_gap",)),
    "popularity": (Drift("popularity", STEP, 0.8), ("popularity", "lasting_top")),
}
"""What is planted, and the signals of which one must see it."""
USERS = 8000
STILL = ("rating", "rating_centred", "half_stars", "log_gap", "zero_gap", "session_events", "activity")
"""Signals that the law keeps still but for the wander. Which films are in fashion moves by law, and so do popularity, genres
and decades; users who stay get older."""


def planted(name: str, seed: int) -> dict[str, float | None]:
    """Make data, cut them at the end of 2017, and judge the quarters from 2018 to 2020.

    Returns:
        `false_windows`: share of quarters without a change in which a signal of `STILL` has a verdict of drift or worse;
        `moving_windows`: in which another one has; `found`: whether the planted signal has one at or after the step; `dated`: whether its date is
        within one quarter of the step (None: nothing was planted).
    """
    plant, expected = PLANTS.get(name, (None, ()))
    with tempfile.TemporaryDirectory() as folder:
        context = _context(Path(folder), [plant] if plant else [], seed)
    future = [window for window in context.plan.future if context.plan.windows[window].start_s < END]
    rows = [row for window in future for row in run_cell(context, Cell("reference", window))]
    judge(context, rows)
    alarms = {(row.window, row.signal) for row in rows if row.severity in ("drift", "severe")}
    starts = {window.name: window.start_s for window in context.plan.windows}
    names = [context.name(window) for window in future]
    still = [quarter for quarter in names if not plant or starts[quarter] < plant.from_s]
    false, moving = (
        len({quarter for quarter, signal in alarms if quarter in still and (signal in STILL) == kind})
        / len(still)
        for kind in (True, False)
    )
    shares: dict[str, float | None] = {"false_windows": false, "moving_windows": moving}
    if plant is None:
        return shares | {"found": None, "dated": None}
    later = [quarter for quarter in names if starts[quarter] >= plant.from_s]
    seen = [signal for signal in expected if any((quarter, signal) in alarms for quarter in later)]
    since = {e.signal: e.first for e in reversed(find_episodes(context, rows, WindowMeans(context)))}
    step = names.index(later[0])
    dated = any(since[signal] in names[step - 1 : step + 2] for signal in seen)
    return shares | {"found": float(bool(seen)), "dated": float(dated)}


def _context(folder: Path, drift: list[Drift], seed: int) -> CellContext:
    """Generate, prepare, cut and profile."""
    profile = replace(SMALL, wander=0.01)
    synth(folder / "csv", users=USERS, items=400, mean_len=40, seed=seed, fmt="csv", settings=profile,
          drift=drift, processes=1)  # fmt: skip
    prepare(folder / "csv", folder / "full", k_core=0)
    record = split(folder / "full", folder / "cut", CUT - 1)
    timeline = PreparedFolder.open(folder / "cut" / TIMELINE)
    config = DriftConfig(bootstrap=2, min_users=200, seed=seed)
    plan = make_plan(config, timeline.manifest, record.cut_s)
    catalogue = read_item_facts(timeline.items, record.vocabulary, record.seen)
    counts = ItemCounts.of_months(read_item_months(folder / "cut"), plan.windows)
    make = HistogramMaker(plan.windows, plan.wanted, catalogue, counts, plan.year_before)
    parts = [make(read_shard(path)) for path in timeline.shard_paths]
    return CellContext(config, plan, UserHistograms.merge(parts), make.layout)
