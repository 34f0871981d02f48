"""Sweeps on real Ray: pruned, failed, out of time or disk, and continued; nothing is held afterwards."""

import json
import sqlite3
import struct
from contextlib import closing, contextmanager

import optuna
import pytest
import ray
import sqlalchemy
from click.testing import CliRunner
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState
from ray.tune.stopper import TimeoutStopper
from sqlalchemy import event
from wandb.proto.wandb_internal_pb2 import Record

from ss4rec.cli.train import train_command
from ss4rec.cli.tune import tune_command
from ss4rec.errors import ResourceError, SS4RecError
from ss4rec.runs.folder import RunFolder
from tests.progress import started, until
from tests.tuning.test_sweep_killed import epochs_in, log
from tuning.ray_tune import placement_groups_held
from tuning.space import SearchSpace
from tuning.study import REASON
from tuning.sweep import SweepConfig, run_sweep

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]
FIXED = {"train.epochs": 3, "tracking.wandb": "disabled", "train.patience": 0}


TWO = f"""
from optuna.distributions import CategoricalDistribution
from tuning.space import SearchSpace

SPACE = SearchSpace(
    base="debug",
    fixed={FIXED},
    parameters={{"optim.lr": CategoricalDistribution([1e-2, 1e-7])}},
    first=[{{"optim.lr": 1e-2}}, {{"optim.lr": 1e-7}}],
)
"""


@pytest.fixture(scope="module")
def cluster():
    # Two trials at a time: each has a process of its own, whose start costs more than its training.
    options = {"num_cpus": 2, "include_dashboard": True, "logging_level": "WARNING"}
    started(lambda: ray.init(address="local", **options))
    yield
    ray.shutdown()


def choice(*values):
    return SearchSpace(base="debug", fixed=FIXED, parameters={"optim.lr": CategoricalDistribution(values)})


def train_again(data, folder, preset):
    """Give `ss4rec train`; return how its training ended."""
    arguments = ["--data", data, "--preset", preset, "--storage", folder, "--name", "again", "--json"]
    told = CliRunner().invoke(train_command, list(map(str, arguments)), catch_exceptions=False)
    return json.loads(told.stdout.splitlines()[-1])["training"]


def trials_of(folder):
    return optuna.load_study(study_name=folder.name, storage=f"sqlite:///{folder / 'study.db'}").get_trials()


def test_a_sweep_prunes_reports_and_its_best_trial_can_be_trained_again(cluster, small, space, tmp_path):
    folder = tmp_path / "sweep"
    summary = run_sweep(space, small, folder, SweepConfig(trials=6))
    assert summary["trials"]["complete"] + summary["trials"]["pruned"] == 6
    assert summary["trials"]["pruned"] >= 1
    assert summary["placement_groups_left"] == placement_groups_held() == 0
    assert summary["epochs"] < 6 * 9
    best = json.loads((folder / "best.json").read_text())
    told = train_again(small, tmp_path, f"@{folder / 'best.json'}")
    assert told["best_score"] == best["values"][0]  # exactly, though Ray Train and Ray Data ran it
    assert told["best_epoch"] == best["best_epoch"]
    scope: dict = {}
    exec((folder / "preset.py").read_text(), scope)
    again = RunFolder(tmp_path / "again").config()
    assert scope["sweep_best"]().fingerprint() == again.fingerprint()
    again = run_sweep(space, small, folder, SweepConfig(trials=6))  # nothing is left to do
    assert again["best"] == summary["best"]


def test_nan_and_errors_end_their_trial_and_never_the_sweep(cluster, small, tmp_path):
    space = SearchSpace(
        base="debug",
        fixed=FIXED | {"resources.max_failures": 1},
        parameters={
            "optim.lr": FloatDistribution(1e-3, 1e30),
            "model.relation_backend": CategoricalDistribution(["reference", "mamba_ssm"]),
        },
        first=[
            {"optim.lr": 1e30, "model.relation_backend": "reference"},
            {"optim.lr": 1e-3, "model.relation_backend": "mamba_ssm"},  # not installed: always raises
            {"optim.lr": 2e-3, "model.relation_backend": "reference"},
            {"optim.lr": 1e-3, "model.relation_backend": "reference"},
        ],
    )
    # A folder in place of a file: it always raises what might be the machine's fault.
    (tmp_path / "bad" / "trials" / "0002" / "metrics.jsonl").mkdir(parents=True)
    summary = run_sweep(space, small, tmp_path / "bad", SweepConfig(trials=4, pruner="none"))
    nan, missing, raising, good = trials_of(tmp_path / "bad")
    assert "NonFiniteError: loss or gradient is not finite" in nan.user_attrs[REASON]
    assert "BackendError" in missing.user_attrs[REASON]
    told = "failed 2 times, resources.max_failures is 1; last: IsADirectoryError: [Errno 21]"
    assert told in raising.user_attrs[REASON]
    assert {trial.state for trial in (nan, missing, raising)} == {TrialState.FAIL}
    assert good.state is TrialState.COMPLETE
    assert summary["best"]["trial"] == good.number


def test_a_sweep_without_a_result_says_why(cluster, small, tmp_path):
    with pytest.raises(SS4RecError, match=r"no trial of none reached its end \(2 failed.*NonFiniteError"):
        run_sweep(choice(1e30, 2e30), small, tmp_path / "none", SweepConfig(trials=2))
    assert (tmp_path / "none" / "report.html").exists()


def test_trials_of_several_workers_report_are_pruned_and_leave_nothing(cluster, small, tmp_path):
    """Given as a command: `--workers 2` ended in a TypeError once."""
    (tmp_path / "space.py").write_text(TWO)
    words = ["--data", small, "--space", tmp_path / "space.py", "--storage", tmp_path, "--name", "two"]
    words += ["--trials", 2, "--workers", 2, "--concurrent", 1, "--grace-epochs", 1]
    words += ["--set", "data.source=local", "--json"]
    told = CliRunner().invoke(tune_command, list(map(str, words)), catch_exceptions=False)
    summary = json.loads(told.stdout.splitlines()[-1])
    good, bad = trials_of(tmp_path / "two")
    assert good.state is TrialState.COMPLETE
    assert sorted(good.intermediate_values) == [1, 2, 3]
    assert bad.state is TrialState.PRUNED
    assert len(bad.intermediate_values) < 3
    assert RunFolder(tmp_path / "two" / "trials" / "0000").record().workers == 2
    until(lambda: placement_groups_held() == 0)  # Ray Train's cleaner works beside us
    assert summary["best"]["trial"] == 0


def test_no_dashboard_no_sweep(cluster, small, tmp_path, monkeypatch):
    monkeypatch.setattr(ray._private.worker, "get_dashboard_url", lambda: None)
    with pytest.raises(ResourceError, match=r"without its State API .*--include-dashboard=true"):
        run_sweep(choice(1e-3, 1e-2), small, tmp_path / "dark", SweepConfig(trials=2))


def test_two_objectives_in_one_group_of_wandb(cluster, small, tmp_path):
    space = SearchSpace(
        base="debug",
        fixed=FIXED | {"tracking.wandb": "offline"},
        parameters={"model.dim": IntDistribution(8, 16, step=8)},
        first=[{"model.dim": 8}, {"model.dim": 16}],
    )
    folder = tmp_path / "both"
    settings = SweepConfig(trials=2, objectives=("ndcg@10", "parameters"), pruner="none")
    summary = run_sweep(space, small, folder, settings)
    few, many = trials_of(folder)
    assert few.values[1] < many.values[1] == RunFolder(folder / "trials" / "0001").record().num_parameters
    assert summary["best"]["trial"] == max((few, many), key=lambda trial: trial.values[0]).number
    assert 'aria-label="Trade-off"' in (folder / "report.html").read_text()
    files = [next((folder / "trials" / name).glob("wandb/*/*.wandb")) for name in ("0000", "0001")]
    assert [wandb_run(file).run_group for file in files] == ["both", "both"]


def wandb_run(file):
    """Return the run in an offline file of Weights & Biases: after 7 bytes, frames of checksum, length, kind."""
    data, at = file.read_bytes(), 7
    while True:
        length, kind = struct.unpack_from("<HB", data, at + 4)
        assert kind == 1, "a frame that goes on in the next block; the run comes before any of those"
        record = Record.FromString(data[at + 7 : at + 7 + length])
        if record.HasField("run"):
            return record.run
        at += 7 + length


def test_a_full_disk_ends_the_sweep_in_one_sentence_and_no_trial_is_lost(cluster, small, tmp_path):
    space, folder = choice(1e-3, 1e-2), tmp_path / "full"
    (folder / "trials" / "0000").mkdir(parents=True)
    (folder / "trials" / "0000" / "log.txt").symlink_to("/dev/full")
    with pytest.raises(SS4RecError, match=r"No space left on device.*the same command again"):
        run_sweep(space, small, folder, SweepConfig(trials=1))
    assert [trial.state for trial in trials_of(folder)] == [TrialState.RUNNING]
    (folder / "trials" / "0000" / "log.txt").unlink()
    first = run_sweep(space, small, folder, SweepConfig(trials=1))
    study = folder / "study.db"
    with full_disk(study), pytest.raises(SS4RecError, match=r"is the disk full\?.*the same command again"):
        run_sweep(space, small, folder, SweepConfig(trials=60, concurrent=2))
    assert placement_groups_held() == 0
    before = trials_of(folder)
    assert 1 < len(before) < 60
    run_sweep(space, small, folder, SweepConfig(trials=len(before), concurrent=2))
    after = trials_of(folder)
    assert after[0].values == first["best"]["values"]
    assert [trial.number for trial in after] == list(range(len(before)))
    assert all(trial.state.is_finished() for trial in after)


@contextmanager
def full_disk(study):
    """Let no SQLite file grow; its own limit gives the very error of a full disk.

    Pages of 512 bytes are full after a few trials, those of SQLite's usual 4,096 after about 30.
    """
    with closing(sqlite3.connect(study)) as connection:
        connection.execute("PRAGMA page_size = 512")
        connection.execute("VACUUM")

    def limit(connection, record):
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count = {pages}")

    event.listen(sqlalchemy.engine.Engine, "connect", limit)
    try:
        yield
    finally:
        event.remove(sqlalchemy.engine.Engine, "connect", limit)


def test_a_sweep_that_is_out_of_time_stops_in_order_and_can_be_continued(
    cluster, small, tmp_path, monkeypatch
):
    folder = tmp_path / "late"
    space = SearchSpace(
        base="debug",
        fixed=FIXED | {"train.epochs": 12, "train.checkpoint_every_s": 0.0},
        parameters={"optim.lr": FloatDistribution(1e-3, 1e-2)},
    )
    settings = SweepConfig(trials=2, concurrent=1, pruner="none", minutes=60)
    with monkeypatch.context() as patch:
        patch.setattr(TimeoutStopper, "stop_all", lambda self: epochs_in(folder, 0) >= 3)
        with pytest.raises(SS4RecError, match="1 stopped by --minutes"):
            run_sweep(space, small, folder, settings)
    assert placement_groups_held() == 0
    assert [trial.state for trial in trials_of(folder)] == [TrialState.RUNNING]
    run_sweep(space, small, folder, settings)
    assert [trial.state for trial in trials_of(folder)] == [TrialState.COMPLETE] * 2
    assert "continuing 0000 at epoch" in log(folder, 0)
