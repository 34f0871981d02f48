"""`--workers 1:2` while nodes go and come under the training: row 8 of docs/reliability.md."""

import json
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

from ss4rec.cluster.placement import preflight
from ss4rec.data.batches.source import LocalSource
from ss4rec.data.prepared.folder import PreparedFolder
from ss4rec.runs.folder import RunFolder
from ss4rec.train.optim import lr_share
from tests.faults.inject import Fault, with_faults
from tests.faults.small import last_checkpoint, small, train
from tests.progress import started

TRAINING = {
    # No dropout: its random numbers are each worker's own. Clipping, since Adam hides a gradient's scale.
    "model.dropout": 0.0,
    "optim.clip_norm": 1.0,
    "optim.schedule": "cosine",
    "optim.warmup_steps": 3,
}
RANGE = {"resources.workers": 1, "resources.max_workers": 2, "resources.resize_every_s": 1.0}
LOST_IN_3_S = {
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 1000,
    "health_check_failure_threshold": 3,
}


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

    def join(self):
        self.thread.join(timeout=400)
        assert not self.thread.is_alive()
        assert not self.failed


def look_at_nodes():
    """Let Ray's coordinator of requests count the nodes now; it does so every 20 s."""
    ray.get(get_or_create_autoscaling_coordinator()._tick.remote())


def assert_order(log, prepared, config):
    """Every batch of the log is its worker's share of what one worker would train on; returns workers by step."""
    source = LocalSource(prepared, config.data, batch_size=config.train.batch_size, seed=config.train.seed)
    steps = source.steps_per_epoch(0)
    batches = [batch for _, _, batch in source.train_batches(0, 0, config.train.epochs)]
    worlds, targets = {}, {}
    for row in map(json.loads, log.read_text().splitlines()):
        step, rank, world = row["step"], row["rank"], row["world"]
        assert divmod(step, steps) == (row["epoch"], row["step_of_epoch"])
        users = batches[step].users_S[rank::world].tolist()
        assert row["first_users"] == users[: len(row["first_users"])]
        share = lr_share(step, total_steps=len(batches), config=config.optim)
        assert row["lr"] == pytest.approx(config.optim.lr * share)
        worlds[step] = world
        targets.setdefault((step, world), {})[rank] = row["num_targets"]
    for (step, world), counts in targets.items():
        if len(counts) == world:  # nobody was killed before its log line
            assert sum(counts.values()) == batches[step].num_targets
    return worlds


@pytest.mark.ray
@pytest.mark.timeout(900)
def test_two_workers_then_one_then_two(prepared, tmp_path, monkeypatch):
    """Row 8: two workers; before step 4 the node of the second is lost and one goes on; before step 8 it waits for
    company, a node comes and two go on. Each step trained on the same windows as in a run of one worker (log of the
    order), with the same batch and schedule, and weights end within rounding of that run. Workers take every CPU and
    Ray Data still feeds them.

    Seen to fail: without `max_workers` in `_scaling` nobody stands at the first gate until the time limit; without the
    division by the targets of all workers.
    """
    from ss4rec.train import ray_train

    for name, value in {"WORKER_GROUP_START_TIMEOUT_S": "15", "HEALTH_CHECK_INTERVAL_S": "0.5"}.items():
        monkeypatch.setenv(f"RAY_TRAIN_{name}", value)
    run, flags, log = tmp_path / "run", tmp_path / "flags", tmp_path / "order.jsonl"
    config = small(**TRAINING, **RANGE, **{"data.source": "ray"})
    flags.mkdir()
    train(prepared, tmp_path / "whole", small(**TRAINING))
    RunFolder(run).start(config, PreparedFolder.open(prepared))
    faults = [Fault("gate", 1, 4), Fault("gate", 0, 8)]
    monkeypatch.setattr(ray_train, "_work", with_faults(ray_train._work, faults, flags, log))
    head = {"num_cpus": 1, "include_dashboard": False, "_system_config": LOST_IN_3_S}
    cluster = started(lambda: Cluster(initialize_head=True, head_node_args=head))
    try:
        leaving = started(lambda: cluster.add_node(num_cpus=1))
        ray.init(address=cluster.address, namespace="ss4rec", logging_level="ERROR")
        cluster.wait_for_nodes()
        placement = preflight(config.resources)
        outcome = {}
        fitting = Fitting.start(lambda: outcome.update(ray_train.fit(config, prepared, run, placement)))
        fitting.wait_for(flags / "gate-1-4")
        assert RunFolder(run).record().workers == 2
        cluster.remove_node(leaving, allow_graceful=False)
        look_at_nodes()
        fitting.wait_for(flags / "gate-0-8")
        assert RunFolder(run).record().workers == 1
        cluster.add_node(num_cpus=1)
        look_at_nodes()
        fitting.join()
    finally:
        ray.shutdown()
        cluster.shutdown()
    assert RunFolder(run).record().workers == 2
    assert outcome["global_step"] == 15
    worlds = assert_order(log, prepared, config)
    assert [worlds[step] for step in range(15)] == [2] * 4 + [1] * 4 + [2] * 7
    one, other = (last_checkpoint(tmp_path / name) for name in ("whole", "run"))
    for name, weights in one.model_tensors().items():
        torch.testing.assert_close(other.model_tensors()[name], weights, rtol=1e-3, atol=2e-5, msg=name)
