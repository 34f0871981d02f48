import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ss4rec.data.batches.windows import Ranked, num_train_windows, ragged, target_windows, train_windows
from ss4rec.errors import ConfigError

checked = settings(derandomize=True, deadline=None, max_examples=60)
lengths_and_cut = st.tuples(
    st.lists(st.integers(3, 23), min_size=1, max_size=5), st.integers(1, 7), st.integers(0, 6), st.booleans()
).filter(lambda drawn: drawn[2] < drawn[1])


def make_shard(lengths, seed=0):
    """A shard with these many events a user; items are distinct, so that an item names its event."""
    rng = np.random.default_rng(seed)
    ends = np.cumsum(lengths)
    items = np.split(np.arange(1, ends[-1] + 1, dtype=np.int32), ends[:-1])
    # Ties, and steps above 2**24 s, where a float32 of the time itself would be wrong.
    times = [np.sort(rng.choice([0, 1, 60, 10**9], n)).cumsum() + 10**9 for n in lengths]
    return pa.table(
        {
            "user": pa.array(range(7, 7 + len(lengths)), pa.int32()),
            "items": pa.array(items, pa.list_(pa.int32())),
            "timestamps": pa.array(times, pa.list_(pa.int64())),
            # Of the same number as the item, so that a rating names its event too.
            "ratings": pa.array([part.astype(np.float32) for part in items], pa.list_(pa.float32())),
        }
    )


def naive_windows(items, times, max_len, overlap, target_time):
    """Windows of one user, event by event."""
    pairs = len(items) - 3
    ends = []
    end = pairs
    while end > 0:
        ends.insert(0, end)
        end = end - (max_len - overlap) if end > max_len else 0
    windows, done = [], 0
    for end in ends:
        places = range(max(0, end - max_len), end)
        gaps = [
            times[k + 1] - times[k] if target_time else (times[k] - times[k - 1] if k else 0) for k in places
        ]
        targets = [items[k + 1] if k >= done else 0 for k in places]
        hours = [(times[k + 1] if target_time else times[k]) // 3600 for k in places]
        windows.append(([items[k] for k in places], targets, gaps, hours))
        done = end
    return windows


@checked
@given(lengths_and_cut)
def test_windows_are_those_of_the_loop(drawn):
    lengths, max_len, overlap, target_time = drawn
    shard = make_shard(lengths)
    table = train_windows(shard, max_len=max_len, overlap=overlap, target_time=target_time)
    expected = [
        {
            "user": row["user"],
            "items": items,
            "targets": targets,
            "gaps": np.float32(gaps).tolist(),
            "hours": hours,
            "ratings": items,
        }
        for row in shard.to_pylist()
        for items, targets, gaps, hours in naive_windows(
            row["items"], row["timestamps"], max_len, overlap, target_time
        )
    ]
    assert table.to_pylist() == expected
    counts = num_train_windows(lengths, max_len, overlap)
    users = table["user"].to_pylist()
    assert counts.tolist() == [users.count(user) for user in shard["user"].to_pylist()]


@checked
@given(lengths_and_cut)
def test_each_training_pair_is_a_target_once_and_held_out_events_never_occur(drawn):
    lengths, max_len, overlap, target_time = drawn
    shard = make_shard(lengths)
    table = train_windows(shard, max_len=max_len, overlap=overlap, target_time=target_time)
    inputs, offsets = ragged(table["items"])
    targets, _ = ragged(table["targets"])
    assert np.diff(offsets).max(initial=0) <= max_len
    pairs = list(zip(inputs[targets > 0].tolist(), targets[targets > 0].tolist(), strict=True))
    training = [row["items"][:-2] for row in shard.to_pylist()]
    assert pairs == [pair for items in training for pair in zip(items, items[1:], strict=False)]
    held_out = {item for row in shard.to_pylist() for item in row["items"][-2:]}
    assert not held_out & {*inputs.tolist(), *targets.tolist()}


@checked
@given(lengths_and_cut, st.sampled_from(["valid", "test"]))
def test_windows_of_held_out_events_are_those_of_the_loop(drawn, split):
    lengths, max_len, _, target_time = drawn
    shard = make_shard(lengths)
    rows = shard.to_pylist()
    ends = np.array([len(row["items"]) - (2 if split == "valid" else 1) for row in rows])
    held = [
        np.array([row[name][end] for row, end in zip(rows, ends, strict=True)])
        for name in ("items", "timestamps")
    ]
    ranked = Ranked(np.arange(len(rows)), ends, *held)
    table = target_windows(shard, ranked, max_len=max_len, target_time=target_time)
    for row, got in zip(shard.to_pylist(), table.to_pylist(), strict=True):
        items, times = row["items"], row["timestamps"]
        held_out = len(items) - (2 if split == "valid" else 1)
        places = range(max(0, held_out - max_len), held_out)
        gaps = [
            times[k + 1] - times[k] if target_time else (times[k] - times[k - 1] if k else 0) for k in places
        ]
        assert got == {
            "user": row["user"],
            "items": [items[k] for k in places],
            "gaps": np.float32(gaps).tolist(),
            "hours": [(times[k + 1] if target_time else times[k]) // 3600 for k in places],
            "ratings": [items[k] for k in places],
            "places": [len(places) - 1],
            "targets": [items[held_out]],
            "target_times": [times[held_out]],
            "last_times": [times[held_out - 1]],
            "histories": [held_out],
            "weights": [1.0],
            "seen": items[:held_out],
        }


def test_a_slice_of_a_chunked_shard_gives_the_same_rows():
    whole = make_shard([9, 5, 14, 3])
    chunked = pa.concat_tables([whole.slice(0, 2), whole.slice(2)]).slice(1, 2)
    kwargs = {"max_len": 4, "overlap": 1, "target_time": False}
    expected = [row for row in train_windows(whole, **kwargs).to_pylist() if row["user"] in (8, 9)]
    assert train_windows(chunked, **kwargs).to_pylist() == expected


def test_users_too_short_for_a_pair_have_no_window():
    table = train_windows(make_shard([3, 3]), max_len=5, overlap=2, target_time=True)
    assert table.num_rows == 0
    assert table.schema.field("gaps").type == pa.list_(pa.float32())


def test_refusals_name_the_numbers():
    with pytest.raises(ConfigError, match=r"data\.overlap is 5, data\.max_len 5"):
        num_train_windows([9], 5, 5)
