"""A past that wanders of itself makes the same wander later no news, and hides no change that is larger."""

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.drift.simulate import Plant, simulate
from drift.cells.compare import compare
from drift.cells.types import PREVIOUS, REFERENCE, Cell, CellContext, Wander
from drift.cells.wander import past_pairs, past_wander
from drift.config import DriftConfig
from drift.plan import Plan
from drift.signals.histograms import HistogramMaker
from drift.signals.items import ItemCounts, read_item_facts
from drift.signals.past import PastCounts
from drift.stats.resampling import Excess

WINDOWS, STEP = 16, 14


def context_of(**planted):
    """Quarters of 150 users, four of them the reference, two after the cut."""
    plant = Plant(windows=WINDOWS, users=150, items=60, **{"step": STEP} | planted)
    made = simulate(plant, 3)
    facts = read_item_facts(made.items, plant.items, plant.items)
    plan = Plan(
        made.windows,
        made.windows[STEP].start_s - 1,
        [10, 11, 12, 13],
        list(range(4, 14)),
        [14, 15],
        list(range(6, 10)),
    )
    past = PastCounts.of_shard(made.shard, made.windows[10].start_s, plant.items).tables()
    counts = ItemCounts.of_shard(made.shard, made.windows, plant.items)
    make = HistogramMaker(made.windows, list(range(WINDOWS)), facts, counts, plan.year_before, past)
    config = DriftConfig(permutations=199, bootstrap=2, alibi=())
    return CellContext(config, plan, make(made.shard), make.layout, counts=counts, facts=facts)


def p_of_stars(context, comparison=PREVIOUS):
    return next(row.p for row in compare(context, Cell(comparison, STEP)) if row.signal == "rating")


@pytest.fixture(scope="module")
def calm():
    context = context_of()
    return replace(context, wander=past_wander(context))


def test_a_past_that_wanders_is_in_the_null():
    """Stars that went up and down by a fifth of a star for ten quarters do so again."""
    context = context_of(wander=0.2, rating=0.15)
    known = replace(context, wander=past_wander(context))
    usual = known.wander.at(PREVIOUS, 1)
    names = [signal.name for signal in context.layout]
    assert 0.05 < np.sqrt(usual.square_S[names.index("rating")]) < 0.5
    assert p_of_stars(known) > max(0.05, 3 * p_of_stars(context))
    assert p_of_stars(known, REFERENCE) > p_of_stars(context, REFERENCE)


def test_a_calm_past_hides_nothing(calm):
    """The same change after a past without wander stays news."""
    changed = context_of(rating=0.4)
    known = replace(changed, wander=past_wander(changed))
    assert p_of_stars(known) <= 0.02
    assert p_of_stars(calm) > 0.02


def test_pairs_lie_in_the_past_and_blocks_behind_their_window(calm):
    pairs = past_pairs(calm.plan)
    assert {pair.comparison for pair in pairs} == {PREVIOUS, REFERENCE}
    for pair in pairs:
        assert pair.window in calm.plan.calibration
        if pair.comparison == REFERENCE:
            assert len(pair.block) == 4
            assert pair.block[-1] < pair.window
            assert pair.lag >= 2
    assert len(pairs) == len(set(pairs))


def test_a_short_past_says_nothing_and_one_break_is_no_wander():
    few = Wander({PREVIOUS: {1: np.ones((2, 3))}})
    assert few.at(PREVIOUS, 1) is None
    assert few.at(REFERENCE, 4) is None
    near = Wander({REFERENCE: {2: np.full((8, 1), 1.0), 9: np.full((8, 1), 3.0)}})
    assert near.at(REFERENCE, 3).square_S[0] == 1.0
    assert near.at(REFERENCE, 8).square_S[0] == 3.0


def test_what_is_told_from_few_pairs_has_longer_tails():
    """With nothing but the excess in the null, its tails are Student's."""
    null = np.abs(np.random.default_rng(0).standard_normal((40_000, 1)))
    for pairs, above in ((5, 0.030), (10_000, 0.0027)):
        wide = Excess(np.array([1e4]), pairs).widened(null, np.random.default_rng(1)) / 100
        assert np.mean(wide > 3) == pytest.approx(above, rel=0.15)
    same = Excess(np.array([0.0]), 5).widened(null, np.random.default_rng(1))
    np.testing.assert_allclose(same, null)
