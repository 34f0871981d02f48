"""What a model is told about events is read from a prepared folder and from a file of histories alike."""

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import torch

import ss4rec
from ss4rec.config import RunConfig, override
from ss4rec.data.prepare.engine import prepare
from ss4rec.data.prepared.folder import PreparedFolder
from ss4rec.data.sources import Source, TableOptions
from ss4rec.recommendations.job import FileOfHistories, recommend_run
from ss4rec.recommendations.options import RecommendOptions
from ss4rec.recommendations.output import read_lists
from ss4rec.train.worker import train_alone
from tests.recommend.conftest import SHAPE


def test_columns_about_events_reach_the_model(tmp_path):
    rng = np.random.default_rng(0)
    rows = 40 * 10
    columns = {
        "user": np.repeat(np.arange(40), 10),
        "item": rng.integers(1, 9, rows),
        "time": np.tile(np.arange(10), 40) + 1_000_000_000,
        "channel": np.array([f"c{code}" for code in rng.integers(0, 4, rows)]),
        "price": rng.integers(1, 9, rows) / 2,
    }
    pacsv.write_csv(pa.table(columns), tmp_path / "shop.csv")
    options = TableOptions(context=("channel", "price"))
    prepare(tmp_path / "shop.csv", tmp_path / "data", k_core=0, columns=options)
    config = override(
        RunConfig(),
        SHAPE
        | {"data.source": "local", "train.epochs": 1, "tracking.wandb": "disabled", "train.batch_size": 8},
    )
    run, data = tmp_path / "run", PreparedFolder.open(tmp_path / "data")
    train_alone(config, tmp_path / "data", run, torch.device("cpu"))
    assert [column.name for column in ss4rec.Run(run).record.columns.context] == ["channel", "price"]
    asked = RecommendOptions(k=8, seen="kept", layout="pairs")
    recommend_run(run, tmp_path / "folder", data, asked)
    told = FileOfHistories(Source.open(tmp_path / "shop.csv", options))
    recommend_run(run, tmp_path / "file", told, asked)
    notes = []
    recommend_run(
        run,
        tmp_path / "plain",
        FileOfHistories(Source.open(tmp_path / "shop.csv")),
        asked,
        progress=notes.append,
    )
    assert any("reads channel, price too" in note for note in notes)
    folder, file, plain = (read_lists(tmp_path / name) for name in ("folder", "file", "plain"))
    assert file["score"].equals(folder["score"])
    assert file["item"].equals(folder["item"])
    assert not plain["score"].equals(folder["score"])
