"""Facts of a folder against the same counted by hand."""

import numpy as np
import pytest

from ss4rec.auto.look import look
from ss4rec.data.batches.windows import ragged
from ss4rec.data.prepared.folder import PreparedFolder
from ss4rec.protocol.plan import make_plan
from ss4rec.protocol.settings import Protocol


@pytest.fixture
def facts(prepared):
    data = PreparedFolder.open(prepared)
    return look(data, make_plan(Protocol(), data))


def histories(prepared):
    """Yield items and times of each user's training events."""
    data = PreparedFolder.open(prepared)
    for number in range(len(data.shard_paths)):
        shard = data.read_shard(number)
        items, offsets = ragged(shard["items"])
        times, _ = ragged(shard["timestamps"])
        for start, stop in zip(offsets[:-1], offsets[1:], strict=True):
            yield items[start : stop - 2], times[start : stop - 2]


def test_counts_are_those_of_the_training_events(prepared, facts):
    everyone = list(histories(prepared))
    lengths = [len(items) for items, _ in everyone]
    assert facts.users == len(everyone)
    assert facts.events == sum(lengths)
    assert facts.user_events[0] == np.median(lengths)
    repeats = sum(len(items) - len(set(items.tolist())) for items, _ in everyone)
    assert facts.repeats == pytest.approx(repeats / sum(lengths))


def test_gaps_and_times(prepared, facts):
    gaps = np.concatenate([np.diff(times) for _, times in histories(prepared)])
    assert facts.zero_gaps == pytest.approx((gaps == 0).mean())
    times = np.concatenate([times for _, times in histories(prepared)])
    assert facts.span_days == pytest.approx((times.max() - times.min()) / 86_400)
    assert facts.resolution_s in (1, 60, 3_600, 86_400)
    assert facts.has_ratings
