"""Which events a report ranks: kinds that are targets alone; and models that number the items of the past otherwise."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest

from drift.model.names import BEFORE_CUT, FOLLOW, FROZEN, ROLLING
from drift.model.rank import rank_shard
from drift.model.retrained import own_order
from drift.model.targets import choose_targets
from drift.plan import _are_among
from ss4rec.config import ModelConfig
from ss4rec.data.prepared import tables
from ss4rec.data.sources.rows import Catalogue
from ss4rec.model.ss4rec import SS4Rec
from tests.drift.test_drift_quality import SHARD, task


def with_kinds(shard, *codes):
    return shard.append_column("context.event", pa.array(codes, pa.list_(pa.int32())))


def test_events_of_other_kinds_are_history_and_no_targets():
    shard = with_kinds(SHARD, [1, 1, 1, 2], [2, 2], [1, 1, 1])
    others = choose_targets(shard, task(wanted=("event", (1,))).choice)
    assert [one.user[0] for one in others] == [2]
    (one,) = choose_targets(shard, task(wanted=("event", (2,))).choice)
    assert (one.user, one.item, one.seen[0].tolist()) == ([0], [3], [1, 2])  # views are what came before
    everyone = {found.user[0] for found in choose_targets(shard, task(wanted=("event", (1, 2))).choice)}
    assert everyone == {found.user[0] for found in choose_targets(SHARD, task().choice)}


def test_the_last_target_before_the_cut_is_the_last_of_its_kind():
    times = pa.array([[10, 20, 30, 40], [1, 2], [5, 6, 7]], pa.list_(pa.int64()))
    early = pa.table({**{name: SHARD[name] for name in ("user", "items", "ratings")}, "timestamps": times})
    shard = with_kinds(early, [1, 2, 2, 1], [1, 1], [1, 1, 1])
    found = choose_targets(shard, task(window=BEFORE_CUT, wanted=("event", (2,))).choice)
    assert found == []  # item 2 is the last bought one; a single event is before it
    longer = with_kinds(early, [1, 1, 1, 2], [1, 1], [1, 1, 1])
    (one,) = choose_targets(longer, task(window=BEFORE_CUT, wanted=("event", (2,))).choice)
    assert (one.user, one.item) == ([0], [3])


def run_with(tmp_path, ids):
    """A run that knows the items `ids` (101, ...) in this order."""
    catalogue = Catalogue(
        pa.array(ids), pa.nulls(len(ids), pa.string()), pa.nulls(len(ids), pa.list_(pa.string()))
    )
    tables.write_table(tables.items_table(catalogue, np.array(ids) - 100), tmp_path / tables.ITEMS_NAME)
    return tmp_path


TIMELINE = SimpleNamespace(items=pa.table({"source_id": [100 + item for item in range(1, 20)]}))


def test_a_run_in_the_order_of_the_past_needs_no_other(tmp_path):
    assert own_order(run_with(tmp_path, list(range(101, 113))), TIMELINE, 12) is None


def test_ranks_do_not_depend_on_how_a_run_numbers_items(tmp_path):
    """Items 4, 9 and 12 never trained and come last, as where they are known by features."""
    ids = [100 + item for item in (1, 2, 3, 5, 6, 7, 8, 10, 11, 4, 9, 12)]
    order = own_order(run_with(tmp_path, ids), TIMELINE, 12)
    assert (order.size, order.from_V.tolist()) == (12, [0, 1, 2, 3, 5, 6, 7, 8, 10, 11, 4, 9, 12])
    plain = task()
    lines = plain.baselines
    moved = replace(
        lines,
        frozen_V=order.moved(lines.frozen_V),
        rolling_WV={window: order.moved(counts) for window, counts in lines.rolling_WV.items()},
        follow_VV=order.moved(order.moved(lines.follow_VV).T.tocsr()).T.tocsr(),
    )
    other = replace(plain, choice=replace(plain.choice, remap_V=order.remap_V), baselines=moved)
    model = SS4Rec(ModelConfig(dim=8, blocks=1, time_states=4, relation_states=4), 12).eval()
    before, after = (rank_shard(model, SHARD, asked) for asked in (plain, other))
    for name in (FROZEN, ROLLING, FOLLOW, "user", "known", "history"):
        assert before[name].equals(after[name]), name
    assert moved.follow_VV[order.remap_V[2], order.remap_V[9]] == 5


def test_items_that_the_run_leaves_out_are_unseen(tmp_path):
    """Item 3 never trained and has no features."""
    order = own_order(run_with(tmp_path, [101, 102, 104, 105]), TIMELINE, 5)
    assert (order.size, order.remap_V[:6].tolist()) == (4, [0, 1, 2, 5, 3, 4])
    assert order.moved(np.array([0, 10, 20, 30, 40, 50])).tolist() == [0, 10, 20, 40, 50]
    choice = replace(task().choice, remap_V=order.remap_V, vocabulary=order.size)
    (one,) = choose_targets(SHARD, choice)
    assert (one.user, one.item, one.passes) == ([0], [0], [])


@pytest.mark.parametrize(("own", "expected"), [([1, 3], True), ([1, 4], False)])
def test_a_run_may_know_fewer_items_than_the_past_but_no_others(own, expected):
    assert _are_among(pa.table({"source_id": own}), pa.table({"source_id": [1, 2, 3]})) == expected
