"""Columns that people bring about items become signals: their bins, their counts, and what a report says of them."""

import numpy as np
import pyarrow as pa
import pytest

from benchmarks.drift.simulate import Plant, simulate
from drift.cells.run import all_cells, run_cell
from drift.cells.types import CellContext
from drift.config import DriftConfig
from drift.model.quality import Quality
from drift.plan import Plan
from drift.report.assemble import assemble
from drift.report.verdict import judge
from drift.signals.histograms import HistogramMaker, UserHistograms
from drift.signals.item_features import VALUES, read_item_features
from drift.signals.items import ItemCounts, read_item_facts
from drift.stats.distances import named_slices
from ss4rec.data.batches.windows import ragged
from ss4rec.data.prepared.features import encode_column


def column(name, kind, values):
    encoded, feature = encode_column(name, pa.chunked_array([values]), kind)
    return {f"feature.{name}": encoded}, feature


def test_values_and_numbers_get_bins_of_the_past():
    brand, brand_is = column("brand", "categorical", ["a", "b", "b", None, "c"])
    tags, tags_are = column("tags", "multi", [["x", "y"], ["x"], [], ["y"], None])
    price, price_is = column("price", "number", [1.0, 2.0, None, 4.0, 1000.0])
    table = pa.table(brand | tags | price)
    found = {f.signal.name: f for f in read_item_features(table, (brand_is, tags_are, price_is), 4)}
    labels = found["feature.brand"].signal.labels
    assert (labels[0], labels[-1]) == ("unknown", "other")
    named = [[labels[b] for b in np.flatnonzero(row)] for row in found["feature.brand"].bins_VB[1:]]
    assert named == [["a"], ["b"], ["b"], ["unknown"], ["c"]]
    labels = found["feature.tags"].signal.labels
    named = [[labels[b] for b in np.flatnonzero(row)] for row in found["feature.tags"].bins_VB[1:]]
    assert named == [["x", "y"], ["x"], ["unknown"], ["y"], ["unknown"]]
    # The fifth item was not seen by the cut: its price moves no edge.
    price = found["feature.price"]
    assert price.bins_VB[1:].argmax(axis=1).tolist()[2] == 0
    assert price.bins_VB[5].argmax() == price.bins_VB[4].argmax() == len(price.signal.labels) - 1
    assert not any("1000" in label for label in price.signal.labels)


def test_rare_values_share_a_bin():
    values = [f"v{n:03d}" for n in range(60) for _ in range(1 + (n < VALUES))]
    brand, brand_is = column("brand", "categorical", values)
    (found,) = read_item_features(pa.table(brand), (brand_is,), len(values))
    assert found.signal.size == VALUES + 2
    other = found.bins_VB[1:, -1].astype(bool)
    assert [value for value, is_other in zip(values, other, strict=True) if is_other] == values[2 * VALUES :]


@pytest.fixture(scope="module")
def made():
    """Popular items have other brands than the rest; what is popular changes in the seventh window."""
    plant = Plant(windows=9, users=80, items=120, step=6, popularity=2.0)
    return simulate(plant, 1)


def facts_of(made, values):
    brand, brand_is = column("brand", "categorical", values)
    items = pa.table({name: made.items[name] for name in made.items.column_names} | brand)
    return read_item_facts(items, items.num_rows, items.num_rows, features=(brand_is,))


def report_on(made, values, later=None):
    """Return context and report; `later` values are what a second file says, of which only new windows hear."""
    counts = ItemCounts.of_shard(made.shard, made.windows, made.items.num_rows)
    plan = Plan(made.windows, made.windows[5].start_s - 1, [3, 4], [1, 2, 3, 4], [5, 6, 7, 8], [0, 1, 2])
    sides = [(values, range(9))] if later is None else [(values, range(6)), (later, range(6, 9))]
    makers = [
        HistogramMaker(made.windows, list(windows), facts_of(made, said), counts, plan.year_before)
        for said, windows in sides
    ]
    histograms = UserHistograms.merge([make(made.shard) for make in makers])
    config = DriftConfig(permutations=199, bootstrap=5, min_users=40, alibi=())
    facts = makers[-1].item_facts
    context = CellContext(config, plan, histograms, facts.layout, counts=counts, facts=facts)
    rows = [row for cell in all_cells(plan, plan.future) for row in run_cell(context, cell)]
    judge(context, rows)
    return context, assemble(context, rows, Quality(), counts, [])


def test_a_brand_that_grows_is_named(made):
    """Counts equal a loop over events, and the report says which brand it is."""
    brands = ["up" if n < 30 else "down" for n in range(120)]
    context, report = report_on(made, brands)
    part = named_slices(context.layout)["feature.brand"]
    items_E, _ = ragged(made.shard["items"])
    total = context.histograms.counts_RK[:, part].sum(axis=0)
    labels = next(s for s in context.layout if s.name == "feature.brand").labels
    want = [sum(brands[item - 1] == label for item in items_E.tolist()) for label in labels]
    assert total.tolist() == want
    moved = [e for e in report.episodes if e.signal == "feature.brand"]
    assert moved[0].first == made.windows[6].name
    assert "up" in moved[0].words
    change = next(change for change in report.changes if "feature.brand" in change.signals)
    assert (change.name, change.kind) == ("features of items: brand", "taste")


def test_a_column_that_is_lost_is_a_fault_of_the_pipeline(made):
    """A second file knows the brands of two thirds of the items no longer; tastes are what they were."""
    still = simulate(Plant(windows=9, users=80, items=120), 1)
    before, after = (
        ["ab"[n % 2] for n in range(120)],
        ["ab"[n % 2] if n % 3 == 0 else None for n in range(120)],
    )
    _, report = report_on(still, before, after)
    lost = next(change for change in report.changes if "feature.brand" in change.signals)
    assert (lost.name, lost.kind, lost.first) == ("values lost: brand", "pipeline", still.windows[6].name)
    assert report.verdicts.pipeline.action == "look"
