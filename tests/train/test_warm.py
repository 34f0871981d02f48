"""Warm start: known rows stay, new ones come from what is beside them, nothing new changes nothing."""

import json
import shutil

import numpy as np
import pytest
import torch

from ss4rec.config import override
from ss4rec.data.batches.source import LocalSource
from ss4rec.data.prepare.engine import prepare
from ss4rec.data.prepared.folder import PreparedFolder
from ss4rec.data.split import split
from ss4rec.data.synth.generate import synth
from ss4rec.errors import ConfigError, DataError
from ss4rec.evaluation.training import training_parts
from ss4rec.presets import preset
from ss4rec.protocol.plan import make_plan
from ss4rec.protocol.settings import Protocol
from ss4rec.runs import checkpoint
from ss4rec.runs.folder import RunFolder
from ss4rec.runs.load import load_model
from ss4rec.train.new_rows import NEAR, rows_of_new
from ss4rec.train.pace import Pace, planned_epochs, planned_minutes
from ss4rec.train.warm import Parent, begin_warm, item_tensors, warm_config
from ss4rec.train.worker import train_alone

CPU = torch.device("cpu")
SMALL = {
    "tracking.wandb": "disabled",
    "model.dim": 16,
    "model.blocks": 1,
    "data.max_len": 12,
    "data.overlap": 4,
    "train.epochs": 2,
    "train.warm_share": 1.0,
    "model.item_attributes": True,
    "model.repeats": "habits",
    "model.members": 2,
    "optim.ema": 0.9,
}
CONFIG = override(preset("debug"), SMALL)


@pytest.fixture(scope="module")
def pasts(tmp_path_factory):
    """The same timeline cut at two moments."""
    base = tmp_path_factory.mktemp("warm")
    synth(base / "csv", users=120, items=150, mean_len=30, seed=3, fmt="csv")
    prepare(base / "csv", base / "whole", k_core=0)
    times = np.concatenate(
        [s["timestamps"].combine_chunks().values.to_numpy() for s in _shards(base / "whole")]
    )
    for name, share in (("early", 0.6), ("late", 0.9)):
        split(base / "whole", base / name, int(np.quantile(times, share)), k_core=3)
    return base / "early" / "past", base / "late" / "past"


def _shards(path):
    folder = PreparedFolder.open(path)
    return [folder.read_shard(number) for number in range(len(folder.manifest.shards))]


@pytest.fixture(scope="module")
def parent(pasts, tmp_path_factory):
    run = tmp_path_factory.mktemp("runs") / "parent"
    train_alone(CONFIG, pasts[0], run, CPU)
    return run


def best(run):
    return checkpoint.best(RunFolder(run).checkpoints)


def started(parent, data, run, changes=None):
    """Begin a warm start and return its configuration and checkpoint 0."""
    data = PreparedFolder.open(data)
    config = warm_config(override(CONFIG, changes or {}), Parent.open(parent), data)
    RunFolder(run).start(config, data)
    begin_warm(RunFolder(run), config, data)
    return config, checkpoint.read(RunFolder(run).checkpoints / "step-00000000")


def test_without_anything_new_it_is_the_old_model_to_the_last_bit(parent, pasts, tmp_path, capsys):
    config = warm_config(CONFIG, Parent.open(parent), PreparedFolder.open(pasts[0]))
    outcome = train_alone(config, pasts[0], tmp_path / "same", CPU)
    assert (outcome.epochs, outcome.best_epoch, outcome.ended) == (0, 0, "nothing is new since parent")
    old, new = best(parent).model_tensors(), best(tmp_path / "same").model_tensors()
    assert old.keys() == new.keys()
    assert all(torch.equal(old[name], new[name]) for name in old)
    assert outcome.best_score == pytest.approx(best(parent).score, abs=0)
    assert "0 are new; 0 windows hold something new" in capsys.readouterr().out


def test_known_items_keep_their_rows_by_source_id_and_all_else_stays(parent, pasts, tmp_path):
    config, start = started(parent, pasts[1], tmp_path / "run")
    old, new = best(parent).model_tensors(), start.model_tensors()
    old_ids = [None, *PreparedFolder.open(pasts[0]).items["source_id"].to_pylist()]
    new_ids = [None, *PreparedFolder.open(pasts[1]).items["source_id"].to_pylist()]
    assert len(new_ids) > len(old_ids) > 20
    rows = [(old_ids.index(source), row) for row, source in enumerate(new_ids) if source in old_ids]
    theirs, mine = (torch.tensor(column) for column in zip(*rows, strict=True))
    by_item = item_tensors(config)
    assert by_item == {
        f"parts.{part}.{name}"
        for part in (0, 1)
        for name in ("embedding.weight", "habits.items", "attributes.attributes_VA")
    }
    for name in old:
        if name.endswith("attributes_VA"):
            attributes = PreparedFolder.open(pasts[1]).attributes_VA
            assert torch.equal(new[name], attributes)
        elif name in by_item:
            assert torch.equal(new[name][mine], old[name][theirs]), name
            assert not (new[name][1:] == 0).all(dim=1).any() or "habits" in name
        elif name.endswith("attributes.table"):
            assert sorted(new[name][:, 0].tolist()) == pytest.approx(
                sorted(old[name][:, 0].tolist()), abs=0.1
            )
        else:
            assert torch.equal(new[name], old[name]), name
    ancestor = RunFolder(tmp_path / "run").ancestry()[0]
    assert (ancestor.items_known, ancestor.items_new) == (len(rows) - 1, len(new_ids) - len(rows))
    assert ancestor.trained_until_s == RunFolder(parent).record().last_time_s


def naive_rows(old_ids, new_ids, histories):
    """Weights of each new item's neighbours, one by one."""
    known = [0, *(row for row, source in enumerate(new_ids, 1) if source in old_ids)]
    counts = {item: np.zeros(len(new_ids) + 1) for item in range(1, len(new_ids) + 1) if item not in known}
    for items in histories:
        for place, item in enumerate(items):
            if item in counts:
                for other in (*items[max(0, place - NEAR) : place], *items[place + 1 : place + 1 + NEAR]):
                    counts[item][other] += 1
    first = {}
    for item, count in counts.items():
        near = np.where(np.isin(np.arange(len(count)), known), count, 0)
        first[item] = near / near.sum() if near.sum() else near
    second = {}
    for item, count in counts.items():
        found = first[item]
        if not found.sum():
            weights = {other: count[other] for other in first if first[other].sum()}
            total = sum(weights.values())
            found = sum(w / total * first[o] for o, w in weights.items()) if total else found
        second[item] = found
    return second


def test_new_rows_are_the_mean_of_what_is_beside_them(pasts):
    folder = PreparedFolder.open(pasts[1])
    plan = make_plan(Protocol(), folder)
    new_ids = folder.items["source_id"].to_numpy()
    old_ids = new_ids[::9]  # few are known, so that some have no known neighbour
    parts = list(training_parts(folder.shard_paths, folder.manifest.items, plan))
    rows = rows_of_new(old_ids, new_ids, parts)
    histories = [
        part.items_E[a:b].tolist()
        for part in parts
        for a, b in zip(part.offsets_U1, part.offsets_U1[1:], strict=False)
    ]
    expected = naive_rows(set(old_ids.tolist()), new_ids.tolist(), histories)
    assert list(expected) == rows.new_items.tolist()
    np.testing.assert_allclose(rows.beside.toarray(), np.stack(list(expected.values())), atol=1e-12)
    old = torch.randn(len(old_ids) + 1, 4)
    old[0] = 0
    filled = rows.fill(old)
    known = torch.from_numpy(rows.old_V >= 0)
    assert torch.equal(filled[known], old)
    weights = torch.from_numpy(np.stack(list(expected.values())))
    torch.testing.assert_close(filled[~known], (weights[:, known] @ old.double()).float())


def test_a_new_item_alone_gets_the_mean_row_and_chance():
    rows = rows_of_new(np.array([5, 7]), np.array([5, 6, 7]), [])
    old = torch.tensor([[0.0], [1.0], [3.0]])
    assert rows.alone == 1
    assert rows.fill(old).flatten().tolist() == [0, 1, 2, 3]
    assert rows.fill(old, torch.full((4, 1), 0.5)).flatten().tolist() == [0, 1, 2.5, 3]


def test_only_what_is_new_trains_and_a_share_of_the_rest(parent, pasts, tmp_path):
    folder = PreparedFolder.open(pasts[1])
    whole = LocalSource.of(CONFIG, folder).order.num_windows
    counts = {}
    for share in (0.0, 0.5, 1.0):
        config = warm_config(override(CONFIG, {"train.replay_share": share}), Parent.open(parent), folder)
        source = LocalSource.of(config, folder)
        batches = list(source.train_batches(0, 0, 1))
        counts[share] = sum(len(batch.users_S) for *_, batch in batches)
        assert counts[share] == source.order.num_windows
    until = Parent.open(parent).trained_until_s
    new = 0
    data = CONFIG.data
    for shard in _shards(pasts[1]):
        for row in shard.to_pylist():
            times = row["timestamps"][:-2]
            ends = list(range(len(times) - 1, 0, -1))
            last, stop = None, len(times) - 1
            while ends and stop > 0:
                new += times[stop] > until
                last, stop = stop, stop - (data.max_len - data.overlap)
                if last <= data.max_len:
                    break
    assert counts[0.0] == new
    assert counts[1.0] == whole
    assert counts[0.0] < counts[0.5] < whole
    assert (counts[0.5] - new) / (whole - new) == pytest.approx(0.5, abs=0.15)


def test_training_goes_on_from_there_and_the_better_one_stays(parent, pasts, tmp_path):
    config, _ = started(parent, pasts[1], tmp_path / "run")
    outcome = train_alone(config, pasts[1], tmp_path / "run", CPU)
    rows = [row for row in RunFolder(tmp_path / "run").metrics() if row["kind"] == "epoch"]
    assert [row["epoch"] for row in rows] == [0, 1, 2]
    assert outcome.best_score == max(row["valid_ndcg@10"] for row in rows)
    record = RunFolder(tmp_path / "run").record()
    assert [one.run for one in record.ancestry] == ["parent"]
    again = train_alone(config, pasts[1], tmp_path / "run", CPU)
    assert again.best_epoch == outcome.best_epoch
    # A step too wide: the first weights stay the best.
    wild = warm_config(
        override(CONFIG, {"optim.lr": 0.4, "train.epochs": 1}),
        Parent.open(parent),
        PreparedFolder.open(pasts[1]),
    )
    spoiled = train_alone(wild, pasts[1], tmp_path / "wild", CPU)
    assert spoiled.best_epoch == 0
    assert best(tmp_path / "wild").global_step == 0
    # A grandchild knows both.
    child = warm_config(config, Parent.open(tmp_path / "run"), PreparedFolder.open(pasts[1]))
    train_alone(child, pasts[1], tmp_path / "child", CPU)
    assert [one.run for one in RunFolder(tmp_path / "child").record().ancestry] == ["parent", "run"]
    assert torch.equal(
        *(load_model(tmp_path / name)[0].members[0].embedding.weight for name in ("run", "child"))
    )


def test_a_warm_start_takes_a_share_of_the_epochs(parent, pasts):
    data, asked = (
        PreparedFolder.open(pasts[1]),
        override(CONFIG, {"train.warm_share": 0.25, "train.max_minutes": 8.0}),
    )
    config = warm_config(override(asked, {"train.epochs": 10}), Parent.open(parent), data)
    assert (planned_epochs(config.train), planned_minutes(config.train)) == (3, 2.0)
    given = warm_config(override(asked, {"train.epochs": 10}), Parent.open(parent), data, ["train.epochs"])
    assert (planned_epochs(given.train), planned_minutes(given.train)) == (10, 8.0)
    assert planned_epochs(asked.train) == asked.train.epochs, "nothing is shortened but a warm start"
    assert Pace(config.train, config.optim, 7).total_steps == 21


def test_the_optimizer_goes_on_with_moments_of_known_items(parent, pasts, tmp_path):
    config, start = started(parent, pasts[1], tmp_path / "run", {"train.warm_optimizer": "continue"})
    before, after = best(parent).training_tensors(), start.training_tensors()
    assert before.keys() == after.keys()
    steps = {float(tensor) for name, tensor in after.items() if name.endswith(".step")}
    assert steps == {float(best(parent).global_step)}
    changed = [name for name in before if before[name].shape != after[name].shape]
    assert changed
    for name in changed:
        assert torch.isfinite(after[name]).all()
        if name.endswith("exp_avg_sq"):
            assert (after[name][1:].sum(1) > 0).any()
    outcome = train_alone(config, pasts[1], tmp_path / "run", CPU)
    assert outcome.epochs == CONFIG.train.epochs


def test_stopped_and_continued_it_gives_the_same_weights(parent, pasts, tmp_path):
    from ss4rec.train.worker import loop_alone

    config = warm_config(CONFIG, Parent.open(parent), PreparedFolder.open(pasts[1]))
    train_alone(config, pasts[1], tmp_path / "whole", CPU)
    with loop_alone(config, pasts[1], tmp_path / "two", CPU) as loop:
        epochs = loop.epochs()
        next(epochs)
        epochs.close()
    train_alone(config, pasts[1], tmp_path / "two", CPU)
    mine, theirs = (best(tmp_path / name).model_tensors() for name in ("whole", "two"))
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model.dim": 32}, "model.dim is 16 there and 32 here"),
        ({"model.repeats": "ignore"}, "model.repeats is habits there and ignore here"),
        ({"data.target_time": False}, "data.target_time is True there and False here"),
        (
            {"protocol": {"kind": "global_time", "cut": 0.5}},
            "by protocol leave_one_out, this training is by global_time",
        ),
    ],
)
def test_what_does_not_fit_is_refused_in_one_sentence(changes, words, parent, pasts):
    with pytest.raises(ConfigError, match=words) as refused:
        warm_config(override(CONFIG, changes), Parent.open(parent), PreparedFolder.open(pasts[1]))
    assert str(refused.value).count("\n") == 0
    warm_config(
        override(CONFIG, {"model.dropout": 0.5, "optim.lr": 0.1}),
        Parent.open(parent),
        PreparedFolder.open(pasts[1]),
    )


def test_other_data_and_other_weights_are_refused(parent, pasts, tmp_path, prepared):
    config, _ = started(parent, pasts[1], tmp_path / "run")
    run = shutil.copytree(parent, tmp_path / "parent")
    other = override(config, {"train.start_from": str(run)})
    saved = best(run)
    tensors = saved.model_tensors()
    tensors["parts.0.embedding.weight"][1] += 1
    state = {k: v for k, v in saved.state.items() if k != "format"}
    checkpoint.save(run / "checkpoints", model=tensors, training=saved.training_tensors(), state=state)
    with pytest.raises(ConfigError, match="began with other weights"):
        begin_warm(RunFolder(tmp_path / "run"), other, PreparedFolder.open(pasts[1]))
    items = tmp_path / "parent" / "items.parquet"
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.read_table(items)
    renamed = pa.array([f"x{value}" for value in table["source_id"].to_pylist()])
    pq.write_table(table.set_column(table.column_names.index("source_id"), "source_id", renamed), items)
    RunFolder(tmp_path / "new").start(other, PreparedFolder.open(pasts[1]))
    with pytest.raises(DataError, match=r"no item of .* is known to parent"):
        begin_warm(RunFolder(tmp_path / "new"), other, PreparedFolder.open(pasts[1]))


def test_a_cut_in_time_validates_and_tests_on_what_the_parent_has_not_seen(pasts, tmp_path):
    whole = PreparedFolder.open(pasts[0].parents[1] / "whole")
    timed = {"protocol": {"kind": "global_time", "cut": 0.5, "name": "cut"}, "model.item_attributes": False}
    first = override(CONFIG, timed | {"train.epochs": 1})
    train_alone(first, whole, tmp_path / "first", CPU)
    parent = Parent.open(tmp_path / "first")
    later = warm_config(override(first, {"protocol.cut": 0.8}), parent, whole)
    plan = make_plan(later.protocol, whole)
    assert plan.rules.valid_cut_s > parent.record.cut_s > parent.trained_until_s
    assert later.data.new_after_s == parent.trained_until_s
    with pytest.raises(ConfigError, match="and the test begins at"):
        warm_config(override(first, {"protocol.cut": 0.3}), parent, whole)
    early = {"protocol.cut": 0.8, "protocol.validation_quantile": 0.3}
    with pytest.raises(ConfigError, match="chosen by what it has learned"):
        warm_config(override(first, early), parent, whole, early)
    by_user = {"protocol.cut": 0.8, "protocol.validation": "user", "protocol.validation_users": 10}
    with pytest.raises(ConfigError, match="would choose by events that the run was trained on"):
        warm_config(override(first, by_user), parent, whole)
    outcome = train_alone(later, whole, tmp_path / "second", CPU)
    assert outcome.epochs == 1


def test_records_of_earlier_versions_do_not_say_until_when(parent, tmp_path):
    run = shutil.copytree(parent, tmp_path / "old")
    raw = json.loads((run / "record.json").read_text())
    for name in ("last_time_s", "ancestry"):
        del raw[name]
    raw["cut_s"] = None
    (run / "record.json").write_text(json.dumps(raw))
    with pytest.raises(DataError, match="does not say until when"):
        Parent.open(run)


def test_nobody_is_held_out_whom_the_parent_has_learned(pasts, tmp_path):
    config = override(CONFIG, {"protocol.held_out_users": 30, "train.epochs": 1})
    train_alone(config, pasts[0], tmp_path / "run", CPU)
    parent, late = Parent.open(tmp_path / "run"), PreparedFolder.open(pasts[1])
    assert warm_config(config, parent, late).protocol.held_out_users == 30
    for users in (31, None):
        with pytest.raises(ConfigError, match="held out the last events of 30 users"):
            warm_config(override(config, {"protocol.held_out_users": users}), parent, late)
