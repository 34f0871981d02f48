"""Rounds of the loop with its real steps on data that grow; what Ray does is done in this process."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch

from benchmarks.drift.simulate import Plant, simulate
from drift.report.contents import Report
from ss4rec.api.training import _train_here
from ss4rec.config import parse_section
from ss4rec.data.prepare.engine import prepare
from ss4rec.data.prepared.folder import PreparedFolder
from ss4rec.loop.journal import LoopJournal
from ss4rec.loop.settings import DecideConfig, WatchConfig
from ss4rec.loop.steps import Place, ended_windows, gate_of, training_cut_s
from ss4rec.loop.watch import run_watch
from ss4rec.registry import ModelRegistry
from ss4rec.runs.folder import RunFolder
from tests.drift.local_passes import run_locally

LOOK = {
    "permutations": 199,
    "bootstrap": 20,
    "min_users": 20,
    "wandb": "disabled",
    "alibi": [],
    "quality_users": 30,
    "targets_per_user": 4,
}
FEW = {
    "tracking.wandb": "disabled",
    "train.epochs": 1,
    "model.dim": 8,
    "data.max_len": 20,
    "data.overlap": 5,
    "evaluation.at_end": False,
}


@pytest.fixture(scope="module")
def timeline(tmp_path_factory):
    """A function that writes the data as they were at the end of a quarter, in the place that is watched."""
    root = tmp_path_factory.mktemp("rounds")
    made = simulate(Plant(windows=9, users=60, step=6), 3)
    lengths = [len(row) for row in made.shard["items"]]
    flat = {name: made.shard[name].combine_chunks().flatten() for name in ("items", "timestamps", "ratings")}
    users = np.repeat(made.shard["user"].to_numpy(), lengths)
    table = pa.table({"userId": users, "movieId": flat["items"], "timestamp": flat["timestamps"],
                      "rating": flat["ratings"]})  # fmt: skip

    def write(windows, out):
        last_s = made.windows[windows - 1].end_s
        path = root / f"until-{windows}.parquet"
        pq.write_table(table.filter(pc.less(table["timestamp"], last_s)), path)
        prepare(path, out / f"{windows}", k_core=0, rows_per_shard=100)
        (out / "films").unlink(missing_ok=True)
        (out / "films").symlink_to(out / f"{windows}")

    return write


def config_of(tmp_path, **sections):
    places = {name: str(tmp_path / value) for name, value in
              (("model", "registry/films"), ("data", "data/films"), ("work", "watch"))}  # fmt: skip
    raw = {**places, "look": LOOK, "train": {"preset": "debug", "set": FEW, "k_core": 2}, **sections}
    return parse_section(WatchConfig, raw, "watch.toml")


@pytest.fixture
def here(monkeypatch):
    run_locally(monkeypatch)
    monkeypatch.setattr(
        "ss4rec.train.run.train",
        lambda config, data, run_dir, address: _train_here(config, data.path, run_dir, torch.device("cpu")),
    )


def test_the_first_model_a_look_and_a_challenger(timeline, tmp_path, here):
    (tmp_path / "data").mkdir()
    config = config_of(
        tmp_path, decide={"max_age": 2, "cool_down": 0}, compare={"min_users": 20, "users": 40}
    )
    timeline(6, tmp_path / "data")
    first = run_watch(config)
    assert (first.action, first.promoted, first.champion) == ("retrain", True, 1)
    registry = ModelRegistry(Path(config.model))
    record = RunFolder(registry.folder(1)).record()
    place = Place(config, tmp_path, None)
    windows = ended_windows(config, place.data, None)
    assert record.cut_s == windows[-1].start_s - 1, "the last quarter is kept to compare on"

    timeline(7, tmp_path / "data")
    second = run_watch(config)
    look = LoopJournal(Path(config.work)).last("look")
    assert len(look["windows"]) == 2
    assert Report.load(Path(look["report"])).new_windows == look["windows"]
    assert second.action == "retrain"
    assert "2 windows old" in second.reason
    rows = LoopJournal(Path(config.work)).cycle(second.cycle)
    assert rows["train"]["how"] == "warm"
    challenger = RunFolder(Path(rows["train"]["run"]))
    gate = gate_of(place, record.cut_s)
    assert challenger.record().cut_s == training_cut_s(place, record.cut_s) == gate.start_s - 1 > record.cut_s
    assert [one.weights_sha256 for one in challenger.record().ancestry] == [
        registry.versions()[0].weights_sha256
    ]
    assert rows["compare"]["rows"][0]["users"] >= 20
    assert second.promoted == rows["compare"]["promote"]
    assert second.exit_code == (0 if second.promoted else 12)

    # The same champion and more data: only what is new is looked at.
    timeline(8, tmp_path / "data")
    third = run_watch(config_of(tmp_path, compare={"min_users": 20, "users": 40}))
    look = LoopJournal(Path(config.work)).last("look")
    assert not third.repeated
    if not second.promoted:
        assert Report.load(Path(look["report"])).new_windows == look["windows"][-1:]
    assert not (Path(config.work) / "cycles" / second.cycle / "looked").exists(), "copies of the data go"
    page = Path(third.page).read_text()
    assert page.count("<tr>") > 4
    assert PreparedFolder.open(Path(config.data)).manifest.users > 0


def test_events_that_come_late_are_looked_at_before_anything_is_trained(timeline, tmp_path, here):
    (tmp_path / "data").mkdir()
    timeline(6, tmp_path / "data")
    config = config_of(tmp_path, compare={"min_users": 20, "users": 40}, decide={"cool_down": 0})
    run_watch(config)
    path = tmp_path / "late.parquet"
    timeline(7, tmp_path / "data")
    table = pq.read_table(next(tmp_path.parent.parent.rglob("until-7.parquet")))
    pq.write_table(table.filter(pc.not_equal(pc.bit_wise_and(table["userId"], 7), 3)), path)
    prepare(path, tmp_path / "data" / "late", k_core=0, rows_per_shard=100)
    (tmp_path / "data" / "films").unlink()
    (tmp_path / "data" / "films").symlink_to(tmp_path / "data" / "late")
    found = run_watch(config)
    assert (found.action, found.exit_code) == ("look", 10)
    assert "are not those that it was trained on" in found.reason
    right = run_watch(config, clear="users asked to be forgotten")
    assert right.action == "retrain"
    assert LoopJournal(Path(config.work)).last("train")["how"] == "cold"


def test_nothing_has_ended_since_the_cut(timeline, tmp_path, here):
    (tmp_path / "data").mkdir()
    timeline(6, tmp_path / "data")
    last_s = PreparedFolder.open(tmp_path / "data" / "films").manifest.last_time_s
    config = config_of(tmp_path, first_cut=str(last_s - 86_400))
    first = run_watch(config)
    assert first.champion == 1
    assert RunFolder(ModelRegistry(Path(config.model)).folder(1)).record().cut_s == last_s - 86_400
    second = run_watch(config.model_copy(update={"decide": DecideConfig(max_age=1)}))
    assert (second.action, second.repeated, second.exit_code) == ("nothing", False, 0)
    assert "No window has ended since the champion's cut" in second.reason
