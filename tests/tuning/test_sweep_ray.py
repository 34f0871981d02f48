"""Sweeps on real Ray: pruned, failed, killed and continued; nothing is held afterwards."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import optuna
import pytest
import ray
import torch
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState

from ss4rec.cli.options import resolve_config
from ss4rec.errors import ResourceError, SS4RecError
from ss4rec.runs import RunFolder
from ss4rec.train.session import train_alone
from tuning.job import SweepConfig, run_sweep
from tuning.ray_tune import placement_groups_held
from tuning.space import SearchSpace
from tuning.study import REASON

pytestmark = pytest.mark.ray
FIXED = {"train.epochs": 3, "tracking.wandb": "disabled", "train.patience": 0}
SLOW = """
from optuna.distributions import FloatDistribution
from tuning.space import SearchSpace

SPACE = SearchSpace(
    base="debug",
    fixed={"train.epochs": 40, "train.patience": 0, "tracking.wandb": "disabled"},
    parameters={"optim.lr": FloatDistribution(1e-4, 1e-2, log=True)},
)
"""


@pytest.fixture(scope="module")
def cluster():
    ray.init(address="local", num_cpus=4, include_dashboard=True, logging_level="WARNING")
    yield
    ray.shutdown()


def choice(*values):
    return SearchSpace(base="debug", fixed=FIXED, parameters={"optim.lr": CategoricalDistribution(values)})


def trials_of(folder):
    return optuna.load_study(study_name=folder.name, storage=f"sqlite:///{folder / 'study.db'}").get_trials()


def test_a_sweep_prunes_reports_and_its_best_trial_can_be_trained_again(cluster, small, space, tmp_path):
    folder = tmp_path / "sweep"
    summary = run_sweep(space, small, folder, SweepConfig(trials=9))
    assert summary["trials"]["complete"] + summary["trials"]["pruned"] == 9
    assert summary["trials"]["pruned"] >= 1
    assert summary["placement_groups_left"] == placement_groups_held() == 0
    assert summary["epochs"] < 9 * 9
    best = json.loads((folder / "best.json").read_text())
    config = resolve_config(f"@{folder / 'best.json'}", [])
    torch.set_num_threads(config.resources.threads_per_worker)
    outcome = train_alone(config, small, tmp_path / "again", torch.device("cpu"))
    assert outcome.best_score == best["values"][0]  # exactly
    assert outcome.best_epoch == best["best_epoch"]
    scope: dict = {}
    exec((folder / "preset.py").read_text(), scope)
    assert scope["sweep_best"]().fingerprint() == config.fingerprint()
    again = run_sweep(space, small, folder, SweepConfig(trials=9))  # nothing is left to do
    assert again["best"] == summary["best"]


def test_nan_and_errors_end_their_trial_and_never_the_sweep(cluster, small, tmp_path):
    space = SearchSpace(
        base="debug",
        fixed=FIXED,
        parameters={
            "optim.lr": FloatDistribution(1e-3, 1e30),
            "model.relation_backend": CategoricalDistribution(["reference", "mamba_ssm"]),
        },
        first=[
            {"optim.lr": 1e30, "model.relation_backend": "reference"},
            {"optim.lr": 1e-3, "model.relation_backend": "mamba_ssm"},  # not installed: always raises
            {"optim.lr": 1e-3, "model.relation_backend": "reference"},
        ],
    )
    summary = run_sweep(space, small, tmp_path / "bad", SweepConfig(trials=3, pruner="none"))
    nan, missing, good = trials_of(tmp_path / "bad")
    assert "NonFiniteError: loss or gradient is not finite" in nan.user_attrs[REASON]
    assert "BackendError" in missing.user_attrs[REASON]
    assert [trial.state for trial in (nan, missing, good)] == [
        TrialState.FAIL,
        TrialState.FAIL,
        TrialState.COMPLETE,
    ]
    assert summary["best"]["trial"] == good.number


def test_a_sweep_without_a_result_says_why(cluster, small, tmp_path):
    with pytest.raises(SS4RecError, match=r"no trial of none reached its end \(2 failed.*NonFiniteError"):
        run_sweep(choice(1e30, 2e30), small, tmp_path / "none", SweepConfig(trials=2))
    assert (tmp_path / "none" / "report.html").exists()


def test_trials_of_several_workers_report_are_pruned_and_leave_nothing(cluster, small, tmp_path):
    space = SearchSpace(
        base="debug",
        fixed=FIXED | {"resources.workers": 2, "data.source": "local"},
        parameters={"optim.lr": CategoricalDistribution([1e-2, 1e-7])},
        first=[{"optim.lr": 1e-2}, {"optim.lr": 1e-7}],
    )
    summary = run_sweep(space, small, tmp_path / "two", SweepConfig(trials=2, concurrent=1, grace_epochs=1))
    good, bad = trials_of(tmp_path / "two")
    assert good.state is TrialState.COMPLETE
    assert sorted(good.intermediate_values) == [1, 2, 3]
    assert bad.state is TrialState.PRUNED
    assert len(bad.intermediate_values) < 3
    assert RunFolder(tmp_path / "two" / "trials" / "0000").record().workers == 2
    wait_for(lambda: placement_groups_held() == 0)  # Ray Train's cleaner works beside us
    assert summary["best"]["trial"] == 0


def test_no_dashboard_no_sweep(cluster, small, tmp_path, monkeypatch):
    monkeypatch.setattr(ray._private.worker, "get_dashboard_url", lambda: None)
    with pytest.raises(ResourceError, match=r"without its State API .*--include-dashboard=true"):
        run_sweep(choice(1e-3, 1e-2), small, tmp_path / "dark", SweepConfig(trials=2))


def test_a_killed_trial_process_continues_from_its_checkpoint(small, tmp_path):
    process = start(small, tmp_path, trials=1)
    log = tmp_path / "runs" / "slow" / "trials" / "0000" / "log.txt"
    wait_for(lambda: epochs_in(log) >= 3, process)
    os.kill(json.loads((log.parent / "lease.json").read_text())["pid"], signal.SIGKILL)
    assert process.wait(timeout=120) == 0, process.stdout.read()
    assert "continuing 0000 at epoch" in log.read_text()
    check_whole(tmp_path / "runs" / "slow", trials=1)


def test_a_killed_driver_loses_no_trial(small, tmp_path):
    process = start(small, tmp_path, trials=3)
    folder = tmp_path / "runs" / "slow"
    log = folder / "trials" / "0000" / "log.txt"
    wait_for(lambda: epochs_in(log) >= 3, process)
    process.kill()
    process.wait(timeout=30)
    second = start(small, tmp_path, trials=3)
    text, _ = second.communicate(timeout=200)
    assert second.returncode == 0, text
    assert "were running when it stopped" in text
    assert "continuing 0000 at epoch" in log.read_text()
    check_whole(folder, trials=3)


def start(data, folder, *, trials):
    """Start the sweep of `SLOW` as a user does."""
    (folder / "space.py").write_text(SLOW)
    options = [
        "--data",
        data,
        "--space",
        folder / "space.py",
        "--trials",
        trials,
        "--storage",
        folder / "runs",
    ]
    options += ["--name", "slow", "--pruner", "none", "--concurrent", 1, "--address", "local"]
    return subprocess.Popen(
        [sys.executable, "-m", "ray_jobs.tune", *map(str, options), "--set", "train.checkpoint_every_s=0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=Path(__file__).parents[2],
    )


def check_whole(folder, *, trials):
    """Every trial ended, and every epoch of each was trained and kept exactly once."""
    found = trials_of(folder)
    assert [trial.state for trial in found] == [TrialState.COMPLETE] * trials
    for trial in found:
        assert sorted(trial.intermediate_values) == list(range(1, 41))
        rows = RunFolder(folder / "trials" / f"{trial.number:04d}").metrics()
        assert [row["epoch"] for row in rows if row["kind"] == "epoch"] == list(range(1, 41))


def epochs_in(log):
    return log.read_text().count(" done  train loss") if log.exists() else 0


def wait_for(condition, process=None):
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline, "nothing happened in two minutes"
        assert process is None or process.poll() is None, process.stdout.read()
        time.sleep(0.02)
