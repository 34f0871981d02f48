"""Golden figures: the cells of a small archive with planted drift are those of release f17c6ec."""

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from drift.cells.run import all_cells, run_cell
from drift.cells.types import CellContext
from drift.config import DriftConfig
from drift.plan import make_plan
from drift.signals.histograms import HistogramMaker, UserHistograms
from drift.signals.items import ItemCounts, read_item_facts
from drift.stats.distances import slices
from ss4rec.data.prepare.engine import prepare
from ss4rec.data.prepared.folder import PreparedFolder
from ss4rec.data.prepared.item_months import read_item_months
from ss4rec.data.prepared.tables import read_shard
from ss4rec.data.split import TIMELINE, split
from ss4rec.data.synth.generate import synth
from ss4rec.data.synth.settings import SMALL, Drift

GOLDEN = json.loads((Path(__file__).parent / "golden_cells.json").read_text())


def second(day):
    return int(datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp())


@pytest.fixture(scope="module")
def context(tmp_path_factory):
    """Stars rise by .4 in 2019, gaps are three times as long from the middle of that year; cut at the end of 2017."""
    folder = tmp_path_factory.mktemp("golden")
    planted = [Drift("rating", second("2019-01-01"), 0.4), Drift("pace", second("2019-07-01"), 3.0)]
    synth(folder / "csv", users=900, items=150, mean_len=30, seed=5, fmt="csv", settings=replace(SMALL, wander=0.01),
          drift=planted, processes=1)  # fmt: skip
    prepare(folder / "csv", folder / "full", k_core=0)
    record = split(folder / "full", folder / "cut", second("2018-01-01") - 1)
    timeline = PreparedFolder.open(folder / "cut" / TIMELINE)
    config = DriftConfig(
        permutations=199, bootstrap=20, min_users=30, max_users=120, seed=7, wandb="disabled"
    )
    plan = make_plan(config, timeline.manifest, record.cut_s)
    facts = read_item_facts(timeline.items, record.vocabulary, record.seen)
    counts = ItemCounts.of_months(read_item_months(folder / "cut"), plan.windows)
    make = HistogramMaker(plan.windows, plan.wanted, facts, counts, plan.year_before)
    parts = [make(read_shard(path)) for path in timeline.shard_paths]
    return CellContext(config, plan, UserHistograms.merge(parts), make.layout)


def test_histograms_are_those_of_the_release(context):
    made, plan = context.histograms, context.plan
    part = slice(0, slices(context.layout)[15].stop)  # signals that came later stand after these
    sums = [int(made.counts_RK[made.window_R == window, part].sum()) for window in plan.wanted]
    assert sums == GOLDEN["histogram_sums"]


def test_cells_are_those_of_the_release(context, monkeypatch):
    """What is measured. What is drawn (intervals, p) and what follows (thresholds, verdicts) have changed since."""
    # Those of the release; more are drawn today, so that a report can decide however many windows it has.
    monkeypatch.setattr(CellContext, "permutations", 199)
    future = context.plan.future[:10:3]
    assert [context.name(window) for window in future] == GOLDEN["windows"]
    kept = GOLDEN["fields"][: GOLDEN["fields"].index("p")]
    rows = [row for cell in all_cells(context.plan, future) for row in run_cell(context, cell)]
    names = {row[2] for row in GOLDEN["rows"]}
    for row, golden in zip([row for row in rows if row.signal in names], GOLDEN["rows"], strict=True):
        want = dict(zip(kept, golden, strict=False))
        assert [getattr(row, name) for name in kept[:6]] == golden[:6]
        # The last digits of float32 sums differ from one processor to another.
        for name in ("effect", "shift"):
            np.testing.assert_allclose(getattr(row, name), want[name], rtol=1e-4, atol=1e-6)
