"""Nothing chooses on the test item: training and selection are the same whatever each user's last event is."""

import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from ss4rec.config import override
from ss4rec.data.batches.source import LocalSource
from ss4rec.data.batches.windows import list_array, ragged
from ss4rec.data.prepared.manifest import Manifest, file_record
from ss4rec.data.prepared.tables import read_shard
from ss4rec.evaluation.alone import evaluate_alone
from ss4rec.presets import debug
from ss4rec.runs.folder import RunFolder
from ss4rec.runs.load import load_model
from ss4rec.train.worker import train_alone


def rewritten(folder, out, change):
    """Copy a prepared folder with `change(columns, last, items)` applied to each shard; `last` are the test events."""
    shutil.copytree(folder, out)
    manifest, shards = Manifest.load(out), []
    for record in manifest.shards:
        table = read_shard(out / record.name)
        columns = {name: ragged(table[name])[0].copy() for name in ("items", "timestamps", "ratings")}
        offsets = ragged(table["items"])[1]
        change(columns, offsets[1:] - 1, manifest.items)
        lists = [list_array(values, offsets) for values in columns.values()]
        pq.write_table(pa.Table.from_arrays([table["user"], *lists], schema=table.schema), out / record.name)
        shards.append(record.model_copy(update=file_record(out / record.name).model_dump()))
    manifest.model_copy(update={"shards": tuple(shards)}).save(out)
    return out


def other_last_events(columns, last, items):
    """Another item, time and rating."""
    columns["items"][last] = columns["items"][last] % items + 1
    columns["timestamps"][last] += 1_000_000
    columns["ratings"][last] = 0.5


def marked_last_events(columns, last, items):
    """An item that occurs nowhere else, in the year 2033."""
    columns["items"][columns["items"] == items] = 1
    columns["items"][last] = items
    columns["timestamps"][last] = 2 * 10**9


@pytest.mark.parametrize("target_time", [True, False])
def test_weights_curve_and_chosen_epoch_do_not_depend_on_test_items(prepared, tmp_path, target_time):
    rewritten(prepared, tmp_path / "other", other_last_events)
    changes = {
        "tracking.wandb": "disabled",
        "data.target_time": target_time,
        "model.inputs": ["rating", "gap", "clock", "date"],
        "model.item_attributes": True,
        "model.repeats": "learned",
        "loss.swap_inputs": 0.1,
        "optim.ema": 0.9,
        "train.epochs": 3,
    }
    config, found = override(debug(), changes), []
    for name, folder in (("one", prepared), ("two", tmp_path / "other")):
        outcome = train_alone(config, folder, tmp_path / name, torch.device("cpu"))
        curve = [
            {key: value for key, value in row.items() if key.startswith(("valid_", "train_loss", "epoch"))}
            for row in RunFolder(tmp_path / name).metrics()
            if row["kind"] == "epoch"
        ]
        found.append(
            (outcome.best_epoch, outcome.best_score, curve, load_model(tmp_path / name)[0].state_dict())
        )
    assert found[0][:3] == found[1][:3]
    assert len(found[0][2]) == 3
    assert all(torch.equal(tensor, found[1][3][name]) for name, tensor in found[0][3].items())
    tests = [
        evaluate_alone(tmp_path / name, folder, torch.device("cpu")).setting("kept", "known").metrics
        for name, folder in (("one", prepared), ("two", tmp_path / "other"))
    ]
    assert tests[0] != tests[1], "the copy has the same test items, so this test would prove nothing"


def test_no_batch_of_training_or_validation_holds_a_test_event(prepared, tmp_path):
    folder = rewritten(prepared, tmp_path / "marked", marked_last_events)
    item = Manifest.load(folder).items
    source = LocalSource(folder, debug().data, batch_size=16, seed=0)
    for _, _, batch in source.train_batches(0, 0, 1):
        assert item not in batch.items_T
        assert item not in batch.targets_T
    for batch in source.eval_batches("valid", 64):
        for values in (batch.items_T, batch.targets_S, batch.seen_X):
            assert item not in values
        assert int(batch.target_times_S.max()) < 2 * 10**9
        assert int(batch.hours_T.max()) < 2 * 10**9 // 3600
    assert any(item in batch.targets_S for batch in source.eval_batches("test", 64))
