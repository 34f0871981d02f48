import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ss4rec.data.batches.epoch_order import EpochOrder
from ss4rec.errors import ConfigError

checked = settings(derandomize=True, deadline=None, max_examples=60)
orders = st.builds(
    EpochOrder,
    seed=st.integers(0, 2**40),
    windows=st.lists(st.integers(0, 9), min_size=1, max_size=6).filter(any).map(tuple),
    batch_size=st.integers(1, 12),
    shuffle_shards=st.integers(1, 4),
)


def stream(order, epoch, rank=0, world=1, start_step=0):
    """The (shard, row) of each window that a worker takes in an epoch."""
    out = []
    for group in order.remaining(epoch, start_step, epoch + 1):
        names = [(shard, row) for shard in group.shards for row in range(order.windows[shard])]
        out += [names[place] for place in order.share(group, rank, world, start_step)]
    return out


def steps(order, epoch, rank=0, world=1, start_step=0):
    """The same, cut into steps."""
    rows, out = iter(stream(order, epoch, rank, world, start_step)), []
    for size in order.share_sizes(rank, world)[start_step:]:
        out.append([next(rows) for _ in range(size)])
    assert next(rows, None) is None
    return out


@checked
@given(orders, st.integers(0, 3))
def test_every_window_comes_once_in_nearly_equal_batches(order, epoch):
    everything = [(shard, row) for shard, count in enumerate(order.windows) for row in range(count)]
    assert sorted(stream(order, epoch)) == everything
    sizes = [len(batch) for batch in steps(order, epoch)]
    assert len(sizes) == order.steps_per_epoch
    assert max(sizes) <= order.batch_size
    assert max(sizes) - min(sizes) <= 1


@checked
@given(orders, st.integers(1, 5))
def test_workers_together_take_each_batch(order, world):
    shares = [steps(order, 1, rank, world) for rank in range(world)]
    for step, batch in enumerate(steps(order, 1)):
        assert [shares[rank][step] for rank in range(world)] == [batch[rank::world] for rank in range(world)]


@checked
@given(orders, st.integers(1, 3), st.data())
def test_resuming_gives_the_rest(order, world, data):
    start = data.draw(st.integers(0, order.steps_per_epoch - 1))
    for rank in range(world):
        assert steps(order, 2, rank, world, start) == steps(order, 2, rank, world)[start:]


def test_resuming_skips_whole_groups():
    order = EpochOrder(seed=1, windows=(10,) * 6, batch_size=5, shuffle_shards=2)
    assert [group.index for group in order.remaining(0, 0, 2)] == [0, 1, 2, 0, 1, 2]
    assert [(group.epoch, group.index) for group in order.remaining(0, 8, 2)] == [
        (0, 2),
        (1, 0),
        (1, 1),
        (1, 2),
    ]


def test_epochs_and_seeds_differ_and_calls_agree():
    order = EpochOrder(seed=3, windows=(20, 20, 20), batch_size=8, shuffle_shards=2)
    assert stream(order, 0) == stream(order, 0)
    assert stream(order, 0) != stream(order, 1)
    assert stream(order, 0) != stream(EpochOrder(4, order.windows, 8, 2), 0)
    same_size = EpochOrder(seed=3, windows=(9, 9), batch_size=9, shuffle_shards=1)
    first, second = (same_size.share(group, 0, 1).tolist() for group in same_size.groups(0))
    assert first != second


GOLDEN_SHARDS = [(3, 1), (2, 0)]
GOLDEN_ROWS = [[1, 0, 2, 4, 6, 5, 8, 3, 7], [6, 9, 4, 7, 3, 11, 10, 5, 12, 2, 8, 1, 0]]


def test_the_order_is_pinned():
    """A change here changes every run ever recorded: raise the format of the run record with it."""
    order = EpochOrder(seed=2020, windows=(7, 5, 6, 4), batch_size=8, shuffle_shards=2)
    groups = order.groups(3)
    assert [group.shards for group in groups] == GOLDEN_SHARDS
    assert [order.share(group, 0, 1).tolist() for group in groups] == GOLDEN_ROWS
    assert order.bounds.tolist() == [0, 8, 15, 22]


def test_too_many_workers_are_refused():
    order = EpochOrder(seed=0, windows=(9,), batch_size=8, shuffle_shards=1)
    order.check_world(4)
    with pytest.raises(ConfigError, match="9 training windows give batches of 4 for 5 workers"):
        order.check_world(5)
    with pytest.raises(ConfigError, match="no user has"):
        EpochOrder(seed=0, windows=(0, 0), batch_size=8, shuffle_shards=1).check_world(1)


def test_a_permutation_is_uniform():
    """Each of 4 rows stands first in about a quarter of the epochs."""
    order = EpochOrder(seed=5, windows=(4,), batch_size=4, shuffle_shards=1)
    firsts = [stream(order, epoch)[0][1] for epoch in range(400)]
    assert np.bincount(firsts).min() > 70
