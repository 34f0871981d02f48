"""kill -9 of a trial's process, of the driver, of the head: the same command finishes the sweep."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import optuna
import pytest
import ray
from optuna.trial import TrialState
from ray.cluster_utils import Cluster

from ss4rec.runs.folder import RunFolder
from tests.progress import started, until
from tuning.ray_tune import placement_groups_held

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]
TRIALS, EPOCHS = 3, 60  # what trains on beside the test must not end before its Ray does
SPACE = f"""
from optuna.distributions import FloatDistribution
from tuning.space import SearchSpace

SPACE = SearchSpace(
    base="debug",
    fixed={{"train.epochs": {EPOCHS}, "train.patience": 0, "tracking.wandb": "disabled"}},
    parameters={{"optim.lr": FloatDistribution(1e-4, 1e-2, log=True)}},
)
"""


def test_killed_worker_driver_and_head_lose_no_trial(small, tmp_path, monkeypatch):
    # A token in this account's home would be asked of a head that is started without one.
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    (tmp_path / "space.py").write_text(SPACE)
    folder = tmp_path / "runs" / "slow"
    head = new_head()
    first = start(small, tmp_path, head)
    worker, other = stand(folder, first, lambda number: epochs_in(folder, number) >= 3)
    os.kill(worker, signal.SIGKILL)
    until(lambda: "continuing 0000 at epoch" in log(folder, 0), first)
    first.kill()  # the driver
    first.wait()
    assert nothing_held(head)

    second = start(small, tmp_path, head)
    times = [log(folder, number).count("continuing") for number in (0, 1)]
    worker, other = stand(
        folder, second, lambda number: log(folder, number).count("continuing") > times[number]
    )
    before = epochs_in(folder, 0)
    os.kill(worker, signal.SIGCONT)
    until(lambda: epochs_in(folder, 0) > before, second)
    for processes in head.head_node.all_processes.values():
        for process in processes:
            os.kill(process.process.pid, signal.SIGKILL)
    os.kill(other, signal.SIGCONT)
    second.communicate()
    assert second.returncode != 0
    head.shutdown()

    head = new_head()
    third = start(small, tmp_path, head)
    text, _ = third.communicate()
    assert third.returncode == 0, text
    assert "were running when it stopped" in text
    assert nothing_held(head)
    head.shutdown()
    check_whole(folder)


def stand(folder, sweep, far_enough):
    """Stop the processes of the first two trials, each as soon as it is far enough, and return them.

    A trial that stands outlasts the start of another one, however long that takes.
    """
    standing = {}

    def both():
        for number in {0, 1} - set(standing):
            if far_enough(number) and (pid := lease(folder, number)):
                os.kill(pid, signal.SIGSTOP)
                standing[number] = pid
        return len(standing) == 2

    until(both, sweep)
    return standing[0], standing[1]


def check_whole(folder):
    """The study has every trial once, each ended; every epoch of each was kept once, and next to none repeated."""
    storage = f"sqlite:///{folder / 'study.db'}"
    trials = optuna.load_study(study_name=folder.name, storage=storage).get_trials()
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * TRIALS
    for trial in trials:
        assert sorted(trial.intermediate_values) == list(range(1, EPOCHS + 1))
        rows = RunFolder(folder / "trials" / f"{trial.number:04d}").metrics()
        assert [row["epoch"] for row in rows if row["kind"] == "epoch"] == list(range(1, EPOCHS + 1))
        # With a checkpoint at each step, a kill repeats at most the epoch whose line was the last thing it wrote.
        assert epochs_in(folder, trial.number) <= EPOCHS + log(folder, trial.number).count("continuing")


def new_head():
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    arguments = {"num_cpus": 2, "include_dashboard": True, "dashboard_port": port}
    return started(lambda: Cluster(initialize_head=True, head_node_args=arguments))


def nothing_held(head):
    """Look at the cluster, as another driver: its placement groups and processors are free again, in time."""
    ray.init(address=head.address, namespace="ss4rec", logging_level="ERROR")
    try:
        until(lambda: placement_groups_held() == 0 and ray.available_resources().get("CPU") == 2)
        return True
    finally:
        ray.shutdown()


def start(data, folder, head):
    """Give the sweep's command as a user does."""
    options = {
        "--data": data,
        "--space": folder / "space.py",
        "--trials": TRIALS,
        "--storage": folder / "runs",
        "--name": "slow",
        "--pruner": "none",
        "--address": head.address,
        "--set": "train.checkpoint_every_s=0",
    }
    return subprocess.Popen(
        [sys.executable, "-m", "ray_jobs.tune", *(str(part) for pair in options.items() for part in pair)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=Path(__file__).parents[2],
        env=os.environ
        | {"RAY_gcs_rpc_server_reconnect_timeout_s": "5"},  # a driver waits a minute for its head
    )


def lease(folder, number):
    """Return the process that trains a trial; 0 if none does."""
    path = folder / "trials" / f"{number:04d}" / "lease.json"
    return json.loads(path.read_text())["pid"] if path.exists() else 0


def log(folder, number):
    path = folder / "trials" / f"{number:04d}" / "log.txt"
    return path.read_text() if path.exists() else ""


def epochs_in(folder, number):
    return log(folder, number).count(" done  train loss")
