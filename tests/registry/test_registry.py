"""The registry: versions, the pointer, its history, and a process that is killed at any point."""

import json
import os
import shutil

import pytest

from ss4rec.errors import DataError, LeaseError, UsageError
from ss4rec.io.journal import Journal, exclusive
from ss4rec.registry import ModelRegistry, champion, models, resolve
from ss4rec.registry.aliases import tell_trackers
from ss4rec.runs import checkpoint
from ss4rec.runs.folder import RunFolder
from tests.killed import killed_at
from tests.test_golden_folders import GOLDEN


def other_run(folder, change):
    """A copy of the golden run with another weight."""
    run = shutil.copytree(GOLDEN / "run", folder)
    best = checkpoint.best(run / "checkpoints")
    tensors = best.model_tensors()
    tensors["embedding.weight"][1] += change
    state = {k: v for k, v in best.state.items() if k != "format"}
    checkpoint.save(run / "checkpoints", model=tensors, training=best.training_tensors(), state=state)
    return run


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    base = tmp_path_factory.mktemp("runs")
    return [GOLDEN / "run", other_run(base / "b", 0.1), other_run(base / "c", 0.2)]


@pytest.fixture
def registry(tmp_path, runs):
    registry = ModelRegistry(tmp_path / "registry" / "films")
    for run in runs:
        registry.add(run)
    return registry


def test_a_version_is_a_run_folder_that_outlives_its_run(tmp_path, runs):
    registry = ModelRegistry(tmp_path / "films")
    run = shutil.copytree(runs[1], tmp_path / "run")
    assert registry.add(run).version == 1
    assert registry.add(run).version == 1, "the same weights are the same version"
    before = checkpoint.best(RunFolder.open(run).checkpoints).model_tensors()
    shutil.rmtree(run)
    registry.promote(1, "the first")
    kept = champion(registry.path)
    assert kept == registry.path / "versions" / "0001"
    after = checkpoint.best(RunFolder.open(kept).checkpoints).model_tensors()
    assert all(after[name].equal(before[name]) for name in before)
    assert RunFolder.open(kept).record().name


def test_promotions_and_rollbacks_are_remembered(registry):
    assert registry.champion_version() is None
    assert registry.promote(1, "the first")
    assert not registry.promote(1, "again")
    assert registry.promote(2, "better", {"NDCG@10": 0.2})
    assert registry.promote(3, "better still")
    assert registry.rollback("it was not") == 2
    assert registry.rollback("nor was that") == 1
    with pytest.raises(UsageError, match="no champion before this one"):
        registry.rollback("further")
    assert registry.rollback("forward again", to=3) == 3
    assert [(row["action"], row["version"], row["before"]) for row in registry.history()] == [
        ("promote", 1, None),
        ("promote", 2, 1),
        ("promote", 3, 2),
        ("rollback", 2, 3),
        ("rollback", 1, 2),
        ("rollback", 3, 1),
    ]
    assert registry.history()[1]["evidence"] == {"NDCG@10": 0.2}
    with pytest.raises(UsageError, match="needs a reason"):
        registry.promote(1, " ")
    with pytest.raises(UsageError, match="no version 9; it has 1, 2, 3"):
        registry.promote(9, "why not")


def test_resolving(registry, tmp_path):
    with pytest.raises(DataError, match="no champion yet"):
        champion(registry.path)
    with pytest.raises(DataError, match="no model of a registry"):
        champion(tmp_path / "nothing")
    registry.promote(2, "why not")
    assert resolve(registry.path) == champion(registry.path) == registry.folder(2)
    assert resolve(GOLDEN / "run") == GOLDEN / "run"
    assert [one.path.name for one in models(tmp_path / "registry")] == ["films"]
    assert models(tmp_path / "nothing") == []


def test_what_cannot_be_loaded_does_not_serve(registry):
    registry.promote(1, "the first")
    weights = next((registry.folder(2) / "checkpoints").glob("*/model.safetensors"))
    content = weights.read_bytes()
    weights.unlink()  # it is a link to the run's own
    weights.write_bytes(content[:-1])
    with pytest.raises(Exception, match="damaged"):
        registry.promote(2, "better")
    assert registry.champion_version() == 1


def test_a_damaged_pointer_is_said_and_mended(registry):
    registry.promote(1, "the first")
    (registry.path / "champion").write_text("{")
    with pytest.raises(DataError, match="is no pointer"):
        champion(registry.path)
    registry.mend()
    assert registry.champion_version() == 1


@pytest.mark.parametrize("steps", range(4))
def test_killed_at_any_point_nothing_is_lost_or_doubled(steps, tmp_path, runs, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda handle: None)  # what kill -9 loses is not on its way to the disk
    registry = ModelRegistry(tmp_path / "first")
    registry.promote(registry.add(runs[0]).version, "the first")
    killed = 0
    for step in range(1 + steps, 400, 4):
        model = ModelRegistry(shutil.copytree(registry.path, tmp_path / f"films-{step}"))

        def work(model=model):
            model.promote(model.add(runs[1]).version, "better")

        if not killed_at(step, work):
            break
        killed += 1
        assert champion(model.path) in (model.folder(1), model.path / "versions" / "0002")
        assert checkpoint.best(champion(model.path) / "checkpoints")
        work()  # the same step again
        assert [row["version"] for row in model.history()] == [1, 2]
        assert [one.version for one in model.versions()] == [1, 2]
        assert champion(model.path) == model.folder(2)
        assert not list((model.path / "versions").glob(".*"))
    assert killed > 10


@pytest.mark.parametrize("kept", [0, 1, 17, -1])
def test_a_torn_last_line_is_left_out_and_cut_off(kept, tmp_path):
    journal = Journal(tmp_path / "deep" / "log.jsonl")
    journal.append({"a": 1})
    line = json.dumps({"b": "x" * 20})
    with journal.path.open("a") as file:
        file.write(line[:kept])
    assert journal.rows() == [{"a": 1}]
    journal.append({"c": 3})
    assert journal.rows() == [{"a": 1}, {"c": 3}]
    with journal.path.open("a") as file:
        file.write("no json\n")
    with pytest.raises(DataError, match="line 3, is damaged"):
        journal.rows()


def test_the_lock_goes_with_its_process(tmp_path):
    lock = tmp_path / ".lock"

    def hold():
        with exclusive(lock, "it"):
            os.kill(os.getpid(), 9)

    with exclusive(lock, "it"), pytest.raises(LeaseError, match="another process works on it"):
        exclusive(lock, "it", wait=False).__enter__()
    assert killed_at(10_000, hold)
    with exclusive(lock, "it", wait=False):
        pass


def test_mlflow_gets_the_alias(tmp_path, runs):
    mlflow = pytest.importorskip("mlflow")
    from ss4rec.train.trackers.ml_flow import store_uri

    uri = store_uri(str(tmp_path / "store"))
    client = mlflow.MlflowClient(uri)
    run_id = client.create_run(client.create_experiment("x")).info.run_id
    client.create_registered_model("films")
    client.create_model_version("films", str(tmp_path), run_id)
    run = shutil.copytree(runs[0], tmp_path / "run")
    raw = json.loads((run / "config.json").read_text())
    raw["tracking"] |= {"mlflow": str(tmp_path / "store"), "mlflow_model": "films"}
    (run / "config.json").write_text(json.dumps(raw))
    assert "no version of this run" in tell_trackers(run)[0]
    (run / "trackers.json").write_text(json.dumps({"mlflow": run_id}))
    assert tell_trackers(run) == ["MLflow: model films, version 1 has the alias champion"]
    assert client.get_model_version_by_alias("films", "champion").version in (1, "1")
    (run / "config.json").write_text(
        json.dumps(raw | {"tracking": raw["tracking"] | {"mlflow": "sqlite:////dev/null/x.db"}})
    )
    assert "warning: the alias champion was not set" in tell_trackers(run)[0]
