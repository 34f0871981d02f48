import dataclasses
import threading
from contextlib import closing

import pytest
import torch

from ss4rec.config import DataConfig
from ss4rec.data.batches.ray_source import RaySource
from ss4rec.data.batches.replay import Replay
from ss4rec.data.batches.source import LocalSource
from ss4rec.data.prepared.folder import PreparedFolder
from ss4rec.protocol.plan import make_plan
from ss4rec.protocol.settings import Protocol

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("small_cluster")]

DATA = DataConfig(max_len=12, overlap=4, shuffle_shards=2)
SIZES = {"batch_size": 16, "seed": 9}


def assert_same(first, second):
    for field in dataclasses.fields(first):
        a, b = getattr(first, field.name), getattr(second, field.name)
        assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b, field.name


@pytest.mark.parametrize(
    ("rank", "world", "start", "warm"), [(0, 1, (0, 0), False), (1, 2, (1, 5), False), (0, 1, (0, 1), True)]
)
def test_ray_gives_the_batches_of_the_local_source(sharded, rank, world, start, warm):
    place = SIZES | {"rank": rank, "world": world}
    folder = PreparedFolder.open(sharded)
    if warm:
        middle_s = (folder.manifest.first_time_s + folder.manifest.last_time_s) // 2
        place["replay"] = Replay(middle_s, 0.3, 9).counted(folder, make_plan(Protocol(), folder), DATA)
    local = LocalSource(sharded, DATA, **place)
    through_ray = RaySource(sharded, DATA, **place)
    assert (local.order.num_windows < LocalSource(sharded, DATA, **SIZES).order.num_windows) == warm
    expected = list(local.train_batches(*start, 4))
    found = list(through_ray.train_batches(*start, 4))
    assert [place[:2] for place in found] == [place[:2] for place in expected]
    for a, b in zip(found, expected, strict=True):
        assert_same(a[2], b[2])
    if world == 2:
        found_eval = list(through_ray.eval_batches("test", 7))
        for a, b in zip(found_eval, local.eval_batches("test", 7), strict=True):
            assert_same(a, b)


def executors():
    return [thread for thread in threading.enumerate() if thread.name.startswith("StreamingExecutor")]


def test_leaving_early_stops_the_executor(sharded):
    source = RaySource(sharded, DATA, **SIZES)
    with closing(source.train_batches(0, 0, 200)) as batches:
        for _ in range(source.steps_per_epoch(0) + 1):
            next(batches)  # the first group is read here, those after it by tasks
        running = executors()
        assert running
    for thread in running:
        thread.join()
        assert not thread.is_alive()


def test_leaving_before_the_tasks_have_begun_stops_them_later(sharded):
    before = set(executors())
    with closing(RaySource(sharded, DATA, **SIZES).train_batches(0, 0, 200)) as batches:
        next(batches)
    for thread in threading.enumerate():
        if thread.name == "first-table-of-tasks":
            thread.join()
    for thread in set(executors()) - before:
        thread.join()
        assert not thread.is_alive()


def test_what_tasks_raise_is_raised(sharded):
    source = RaySource(sharded, DATA, **SIZES)

    def broken(item):
        if item:
            raise ValueError("broken")
        return item

    drawn = source._map(broken, [0, 1, 2])
    assert next(drawn) == 0
    with pytest.raises(Exception, match="broken"):
        next(drawn)
