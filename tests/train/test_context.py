"""Columns about events and kinds of events, from prepared shards to what a model is told and asked."""

import numpy as np
import pandas as pd
import pytest
import torch

import ss4rec
from ss4rec.config import RunConfig, override
from ss4rec.data.batches.source import LocalSource
from ss4rec.data.batches.windows import ragged
from ss4rec.data.prepare.engine import prepare
from ss4rec.data.prepared.event_columns import chosen_context, chosen_targets, told_of
from ss4rec.data.prepared.folder import PreparedFolder
from ss4rec.data.prepared.manifest import EventTargets
from ss4rec.data.sources import TableOptions
from ss4rec.errors import ConfigError, DataError, UsageError
from ss4rec.evaluation.alone import evaluate_alone
from ss4rec.evaluation.markov import MarkovChain
from ss4rec.evaluation.popularity import TrainingEvents
from ss4rec.evaluation.training import training_parts
from ss4rec.model.columns import EVENT_CODES
from ss4rec.protocol.plan import make_plan, plan_of_run
from ss4rec.protocol.settings import Protocol
from ss4rec.recommender import History
from ss4rec.runs.folder import RunFolder
from ss4rec.train.worker import train_alone

CPU = torch.device("cpu")
SMALL = {
    "model.dim": 16, "model.blocks": 1, "model.time_states": 4, "model.relation_states": 4, "model.gap_map": "log",
    "data.max_len": 30, "data.overlap": 2, "data.source": "local", "optim.lr": 0.02, "train.epochs": 8,
    "train.batch_size": 32, "tracking.wandb": "disabled",
}  # fmt: skip
KINDS = ("view", "cart", "buy")
BEGIN = 1_000_000_000


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """The channel of an event says which item comes next; kinds of events are drawn."""
    folder, rng = tmp_path_factory.mktemp("shop"), np.random.default_rng(0)
    rows = []
    for user in range(120):
        channel = int(rng.integers(8))
        for place in range(14):
            item, channel = channel, int(rng.integers(8))
            kind, price = KINDS[int(rng.integers(3))], "" if place == 3 else f"{rng.integers(400) / 4}"
            rows.append(f"{user},{item},{BEGIN + 1000 * user + place},{kind},c{channel},{price}")
    (folder / "shop.csv").write_text("user,item,time,kind,channel,price\n" + "\n".join(rows) + "\n")
    options = TableOptions(context=("channel", "price"), kind_column="kind")
    prepare(folder / "shop.csv", folder / "all", k_core=0, columns=options)
    targets = EventTargets(column="kind", values=("buy",))
    prepare(folder / "shop.csv", folder / "buys", k_core=0, columns=options, targets=targets)
    return folder


def test_a_model_is_told_of_events_and_of_targets_nothing(shop):
    data = PreparedFolder.open(shop / "all")
    config = override(RunConfig(), SMALL)
    plan = plan_of_run(config, data)
    columns = {column.name: column for column in plan.rules.context}
    assert list(columns) == ["channel", "price", "kind"]
    shard = data.read_shard(0)
    stored = {name: ragged(shard[f"context.{name}"])[0].reshape(120, 14) for name in columns}
    batch = next(LocalSource.of(config, data).eval_batches("test", 120))
    found = batch.profiles_TF.reshape(120, 13, 3).numpy()
    for place, (name, column) in enumerate(columns.items()):
        expected = column.codes(stored[name])[:, :13]  # the last event is the target
        assert (found[:, :, place] == np.where(expected > 0, expected + EVENT_CODES, 0)).all()
    assert (found[:, 3, 1] == 0).all()
    train = next(batch for _, _, batch in LocalSource.of(config, data).train_batches(0, 0, 1))
    assert train.profiles_TF.shape == (len(train.items_T), 3)


def test_numbers_and_categories_have_codes_of_their_own(shop):
    channel, price, kind = chosen_context("auto", PreparedFolder.open(shop / "all").manifest)
    assert (channel.first, price.first, kind.first) == (0, 9, 9 + 33)
    assert kind.codes_of(["buy", "view", None, "gift"]).tolist() == [43, 45, 0, 46]
    told = price.codes_of([price.center, price.center + price.scale / 4, 1e9, -1e9, None, "x"])
    assert told.tolist() == [9 + 17, 9 + 18, 9 + 33, 9 + 1, 0, 0]
    assert chosen_context("none", PreparedFolder.open(shop / "all").manifest) == ()
    with pytest.raises(ConfigError, match=r"has colour, and events of shop have channel, price, kind"):
        chosen_context(("colour",), PreparedFolder.open(shop / "all").manifest)


def test_what_is_known_of_an_event_helps_and_is_served(shop, tmp_path):
    found = {}
    for name, context in (("told", "channel"), ("plain", "none")):
        config = override(RunConfig(), SMALL | {"model.context": context})
        train_alone(config, shop / "all", tmp_path / name, CPU)
        found[name] = (
            evaluate_alone(tmp_path / name, shop / "all", CPU).setting("kept", "known").metrics["HR@5"]
        )
    assert found["told"] > 0.95
    assert found["plain"] < 0.8  # 5 of 8 by chance
    assert [column.name for column in RunFolder(tmp_path / "told").record().columns.context] == ["channel"]
    recommender = ss4rec.load(tmp_path / "told")
    for channel in range(8):
        history = History([1, 2], [BEGIN, BEGIN + 1], context={"channel": ["c2", f"c{channel}"]})
        assert recommender.recommend_many([history], 1, exclude_seen=False)[0][0].item == channel
    assert recommender.recommend([1, 2], [BEGIN, BEGIN + 1])
    with pytest.raises(UsageError, match="the run reads channel of events, not colour"):
        recommender.recommend_many([History([1], [BEGIN], context={"colour": ["red"]})], 1)
    with pytest.raises(UsageError, match="1 items but 2 values of channel"):
        recommender.recommend_many([History([1], [BEGIN], context={"channel": ["c1", "c2"]})], 1)


def kinds_of(shard):
    values = ("buy", "cart", "view")
    return np.array(["", *values])[ragged(shard["context.kind"])[0]].reshape(120, 14)


@pytest.mark.parametrize("prepared_so", [True, False])
def test_only_wanted_events_are_targets(shop, prepared_so):
    data = PreparedFolder.open(shop / ("buys" if prepared_so else "all"))
    own = {} if prepared_so else {"data.targets": "kind=buy"}
    config = override(RunConfig(), SMALL | own)
    plan, kinds_UE = plan_of_run(config, data), kinds_of(data.read_shard(0))
    expected = {"train": 0, "test": {}}
    for user, kinds in enumerate(kinds_UE):
        places = [place for place in range(1, 14) if kinds[place] == "buy"]
        valid = places[-2] if len(places) > 1 else 14
        expected["train"] += sum(place < valid for place in places)
        if len(places) > 1:
            expected["test"][user] = places[-1]
    assert plan.facts["test_targets"] == len(expected["test"])
    source = LocalSource.of(config, data)
    targets = [batch.num_targets for _, _, batch in source.train_batches(0, 0, 1)]
    assert sum(targets) == expected["train"]
    for batch in source.eval_batches("test", 50):
        for user, history in zip(batch.users_S.tolist(), batch.histories_S.tolist(), strict=True):
            assert history == expected["test"][user]
    everything = LocalSource.of(override(config, {"data.targets": "all"}), data)
    assert sum(batch.num_targets for _, _, batch in everything.train_batches(0, 0, 1)) == 120 * 11


def test_baselines_count_what_may_be_a_target(shop):
    data = PreparedFolder.open(shop / "buys")
    plan = make_plan(Protocol(), data)
    parts = list(training_parts(data.shard_paths, data.manifest.items, plan))
    kinds, items = kinds_of(data.read_shard(0)), ragged(data.read_shard(0)["items"])[0].reshape(120, 14)
    counts, pairs = np.zeros(9, int), np.zeros((9, 9), int)
    for user in range(120):
        for place in range(plan.fit_U[user]):
            if kinds[user, place] == "buy":
                counts[items[user, place]] += 1
                if place:
                    pairs[items[user, place - 1], items[user, place]] += 1
    assert TrainingEvents.of(parts, 8).counts().tolist() == counts.tolist()
    assert (MarkovChain.of(parts, 8).counts_VV.toarray() == pairs).all()


def test_other_targets_are_other_data(shop, tmp_path):
    every, buys = (PreparedFolder.open(shop / name) for name in ("all", "buys"))
    assert every.manifest.shards == buys.manifest.shards
    config = override(RunConfig(), SMALL | {"train.epochs": 1})
    train_alone(config, every, tmp_path / "run", CPU)
    with pytest.raises(ConfigError, match="was trained on other data"):
        RunFolder(tmp_path / "run").start(config, buys)


def test_a_cut_in_time_ranks_wanted_events_only(shop):
    data = PreparedFolder.open(shop / "buys")
    cut = Protocol(name="cut", kind="global_time", cut=0.7, targets="successive")
    wanted, every = make_plan(cut, data), make_plan(cut, data, targets="all")
    kinds = kinds_of(data.read_shard(0))
    times = ragged(data.read_shard(0)["timestamps"])[0].reshape(120, 14)
    with_history = (times > wanted.cut_s) & (np.arange(14) > 0)
    assert wanted.facts["test_targets"] == (with_history & (kinds == "buy")).sum()
    assert every.facts["test_targets"] == with_history.sum()


def test_targets_that_no_event_has_are_refused(shop):
    manifest = PreparedFolder.open(shop / "all").manifest
    assert chosen_targets("auto", manifest) is None
    for asked, message in (
        ("kind=gift", "no event is gift; there are buy, cart, view"),
        ("price=1", "have the categories channel, kind"),
        ("kind", "is not COLUMN=VALUE"),
    ):
        with pytest.raises(ConfigError, match=message):
            chosen_targets(asked, manifest)


def test_a_step_without_any_target_changes_no_weight_to_nonsense(shop, tmp_path):
    config = override(
        RunConfig(), SMALL | {"data.targets": "kind=buy", "train.batch_size": 1, "train.epochs": 1}
    )
    outcome = train_alone(config, shop / "all", tmp_path / "run", CPU)
    assert outcome.ended == "all 1 epochs done"
    assert np.isfinite(outcome.best_score)


def test_shards_keep_columns_through_cuts_and_other_engines(shop, tmp_path, monkeypatch):
    from ss4rec.data.prepare import engine

    options = TableOptions(context=("channel", "price"), kind_column="kind")
    whole = PreparedFolder.open(shop / "all").read_shard(0)
    monkeypatch.setattr(engine, "WHOLE_BYTES", 0)
    lines = (shop / "shop.csv").read_text().splitlines()
    for name, order in (
        ("sorted", range(1, len(lines))),
        ("mixed", np.random.default_rng(1).permutation(len(lines) - 1) + 1),
    ):
        path = tmp_path / f"{name}.csv"
        path.write_text("\n".join([lines[0], *(lines[row] for row in order)]) + "\n")
        prepare(path, tmp_path / name, k_core=0, columns=options, block_bytes=4000)
        assert str(PreparedFolder.open(tmp_path / name).read_shard(0).to_pylist()) == str(whole.to_pylist())
    past = ss4rec.split(shop / "buys", tmp_path / "cut", BEGIN + 60_000).past
    assert past.manifest.targets == EventTargets(column="kind", values=("buy",))
    assert past.read_shard(0).column_names == whole.column_names
    assert str(past.read_shard(0).slice(0, 50).to_pylist()) == str(whole.slice(0, 50).to_pylist())


def test_another_folder_s_values_are_read_as_the_run_knows_them(shop):
    manifest = PreparedFolder.open(shop / "all").manifest
    channel, price, _ = columns = chosen_context("auto", manifest)
    meaning = {feature.name: feature for feature in manifest.context}
    other = manifest.model_copy(
        update={
            "context": (meaning["channel"].model_copy(update={"values": ("c3", "new")}), meaning["price"])
        }
    )
    stored = {
        "context.channel": np.array([1, 2, 3, 0], np.int32),
        "context.price": np.array([1.0, np.nan], np.float32),
    }
    found = told_of(columns, stored, other.context)
    assert list(found) == ["channel", "price"]
    assert found["channel"].tolist() == [channel.first + 4, channel.first + 9, channel.first + 9, 0]
    assert found["price"].tolist() == [*price.codes_of([1.0]), 0]


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "pandas", "hive"])
def test_every_format_gives_the_same_columns(shop, tmp_path, kind):
    frame = pd.read_csv(shop / "shop.csv")
    assert frame["price"].isna().sum() == 120
    source = tmp_path / f"shop.{kind}"
    if kind == "jsonl":
        frame.to_json(source, orient="records", lines=True)
    elif kind == "parquet":
        frame.astype({"kind": "category"}).to_parquet(source)
    elif kind == "hive":  # a kind of event in the name of a folder
        for name, part in frame.groupby("kind"):
            (source / f"kind={name}").mkdir(parents=True)
            part.drop(columns="kind").to_csv(source / f"kind={name}" / "part.csv", index=False)
    else:
        source = frame
    options = TableOptions(context=("channel", "price"), kind_column="kind")
    manifest = prepare(source, tmp_path / "out", k_core=0, columns=options)
    assert manifest.context == PreparedFolder.open(shop / "all").manifest.context
    found, expected = (PreparedFolder.open(path).read_shard(0) for path in (tmp_path / "out", shop / "all"))
    assert str(found.to_pylist()) == str(expected.to_pylist())


def test_columns_that_cannot_be_read_are_refused(shop, tmp_path):
    for context, message in (
        (("colour",), "no column 'colour'"),
        (("item",), "column item is read as item already"),
    ):
        with pytest.raises(DataError, match=message):
            prepare(shop / "shop.csv", tmp_path / "out", columns=TableOptions(context=context))
    targets = EventTargets(column="kind", values=("gift",))
    with pytest.raises(DataError, match="no event is gift; there are buy, cart, view"):
        prepare(
            shop / "shop.csv", tmp_path / "out", columns=TableOptions(kind_column="kind"), targets=targets
        )
    with pytest.raises(DataError, match=r"--targets kind=..: this column is not read"):
        prepare(shop / "shop.csv", tmp_path / "out", targets=targets)
    with pytest.raises(DataError, match="columns about events are categorical or number"):
        prepare(
            shop / "shop.csv", tmp_path / "out", columns=TableOptions(context=("price",)),
            feature_kinds={"price": "text"},
        )  # fmt: skip
