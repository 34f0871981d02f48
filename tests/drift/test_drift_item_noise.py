"""Items in fashion and items that grow older are no news: the noise they give, against loops over items."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from benchmarks.drift.simulate import Plant, simulate
from drift.calendar import MONDAY_S, Window
from drift.cells.run import run_cell
from drift.cells.types import Cell, CellContext
from drift.config import DriftConfig
from drift.plan import Plan
from drift.signals.calendar_noise import weekday_noise
from drift.signals.definitions import signals
from drift.signals.histograms import HistogramMaker, UserHistograms
from drift.signals.item_noise import item_noise, profiles
from drift.signals.items import NEVER_S, ItemCounts, read_item_facts, top_lost
from drift.stats.distances import named_slices

WINDOWS = simulate(Plant(windows=8, users=5), 0).windows
ITEMS = 60


def catalogue(years):
    return pa.table(
        {
            "item": range(1, ITEMS + 1),
            "title": [f"Film {n} ({year})" for n, year in enumerate(years, start=1)],
            "genres": [["Drama"] if n % 3 else ["Comedy", "Drama"] for n in range(ITEMS)],
        }
    )


@pytest.fixture
def made():
    rng = np.random.default_rng(0)
    facts = read_item_facts(catalogue(rng.integers(1950, 2010, ITEMS)), ITEMS, ITEMS)
    counts_WV = rng.integers(0, 4000, (8, ITEMS + 1))
    counts_WV[:, 0] = 0
    return facts, ItemCounts(counts_WV, np.full(ITEMS + 1, NEVER_S))


def noise_of(made, name, ref=(2, 3), cur=6):
    facts, counts = made
    layout = facts.layout
    part = named_slices(layout)[name]
    return next(n for n in item_noise(counts, facts, WINDOWS, layout, ref, cur) if n.part == part)


def test_the_spread_equals_a_loop_over_items(made):
    """Of the genres: an item with two genres has twice the weight, as it has in the histograms."""
    facts, counts = made
    before_V, after_V = counts.counts_WV[[2, 3]].sum(axis=0), counts.counts_WV[6]
    weight_V = facts.genres_VG.sum(axis=1)
    shares = [side * weight_V / (side * weight_V).sum() for side in (before_V, after_V)]
    counted = sum(
        (share / (side * weight_V).sum()).sum()
        for share, side in zip(shares, (before_V, after_V), strict=True)
    )
    mean = (
        sum(share[v] * facts.genres_VG[v] / weight_V[v] for share in shares for v in range(1, ITEMS + 1)) / 2
    )
    want, squares = np.zeros((facts.genres_VG.shape[1],) * 2), 0.0
    for v in range(1, ITEMS + 1):
        gain = shares[1][v] - shares[0][v]
        apart = gain * (facts.genres_VG[v] / weight_V[v] - mean)
        want += np.outer(apart, apart)
        squares += gain**2
    found = noise_of(made, "genre")
    np.testing.assert_allclose(found.root_BB @ found.root_BB.T, want * (1 - counted / squares), atol=1e-12)
    assert found.offset_B is None


def test_the_offset_is_what_the_clock_alone_does(made):
    """The reference's items a year later: each moves from the bin of its age to that of its age then."""
    facts, counts = made
    found = noise_of(made, "item_age")
    ages = [profiles(facts, np.arange(ITEMS + 1), WINDOWS[w])["item_age"] for w in range(8)]
    want = sum(counts.counts_WV[w] @ (ages[6] - ages[w]) for w in (2, 3)) / counts.counts_WV[[2, 3]].sum()
    np.testing.assert_allclose(found.offset_B, want, atol=1e-12)
    assert np.abs(want).max() > 0.01


def test_counting_users_alone_gives_no_spread(made):
    """Two draws of events from the same items: nothing came into fashion."""
    facts, _ = made
    rng = np.random.default_rng(1)
    counts_WV = np.array([rng.multinomial(5000, np.r_[0, np.full(ITEMS, 1 / ITEMS)]) for _ in range(8)])
    still = (facts, ItemCounts(counts_WV, np.full(ITEMS + 1, NEVER_S)))
    drawn, moved = (
        np.trace(n.root_BB @ n.root_BB.T) for n in (noise_of(still, "decade"), noise_of(made, "decade"))
    )
    assert drawn < 0.05 * moved


def test_a_catalogue_that_grows_old_is_no_news():
    """Each film passes from 8 to 12 years of age between reference and window: a catalogue that nobody added to."""
    made = simulate(Plant(windows=7, users=150, returning=0.0), 3)
    items = made.items.set_column(
        1, "title", [[f"Film {n} ({1998 + n % 2})" for n in range(made.items.num_rows)]]
    )
    counts = ItemCounts.of_shard(made.shard, made.windows, items.num_rows)
    facts = read_item_facts(items, items.num_rows, items.num_rows)
    plan = Plan(made.windows, made.windows[2].start_s - 1, [0], [0, 1], [6], [])
    make = HistogramMaker(made.windows, list(range(7)), facts, counts)
    context = CellContext(DriftConfig(bootstrap=2, permutations=199), plan, make(made.shard), make.layout)
    with_items = replace(context, counts=counts, facts=facts)
    alone, known = (
        next(row for row in run_cell(c, Cell("reference", 6)) if row.signal == "item_age")
        for c in (context, with_items)
    )
    assert alone.p <= 0.01
    assert known.p > 0.2


def test_top_items_that_vanish():
    counts_WV = np.array([[0, 60, 30, 10], [0, 55, 35, 10], [0, 10, 80, 10]])
    assert top_lost(counts_WV, [0], 1) == 0
    assert top_lost(counts_WV, [0, 1], 2) == pytest.approx(115 / 200)
    assert top_lost(np.zeros((2, 4), int), [0], 1) == 0


@pytest.mark.parametrize(("kind", "alarm"), [("quarter", False), ("day", False)])
def test_the_days_of_a_window_are_no_news(kind, alarm):
    """Events come at one rate; a window of five weeks and a day has more of one day of the week."""
    week, rng = 7 * 86_400, np.random.default_rng(6)
    windows = [
        Window("ref", MONDAY_S, MONDAY_S + 4 * week),
        Window("cur", MONDAY_S + 4 * week, MONDAY_S + 5 * week + 3 * 86_400),
    ]
    window_R = np.repeat([0, 1], 1500)
    counts = [rng.multinomial(3, [1 / 7] * 7 if w == 0 else [2 / 10] * 3 + [1 / 10] * 4) for w in window_R]
    histograms = UserHistograms(window_R, np.arange(3000), np.full(3000, 3), np.array(counts, np.uint32))
    layout = tuple(s for s in signals(()) if s.name == "weekday")
    noise = weekday_noise(histograms, layout, windows, [0], 1)
    np.testing.assert_allclose(noise.offset_B, np.array([0.2] * 3 + [0.1] * 4) - 1 / 7, atol=0.03)
    plan = Plan(windows, windows[0].end_s - 1, [0], [0], [1], [])
    config = DriftConfig(window=kind, bootstrap=2, permutations=199)
    (row,) = run_cell(CellContext(config, plan, histograms, layout), Cell("reference", 1))
    assert row.effect > 0.1
    assert (row.p <= 0.05) is alarm
