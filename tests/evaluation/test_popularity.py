"""Popularity baselines against counting in plain Python."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ss4rec.data.prepared.folder import PreparedFolder
from ss4rec.data.prepared.manifest import Manifest
from ss4rec.data.prepared.tables import read_shard
from ss4rec.evaluation.popularity import MostPopular, RecentlyPopular, TrainingEvents

ITEMS = 5


def batch_at(target_times, last_times):
    return SimpleNamespace(
        target_times_S=torch.tensor(target_times),
        last_times_S=torch.tensor(last_times),
        num_sequences=len(last_times),
        seen_X=torch.zeros(0, dtype=torch.int64),
        seen_offsets_S1=torch.zeros(len(last_times) + 1, dtype=torch.int64),
    )


times = st.integers(0, 60)
events = st.lists(st.tuples(times, st.integers(1, ITEMS)), min_size=1, max_size=40)


@settings(derandomize=True, deadline=None, max_examples=150)
@given(events, st.lists(st.tuples(times, times), min_size=1, max_size=8), st.integers(1, 50))
def test_recent_counts_equal_naive_ones(rows, moments, window_s):
    rows = sorted(rows)
    training = TrainingEvents(
        np.array([item for _, item in rows], np.int32), np.array([time for time, _ in rows]), ITEMS
    )
    scorer = RecentlyPopular(training, window_s)
    for known, at in ((True, [m[0] for m in moments]), (False, [m[1] for m in moments])):
        batch = batch_at(*map(list, zip(*moments, strict=True)))
        scores = scorer.scores(batch, target_time_known=known).matrix()
        expected = [
            [sum(j == item and m - window_s <= t < m for t, j in rows) for item in range(1, ITEMS + 1)]
            for m in at
        ]
        assert scores[:, 1:].tolist() == expected
        assert (scores[:, 0] == -torch.inf).all()


def test_events_are_those_of_training_in_order_of_time(prepared):
    manifest = Manifest.load(prepared)
    events = TrainingEvents.read(PreparedFolder.open(prepared).shard_paths, manifest.items)
    expected = sorted(
        (time, item)
        for path in PreparedFolder.open(prepared).shard_paths
        for row in read_shard(path).to_pylist()
        for item, time in list(zip(row["items"], row["timestamps"], strict=True))[:-2]
    )
    found = list(zip(events.times_E.tolist(), events.items_E.tolist(), strict=True))
    assert [time for time, _ in found] == [time for time, _ in expected]
    assert sorted(found) == expected
    assert events.counts().sum() == manifest.interactions - 2 * manifest.users


def test_most_popular_is_the_same_for_all_users_and_never_padding():
    scores = MostPopular(np.array([9, 2, 0, 5])).scores(batch_at([1, 2], [1, 2]), target_time_known=True)
    assert scores.matrix().tolist() == [[-np.inf, 2.0, 0.0, 5.0]] * 2


@pytest.mark.parametrize("scorer_type", [MostPopular, RecentlyPopular])
def test_baselines_say_whether_they_use_the_target_time(scorer_type):
    assert scorer_type.uses_target_time == (scorer_type is RecentlyPopular)
