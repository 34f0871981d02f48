"""`--workers 1:2` while a node comes and goes under the training: row 8 of docs/reliability.md."""

import threading
import time
from dataclasses import dataclass

import pytest
import ray
import torch
from ray.cluster_utils import Cluster
from ray.data._internal.cluster_autoscaler.default_autoscaling_coordinator import (
    get_or_create_autoscaling_coordinator,
)

from ss4rec.data.manifest import Manifest
from ss4rec.errors import ConfigError, ResourceError
from ss4rec.resources import Cluster as Nodes
from ss4rec.resources import place, preflight
from ss4rec.runs import RunFolder
from tests.faults.inject import Fault, with_faults
from tests.faults.small import last_checkpoint, small, train
from tuning.plan import plan_trials

TRAINING = {
    # No dropout: its random numbers are each worker's own. Clipping, since Adam hides a gradient's scale.
    "model.dropout": 0.0,
    "optim.clip_norm": 1.0,
    "optim.schedule": "cosine",
    "optim.warmup_steps": 3,
}
RANGE = {"resources.workers": 1, "resources.max_workers": 2, "resources.resize_every_s": 1.0}


def test_preflight_asks_for_the_fewest_workers():
    """Seen to fail: with the most workers in `_require_slots`."""
    resources = small(**RANGE | {"resources.max_workers": 8}).resources
    placement = place(resources, Nodes(({"CPU": 1.0},)))
    assert (placement.workers, placement.max_workers, placement.data_cpus) == (1, 8, 1.0)
    assert str(placement).startswith("1 to 8 worker(s)")
    with pytest.raises(ResourceError, match="hold 0"):
        place(resources, Nodes(({"CPU": 0.5},)))


def test_range_is_checked():
    with pytest.raises(ConfigError, match="max_workers 2 is less than workers 3"):
        small(**{"resources.workers": 3, "resources.max_workers": 2})
    assert not small(**{"resources.workers": 2, "resources.max_workers": 2}).resources.elastic


def test_trials_are_not_elastic():
    with pytest.raises(ResourceError, match="write --workers 1"):
        plan_trials(small(**RANGE).resources, Nodes(({"CPU": 8.0},)))


@dataclass
class Fitting:
    """A training that runs in a thread, for nodes can only be added from the main one."""

    thread: threading.Thread
    failed: list

    @classmethod
    def start(cls, work):
        failed = []

        def guarded():
            try:
                work()
            except BaseException as error:
                failed.append(error)

        thread = threading.Thread(target=guarded, daemon=True)
        thread.start()
        return cls(thread, failed)

    def wait_for(self, flag):
        while not flag.exists():
            assert self.thread.is_alive(), self.failed
            time.sleep(0.1)  # a file of another process
        return flag.read_text()

    def join(self):
        self.thread.join(timeout=240)
        assert not self.thread.is_alive()
        assert not self.failed


def look_at_nodes():
    """Let Ray's coordinator of requests count the nodes now; it does so every 20 s."""
    ray.get(get_or_create_autoscaling_coordinator()._tick.remote())


@pytest.mark.ray
@pytest.mark.timeout(580)
def test_a_node_comes_and_goes(prepared, tmp_path, monkeypatch):
    """Begun on one worker, which waits before step 4 for company; a node comes: two go on from step 4. Before step 9
    the second waits and the node is lost: one worker goes on and ends within rounding of a run on one worker, so batch,
    order and schedule were the same throughout. Workers take every CPU and Ray Data still feeds them.

    Would fail: without `max_workers` in `_scaling` (waits before step 4 for ever); with `reserve=True` (no data).
    """
    from ss4rec.train import ray_backend

    for name, value in {"WORKER_GROUP_START_TIMEOUT_S": "15", "HEALTH_CHECK_INTERVAL_S": "0.5"}.items():
        monkeypatch.setenv(f"RAY_TRAIN_{name}", value)
    config, run, flags = (
        small(**TRAINING, **RANGE, **{"data.source": "ray"}),
        tmp_path / "run",
        tmp_path / "flags",
    )
    flags.mkdir()
    train(prepared, tmp_path / "whole", small(**TRAINING))
    RunFolder(run).start(config, Manifest.load(prepared), prepared)
    faults = [Fault("gate", 0, 4), Fault("gate", 1, 9)]
    monkeypatch.setattr(ray_backend, "_work", with_faults(ray_backend._work, faults, flags))
    beat = {
        "health_check_initial_delay_ms": 0,
        "health_check_period_ms": 1000,
        "health_check_failure_threshold": 3,
    }
    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 1, "include_dashboard": False, "_system_config": beat},
    )
    try:
        ray.init(address=cluster.address, namespace="ss4rec", logging_level="ERROR")
        placement = preflight(config.resources)
        outcome = {}
        fitting = Fitting.start(lambda: outcome.update(ray_backend.fit(config, prepared, run, placement)))
        fitting.wait_for(flags / "gate-0-4")
        joined = cluster.add_node(num_cpus=1)
        look_at_nodes()
        fitting.wait_for(flags / "gate-1-9")
        assert RunFolder(run).record().workers == 2
        assert last_checkpoint(run).global_step in (8, 9)  # the leading worker may be writing the other one
        cluster.remove_node(joined, allow_graceful=False)
        look_at_nodes()
        fitting.join()
    finally:
        ray.shutdown()
        cluster.shutdown()
    assert RunFolder(run).record().workers == 1
    assert outcome["global_step"] == 15
    one, other = (last_checkpoint(tmp_path / name) for name in ("whole", "run"))
    for name, weights in one.model_tensors().items():
        torch.testing.assert_close(other.model_tensors()[name], weights, rtol=1e-3, atol=2e-5, msg=name)
