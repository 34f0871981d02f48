"""Reports on data that grow: two files, one the beginning of the other, cut at the same second."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.drift.simulate import Plant, simulate
from drift.config import DriftConfig
from drift.job import exit_code, run_drift
from drift.report.contents import Report
from drift.report.store import RANKS_NAME
from ss4rec.data.prepare.engine import prepare
from ss4rec.data.split import split
from tests.drift.local_passes import run_locally
from tests.drift.test_drift_cells import untrained

CONFIG = DriftConfig(
    permutations=199,
    bootstrap=20,
    min_users=20,
    wandb="disabled",
    alibi=(),
    quality_users=30,
    targets_per_user=4,
)


@pytest.fixture(scope="module")
def grown(tmp_path_factory):
    """Nine quarters of 60 users, cut after the fourth; stars fall in the seventh, in which the first file ends.

    In the second file other users have lower ids, so that every user has another index.
    """
    root = tmp_path_factory.mktemp("grown")
    made = simulate(Plant(windows=9, users=60, step=6, rating=-1.5), 3)
    lengths = [len(row) for row in made.shard["items"]]
    flat = {name: made.shard[name].combine_chunks().flatten() for name in ("items", "timestamps", "ratings")}
    user_U = made.shard["user"].to_numpy().astype(np.int64)
    first_U = np.array([row[0].as_py() for row in made.shard["timestamps"]])
    late_U = first_U >= made.windows[6].start_s
    user_U = np.where(late_U, user_U, user_U + 10_000)  # those who join later come first
    table = pa.table(
        {
            "userId": np.repeat(user_U, lengths),
            "movieId": flat["items"],
            "timestamp": flat["timestamps"],
            "rating": flat["ratings"],
        }
    )
    for name, last_s in (("short", made.windows[6].start_s + 5 * 86_400), ("whole", 2**40)):
        part = table.filter(pa.compute.less(table["timestamp"], last_s))
        pq.write_table(part, root / f"{name}.parquet")
        prepare(root / f"{name}.parquet", root / f"full-{name}", k_core=0, rows_per_shard=100)
        split(root / f"full-{name}", root / name, made.windows[4].start_s - 1)
    return root


@pytest.fixture
def run(grown, tmp_path):
    return untrained(grown / "short/past", tmp_path / "run")


def test_watching_goes_on_when_data_grow(grown, run, tmp_path, monkeypatch):
    """The run of the first file is taken with the second; windows that are finished keep every figure."""
    run_locally(monkeypatch)
    before, _ = run_drift(grown / "short", run, tmp_path / "out", CONFIG)
    ranks = pq.read_table(tmp_path / "out" / RANKS_NAME)
    assert [window["name"] for window in before.windows] == ["2011Q1", "2011Q2"]
    after, code = run_drift(grown / "whole", run, tmp_path / "out", CONFIG, since_last=True)
    assert after.new_windows == ["2011Q3", "2011Q4"]
    figures = (
        "n_users",
        "targets",
        "all.HR@10",
        "all.NDCG@10",
        "pop_rolling.HR@10",
        "follow.HR@10",
        "entropy",
    )
    for old, new in zip(before.quality, after.quality, strict=False):
        assert {name: old[name] for name in figures} == {name: new[name] for name in figures}
    key = [("window", "ascending"), ("user", "ascending"), ("event_s", "ascending")]
    later = pq.read_table(tmp_path / "out" / RANKS_NAME)
    kept = later.filter(pa.compute.is_in(later["window"], value_set=pa.array(ranks["window"].unique())))
    assert kept.sort_by(key).equals(ranks.sort_by(key))
    stars = next(change for change in after.changes if "rating" in change.signals)
    assert (stars.name, stars.first, stars.ongoing) == ("stars", "2011Q3", True)
    assert code == 10
    assert Report.load(tmp_path / "out") == after
    again, code = run_drift(grown / "whole", run, tmp_path / "out", CONFIG, since_last=True)
    assert (again.new_windows, again.changes[0].name, code) == ([], after.changes[0].name, 0)  # said before

    anew, _ = run_drift(grown / "whole", run, tmp_path / "anew", CONFIG)
    for old, new in zip(before.quality, anew.quality, strict=False):
        assert old["all.HR@10"] == pytest.approx(new["all.HR@10"], abs=0.02)  # the same users and events
        assert old["targets"] == new["targets"]
    ours = [c for c in after.cells if c["comparison"] == "reference" and c["signal"] == "rating"]
    theirs = [c for c in anew.cells if c["comparison"] == "reference" and c["signal"] == "rating"]
    assert [c["effect"] for c in ours] == [c["effect"] for c in theirs]


def test_undecided_is_no_all_clear(grown, tmp_path, monkeypatch):
    """Too few users: the report says what would decide, and has an exit code of its own."""
    run_locally(monkeypatch)
    config = CONFIG.model_copy(update={"min_users": 90})
    report, code = run_drift(grown / "short", None, tmp_path / "out", config)
    assert report.verdicts.data.severity == "undecided"
    assert report.verdicts.data.action == "wait"
    assert "give --set window=year" in report.headline or "min_users" in report.headline
    assert (report.alert, code) == ("undecided", 11)
    assert exit_code(config.model_copy(update={"fail_on": "never"}), report) == 0


def test_months_can_decide(grown, tmp_path, monkeypatch):
    """Permutations grow with the windows, so that an adjusted p can fall below alpha."""
    run_locally(monkeypatch)
    config = CONFIG.model_copy(update={"window": "month", "min_users": 5, "permutations": 20})
    report, _ = run_drift(grown / "whole", None, tmp_path / "out", config)
    mine = [c for c in report.cells if c["comparison"] == "reference" and c["detector"] == "userperm"]
    assert len(report.windows) == 14
    assert max(c["p_floor"] for c in mine if c["p_floor"]) * len(report.windows) / 0.4 <= config.alpha
    assert {c["severity"] for c in mine if c["signal"] == "rating"} - {"undecided"}


def test_lost_labels_are_a_fault_of_the_pipeline(grown, run, tmp_path, monkeypatch):
    """Genres that the run knew and the data do not have any more."""
    run_locally(monkeypatch)
    items = pq.read_table(run / "items.parquet")
    known = items.set_column(
        items.column_names.index("genres"), "genres", pa.array([["Drama"]] * items.num_rows)
    )
    monkeypatch.setattr("drift.job.read_items", lambda folder: known)
    report, _ = run_drift(grown / "short", run, tmp_path / "out", CONFIG)
    change = report.changes[0]
    assert (change.name, change.kind, change.severity) == ("genre labels lost", "pipeline", "severe")
    assert report.verdicts.pipeline.action == "look"
    assert "check the logging" in report.headline
    assert "retrain on newer data" not in report.headline
