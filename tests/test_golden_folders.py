"""Folders that release f17c6ec wrote still load and give the same figures; a source still gives the same folder.

Synthetic ratings (`ss4rec data synth --users 60 --items 100 --mean-len 22 --seed 3`) with made-up users.
"""

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pytest
import torch

from ss4rec.data.prepare.engine import prepare
from ss4rec.data.prepared.folder import PreparedFolder
from ss4rec.data.sources.checks import rules_for
from ss4rec.evaluation.alone import evaluate_alone
from ss4rec.recommender import load
from ss4rec.runs.folder import RunFolder
from ss4rec.runs.record import is_same_data
from ss4rec.train.worker import train_alone
from tests.data.reference import content

GOLDEN = Path(__file__).parent / "golden"


def test_the_folder_loads():
    folder = PreparedFolder.open(GOLDEN / "prepared")
    folder.verify()
    assert (folder.users.num_rows, folder.items.num_rows) == (60, 95)
    assert folder.profiles_UF.shape == (60, 4)
    assert folder.attributes_VA.any()
    assert is_same_data(RunFolder.open(GOLDEN / "run").record(), folder.manifest)


@pytest.mark.skipif(pa.__version__ != "25.0.1", reason="bytes of Parquet are those of one version of Arrow")
def test_the_source_gives_the_same_bytes(tmp_path):
    rules = rules_for("grouplens-dat", 1_800_000_000)
    options = {"name": "golden", "rows_per_shard": 25, "k_core": 3, "rules": rules}
    prepare(GOLDEN / "source.zip", tmp_path / "out", **options)
    assert content(tmp_path / "out") == content(GOLDEN / "prepared")


def test_the_run_gives_the_same_figures():
    expected = json.loads((GOLDEN / "run/result.json").read_text())["test"]["model"]["settings"]
    found = evaluate_alone(GOLDEN / "run", GOLDEN / "prepared", torch.device("cpu")).model_dump()["settings"]
    assert [row["metrics"] for row in found] == [pytest.approx(row["metrics"]) for row in expected]


def test_the_run_recommends_and_goes_on(tmp_path):
    items = PreparedFolder.open(GOLDEN / "prepared").items["source_id"].to_pylist()
    best = load(GOLDEN / "run").recommend(items[3:5], [1_500_000_000, 1_500_000_060], k=5)
    assert len(best) == 5
    run = shutil.copytree(GOLDEN / "run", tmp_path / "run")
    config = RunFolder.open(run).config()
    outcome = train_alone(config, GOLDEN / "prepared", run, torch.device("cpu"))
    assert outcome.epochs == config.train.epochs
