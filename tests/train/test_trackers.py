"""Trackers: what Weights & Biases, MLflow and TensorBoard get of a run, and what happens when one fails."""

import json
import threading

import pytest

from ss4rec.config import override
from ss4rec.errors import UsageError
from ss4rec.presets import preset
from ss4rec.runs.folder import RunFolder
from ss4rec.train import tracking
from ss4rec.train.trackers.base import ExperimentTracker, RunStart, flat
from ss4rec.train.tracking import Tracker, start_all, tracked

CONFIG = override(preset("debug"), {"tracking.wandb": "disabled"})
TEST = {
    "model": {"settings": [{"seen": "kept", "metrics": {"NDCG@10": 0.5}}]},
    "popularity": {"settings": [{"seen": "kept", "metrics": {"NDCG@10": 0.1}}]},
}


class Book(ExperimentTracker):
    """Keeps what it is told; fails where it is asked to."""

    title = "Book"

    def __init__(self, fails=()):
        self.lines, self.end, self.fails = [], None, fails

    def log(self, kind, global_step, figures):
        if "log" in self.fails:
            raise OSError("the page is torn")
        self.lines.append((kind, global_step, figures))

    def finish(self, end):
        if "finish" in self.fails:
            raise OSError("the cover is torn")
        self.end = end


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(tracking, "LOOK_EVERY_S", 0.01)
    return RunFolder(tmp_path)


def log(folder, rows):
    writer = Tracker(folder, CONFIG)
    for kind, step, score in rows:
        figures = {"epoch": step, "ended": ""} | ({} if score is None else {"valid_ndcg@10": score})
        writer.log(kind, step, **figures)


ROWS = [("status", 1, None), ("epoch", 2, 0.2), ("epoch", 4, 0.3), ("epoch", 6, 0.1)]


def test_a_tracker_sees_every_line_once_and_the_best_at_the_end(folder, monkeypatch):
    book = Book()
    monkeypatch.setattr(tracking, "start_all", lambda *_: [book])
    with tracked(folder, CONFIG) as tell_test:
        log(folder, ROWS[:3])
        while len(book.lines) < 3:
            threading.Event().wait(0.005)
        folder.rewind_metrics(2)  # a worker was restarted from the checkpoint of step 2
        log(folder, ROWS[2:])
        tell_test(TEST)
    assert [(kind, step) for kind, step, _ in book.lines] == [(kind, step) for kind, step, _ in ROWS]
    assert book.lines[1][2] == {"epoch": 2.0, "valid_ndcg@10": 0.2}
    assert book.end.figures == {
        "best/epoch": 4,
        "best/valid_ndcg@10": 0.3,
        "test/NDCG@10": 0.5,
        "test_popularity/NDCG@10": 0.1,
    }
    assert not book.end.failed


def test_a_tracker_that_fails_is_left_out_and_the_others_go_on(folder, monkeypatch, capsys):
    books = [Book(("log",)), Book(), Book(("finish",))]
    monkeypatch.setattr(tracking, "start_all", lambda *_: list(books))
    with tracked(folder, CONFIG):
        log(folder, ROWS)
    said = capsys.readouterr().out
    assert said.count("Book failed and is left out from here on: the page is torn") == 1
    assert said.count("the cover is torn") == 1
    assert [len(book.lines) for book in books] == [0, 4, 4]
    assert [book.end is not None for book in books] == [False, True, False]


def test_a_run_that_fails_is_told_so_and_its_error_goes_on(folder, monkeypatch):
    book = Book()
    monkeypatch.setattr(tracking, "start_all", lambda *_: [book])
    with pytest.raises(ValueError, match="a bug"), tracked(folder, CONFIG):
        raise ValueError("a bug")
    assert book.end.failed


def test_one_that_cannot_start_is_a_warning(tmp_path, monkeypatch, capsys):
    from ss4rec.train.trackers import tensor_board

    def broken(start):
        raise RuntimeError("no disk")

    monkeypatch.setattr(tensor_board.TensorBoard, "__init__", lambda self, start: broken(start))
    assert start_all(tmp_path, override(CONFIG, {"tracking.tensorboard": True})) == []
    assert "warning: TensorBoard could not be started and is left out: no disk" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "package", "words"),
    [
        ({"tracking.mlflow": "store"}, "mlflow", "pip install 'ss4rec[mlflow]'"),
        ({"tracking.tensorboard": True}, "torch.utils.tensorboard", "pip install 'ss4rec[tensorboard]'"),
    ],
)
def test_one_that_is_not_installed_is_the_users_to_decide(changes, package, words, tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UsageError) as refused:
        start_all(tmp_path, override(CONFIG, changes))
    assert words in str(refused.value)


def test_ids_are_kept_in_the_run_folder(tmp_path):
    """Two sweeps have trials of the same names, and two colleagues runs of the same."""
    start = RunStart(tmp_path, {})
    assert start.known_id("wandb") is None
    start.keep_id("wandb", "abc")
    start.keep_id("mlflow", "def")
    assert (start.known_id("wandb"), start.known_id("mlflow")) == ("abc", "def")
    assert RunStart(tmp_path, {}, group="sweep").name == f"sweep-{tmp_path.name}"


def test_flat():
    assert flat({"a": {"b": 1, "c": [1, 2]}, "d": "x"}) == {"a.b": 1, "a.c": "[1, 2]", "d": "x"}


def test_weights_and_biases_offline(prepared, tmp_path):
    """One offline folder a run, however often it is continued, with the best and not the last in its summary."""
    import torch
    import wandb

    from ss4rec.train.worker import train_alone

    wandb.teardown()
    changes = {"tracking.wandb": "offline", "tracking.model": "yes", "tracking.tags": ("first", "try")}
    for epochs in (1, 2):
        config = override(CONFIG, changes | {"train.epochs": epochs})
        train_alone(config, prepared, tmp_path / "0000", torch.device("cpu"))
    (run,) = (tmp_path / "0000/wandb").glob("offline-run-*")
    run_id = json.loads((tmp_path / "0000/trackers.json").read_text())["wandb"]
    assert run.name.endswith(run_id)
    assert run_id != "0000"
    (file,) = run.glob("*.wandb")
    text = file.read_bytes()
    for word in (
        b"epoch/valid_ndcg@10",
        b"data_sha256",
        b"best/valid_ndcg@10",
        b"model.safetensors",
        b"first",
    ):
        assert word in text, word


def test_mlflow_store(prepared, tmp_path):
    pytest.importorskip("mlflow")
    import torch
    from mlflow import MlflowClient

    from ss4rec.train.worker import train_alone

    store = tmp_path / "store"
    changes = {
        "tracking.mlflow": str(store),
        "tracking.mlflow_model": "next-film",
        "tracking.tags": ("first",),
    }
    for epochs in (1, 2):
        config = override(CONFIG, changes | {"train.epochs": epochs, "tracking.project": "films"})
        train_alone(config, prepared, tmp_path / "run", torch.device("cpu"))
    client = MlflowClient(f"sqlite:///{store}/mlflow.db")
    experiment = client.get_experiment_by_name("films")
    (run,) = client.search_runs([experiment.experiment_id])
    assert (run.info.run_name, run.info.status) == ("run", "FINISHED")
    assert run.data.params["model.dim"] == "16"
    assert run.data.tags["data"] == "synth"
    assert len(client.get_metric_history(run.info.run_id, "epoch/valid_ndcg_at_10")) >= 2
    assert run.data.metrics["best/valid_ndcg_at_10"] > 0
    assert {file.path for file in client.list_artifacts(run.info.run_id, "model")} >= {
        "model/model.safetensors",
        "model/config.json",
    }
    assert [version.version for version in client.search_model_versions("name='next-film'")]


def test_tensorboard_files(prepared, tmp_path):
    pytest.importorskip("tensorboard")
    import torch
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    from ss4rec.train.worker import train_alone

    for epochs in (1, 2):
        config = override(CONFIG, {"tracking.tensorboard": True, "train.epochs": epochs})
        train_alone(config, prepared, tmp_path / "run", torch.device("cpu"))
    events = EventAccumulator(str(tmp_path / "run/tensorboard")).Reload()
    steps = [event.step for event in events.Scalars("epoch/valid_ndcg@10")]
    assert len(steps) == 2
    assert steps == sorted(set(steps))
