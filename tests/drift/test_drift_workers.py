"""Who does the work of a report: whoever is free takes the next piece, a shard is read once, torch is left out."""

import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
from ray.exceptions import RayError

from drift import ray_passes
from drift.model import ranker
from drift.model.rank import RankTask, rank_shard
from drift.model.targets import TargetChoice
from ss4rec.config import DataConfig, ModelConfig
from ss4rec.model.ss4rec import SS4Rec
from tests.drift.test_drift_quality import WINDOWS, long_shard


class StandIn:
    """Ray with a clock: what an actor does takes as many seconds as the work says."""

    def __init__(self):
        self.now, self.ends, self.killed = 0.0, {}, []

    def begin(self, actor, seconds):
        actor.append(seconds)
        reference = object()
        self.ends[reference] = self.now + seconds, seconds
        return reference

    def wait(self, references, num_returns):
        assert num_returns == 1
        first = min(references, key=lambda one: self.ends[one][0])
        self.now = max(self.now, self.ends[first][0])
        return [first], [one for one in references if one is not first]

    def get(self, reference):
        seconds = self.ends[reference][1]
        if seconds < 0:
            raise ValueError("it failed")
        return 10 * seconds

    def remote(self, num_cpus):
        assert num_cpus == 1
        return lambda kind: SimpleNamespace(remote=kind)

    def kill(self, actor):
        self.killed.append(actor)


def test_whoever_is_free_takes_the_next_piece(monkeypatch):
    """Seen to fail: with `ActorPool.map`, which deals in order, so that the second actor waits for the first one."""
    ray, actors, todo = StandIn(), [[], []], [9, 1, 2, 3, 1, 1, 1]
    monkeypatch.setattr(ray_passes, "ray", ray)
    assert ray_passes._deal(actors, ray.begin, todo) == [10 * one for one in todo]
    assert actors == [[9], [1, 2, 3, 1, 1, 1]]
    assert ray.now == 9
    assert ray_passes._deal(actors, ray.begin, []) == []
    assert ray_passes._deal([[], [], []], ray.begin, [2]) == [20]


def test_actors_end_when_their_work_fails(monkeypatch):
    ray = StandIn()
    monkeypatch.setattr(ray_passes, "ray", ray)
    with pytest.raises(ValueError, match="it failed"), ray_passes._actors(list, 2) as actors:
        ray_passes._deal(actors, ray.begin, [1, -1, 3])
    assert len(ray.killed) == 2


def test_a_model_that_cannot_be_loaded_says_why(monkeypatch):
    """Work is dealt before the workers have loaded: what fails first is a part of it."""
    ray = StandIn()
    ray.put = lambda value: value
    monkeypatch.setattr(ray_passes, "ray", ray)
    gets = []

    def get(what):
        gets.append(what)
        raise RayError("a part") if not isinstance(what, list) else ValueError("the weights are damaged")

    ray.get = get
    actor = SimpleNamespace(
        load=SimpleNamespace(remote=lambda run, task: "load"),
        run=SimpleNamespace(remote=lambda *one: ray.begin([], 1)),
    )
    with pytest.raises(ValueError, match="the weights are damaged"):
        ray_passes._rank([actor], ["shard"], "run", "task")
    assert gets[-1] == ["load"]


def test_a_shard_in_parts_is_read_once_and_ranked_as_the_whole(monkeypatch):
    model = SS4Rec(ModelConfig(dim=8, blocks=1, time_states=4, relation_states=4), 12).eval()
    shard = long_shard(users=200)
    choice = TargetChoice(
        DataConfig(max_len=8, overlap=2), WINDOWS, {1: np.arange(0, 200, 2)}, cut_s=1, vocabulary=12
    )
    task, read = RankTask(choice, seed=1), []
    monkeypatch.setattr(ranker, "load_model", lambda run, device: (model, None))
    monkeypatch.setattr(ranker, "read_shard", lambda path: read.append(path) or shard)
    worker = ranker.Ranker()
    worker.load("run", task)
    found = [worker.run(number, "file", (part, 3)) for number in (0, 1) for part in range(3)]
    assert read == ["file", "file"]
    whole = rank_shard(model, shard, task)
    kept = [table for table in found if table is not None]
    assert len(kept) > 2
    assert pa.concat_tables(kept).equals(pa.concat_tables([whole, whole]))


def test_a_report_without_a_model_leaves_torch_out():
    """Each process of a report would take 100 MiB and more than a second for it."""
    code = "import sys, drift.job, drift.ray_passes, ss4rec.cluster.connect; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
