"""Warm start with columns: what is known of a value stays, whatever its number is in the new data."""

import pytest
import torch

import ss4rec
from ss4rec.config import RunConfig, override
from ss4rec.data.prepare.engine import prepare
from ss4rec.data.prepared.folder import PreparedFolder
from ss4rec.data.prepared.manifest import Feature
from ss4rec.data.sources import TableOptions
from ss4rec.model.columns import DataColumns, EventColumn, ItemColumns
from ss4rec.recommender import History
from ss4rec.runs import checkpoint
from ss4rec.runs.folder import RunFolder
from ss4rec.train.moved_columns import ColumnMoves, Told
from ss4rec.train.warm import Parent, begin_warm, warm_config
from ss4rec.train.worker import train_alone

CPU = torch.device("cpu")
FIELDS = {
    "model.dim": 8, "model.blocks": 1, "model.time_states": 4, "model.relation_states": 4, "model.gap_map": "log",
    "model.inputs": ["gap"], "data.max_len": 10, "data.overlap": 2, "data.source": "local", "train.epochs": 2,
    "train.batch_size": 16, "tracking.wandb": "disabled",
}  # fmt: skip


def told(values, center, scale, channels, profiles):
    features = (
        Feature(name="brand", kind="categorical", values=values),
        Feature(name="price", kind="number", center=center, scale=scale),
        Feature(name="name", kind="text", size=4),
    )
    rows = len(values) + 1 + 2 + 4
    items = ItemColumns(
        names=("brand", "price", "name"), rows=rows, pairs=0, dims=0, meaning=features, trained=3
    )
    context = (EventColumn(name="channel", first=0, values=channels),)
    return Told(
        DataColumns(items=items, users=("sex",), user_codes=(1,), context=context), ("gap",), profiles
    )


def test_rows_follow_their_values():
    old = told(("a", "b"), 10.0, 2.0, ("app", "web"), ("sex=F", "sex=M"))
    new = told(("b", "c"), 13.0, 4.0, ("tv", "web"), ("sex=M",))
    move = ColumnMoves(old, new)
    before, fresh = torch.arange(9.0)[:, None], torch.full((9, 1), -1.0)
    moved = move("features.table", before, fresh).flatten().tolist()
    # b, c (new), other; price: known + (13 - 10) / 2 * row, row * 4 / 2; the text's buckets
    assert moved == [1, -1, 2, 3 + 1.5 * 4, 2 * 4, 5, 6, 7, 8]
    kept = move("features.table", before, fresh, stretch=False).flatten().tolist()
    assert kept[3:5] == [3, 4]
    gap, profile = 64, 256
    before = torch.arange(float(gap + profile + 4))[:, None]
    moved = move("parts.1.inputs.table", before, torch.full_like(before, -1.0)).flatten()
    assert moved[:gap].tolist() == list(range(gap))
    assert moved[gap + 1] == gap + 2  # sex=M
    assert moved[gap + profile + 1 :].tolist() == [-1, gap + profile + 2, gap + profile + 3]  # tv, web, other
    assert move("blocks.0.table", before, before) is None


def write(folder, name, brands, events):
    (folder / f"{name}.csv").write_text("user,item,time,channel\n" + "\n".join(events) + "\n")
    lines = [f"{item},{brand},{10 * item}" for item, brand in enumerate(brands)]
    (folder / "items.csv").write_text("item,brand,price\n" + "\n".join(lines) + "\n")
    prepare(
        folder / f"{name}.csv", folder / name, k_core=0, columns=TableOptions(context=("channel",)),
        item_features=folder / "items.csv", feature_kinds={"price": "number"},
    )  # fmt: skip
    return folder / name


@pytest.mark.parametrize("optimizer", ["fresh", "continue"])
def test_the_first_checkpoint_scores_as_the_run_before(tmp_path, optimizer):
    brands = ["b", "c", "b", "c", "b", "c"]
    events = [
        f"{u},{(u + e) % 6},{10**9 + 100 * u + e},{'xy'[(u * e) % 2]}" for u in range(30) for e in range(8)
    ]
    first = write(tmp_path, "first", brands, events)
    later = [f"{u},{6 + e % 2},{10**9 + 10**6 + 100 * u + e},w" for u in range(30) for e in range(4)]
    second = write(tmp_path, "second", [*brands, "a", "a"], events + later)
    config = override(RunConfig(), FIELDS | {"train.warm_optimizer": optimizer})
    train_alone(config, first, tmp_path / "parent", CPU)
    data = PreparedFolder.open(second)
    warm = warm_config(config, Parent.open(tmp_path / "parent"), data)
    folder = RunFolder(tmp_path / "warm")
    folder.start(warm, data)
    begin_warm(folder, warm, data)
    start = checkpoint.best(folder.checkpoints).model_tensors()
    parent = checkpoint.best(RunFolder(tmp_path / "parent").checkpoints).model_tensors()
    assert torch.equal(start["embedding.weight"][1:7], parent["embedding.weight"][1:7])
    train_alone(warm, second, tmp_path / "warm", CPU)
    both = [ss4rec.load(tmp_path / name) for name in ("parent", "warm")]
    both[1].model.load_state_dict(start)
    history = History(
        [1, 2, 3], [10**9, 10**9 + 1, 10**9 + 2], 10**9 + 3, context={"channel": ["x", "y", "x"]}
    )
    scores = [one.scores(history.items, history.times, history.target_time)[:6].tolist() for one in both]
    assert scores[0] == pytest.approx(scores[1], abs=1e-4)
    told = [one.recommend_many([history], 6, exclude_seen=False)[0] for one in both]
    known = {one.item: one.score for one in told[0]}
    assert any(one.score == pytest.approx(known.get(one.item, 1e9), abs=1e-4) for one in told[1])
