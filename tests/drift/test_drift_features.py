"""Columns that people bring about items become signals: their bins, their counts, and what a report says of them."""

from dataclasses import replace

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
from drift.signals.context import context_columns
from drift.signals.histograms import HistogramMaker, UserHistograms
from drift.signals.item_features import VALUES, read_item_features
from drift.signals.items import ItemCounts, read_item_facts
from drift.stats.distances import named_slices
from ss4rec.data.batches.windows import list_array, ragged
from ss4rec.data.prepared.features import encode_column
from ss4rec.data.prepared.manifest import Feature


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


def report_on(made, values, later=None, columns=()):
    """Return context and report; `later` values are what a second file says, of which only new windows hear."""
    counts = ItemCounts.of_shard(made.shard, made.windows, made.items.num_rows)
    plan = Plan(made.windows, made.windows[5].start_s - 1, [3, 4], [1, 2, 3, 4], [5, 6, 7, 8], [0, 1, 2])
    sides = [(values, range(9))] if later is None else [(values, range(6)), (later, range(6, 9))]
    makers = [
        HistogramMaker(
            made.windows,
            list(windows),
            replace(facts_of(made, said), context=context_columns(columns)),
            counts,
            plan.year_before,
        )
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


def device_of(times_E, from_s):
    """Codes of phone, tablet and web: half of the web's events come from phones from a second on."""
    rng = np.random.default_rng(4)
    codes_E = rng.choice([1, 2, 3], len(times_E), p=[0.3, 0.2, 0.5]).astype(np.int32)
    codes_E[(times_E >= from_s) & (codes_E == 3) & (rng.random(len(times_E)) < 0.5)] = 1
    return codes_E


def test_a_column_about_events_is_named_with_its_values():
    """Beside a number that nothing happens to; counts equal a loop over events."""
    made = simulate(Plant(windows=9, users=80, items=120), 2)
    times_E, offsets = ragged(made.shard["timestamps"])
    codes_E = device_of(times_E, made.windows[6].start_s)
    price_E = np.random.default_rng(5).normal(10, 2, len(times_E)).astype(np.float32)
    price_E[::50] = np.nan
    shard = made.shard
    for name, values_E in (("device", codes_E), ("price", price_E)):
        shard = shard.append_column(f"context.{name}", list_array(values_E, offsets))
    device = Feature(name="device", kind="categorical", values=("phone", "tablet", "web"))
    meaning = (device, Feature(name="price", kind="number", center=10.0, scale=1.35))
    context, report = report_on(
        replace(made, shard=shard), ["ab"[n % 2] for n in range(120)], columns=meaning
    )
    part = named_slices(context.layout)["context.device"]
    counts_K = context.histograms.counts_RK[:, part].sum(axis=0)
    assert counts_K.tolist() == [0, *np.bincount(codes_E)[1:].tolist(), 0]
    unknown = context.histograms.counts_RK[:, named_slices(context.layout)["context.price"].start].sum()
    assert unknown == np.isnan(price_E).sum()
    change = next(change for change in report.changes if "context.device" in change.signals)
    assert (change.name, change.kind, change.first) == (
        "context of events: device",
        "behaviour",
        made.windows[6].name,
    )
    assert "web" in change.sentence
    assert "phone" in change.sentence
    assert not any("context.price" in change.signals for change in report.changes)


def test_a_later_report_keeps_the_bins_of_the_first():
    """On grown data values have other codes and numbers another median."""
    first, price = context_columns(
        (
            Feature(name="d", kind="categorical", values=("phone", "web")),
            Feature(name="p", kind="number", center=1.0, scale=2.0),
        )
    )
    before = {"d": first.record(), "p": price.record()}
    grown = (
        Feature(name="d", kind="categorical", values=("car", "phone", "web")),
        Feature(name="p", kind="number", center=9.0, scale=1.0),
    )
    later, later_price = context_columns(grown, before)
    assert later.signal == first.signal
    assert [later.signal.labels[b] for b in later.bins(np.array([0, 1, 2, 3, 4]))] == [
        *("unknown", "other", "phone", "web", "other"),
    ]
    assert later_price.edges == price.edges
    assert later_price.bins(np.array([np.nan, -99, 1.0, 99])).tolist() == [0, 1, 5, 9]


def test_many_values_share_bins_in_alphabetic_order():
    values = tuple(f"v{n:03d}" for n in range(95))
    (column_,) = context_columns((Feature(name="d", kind="categorical", values=values),))
    bins = column_.bins(np.arange(96))
    assert column_.signal.size <= 32
    assert (np.diff(bins[1:96]) >= 0).all()
    assert column_.signal.labels[bins[1]] == "v000 .."
