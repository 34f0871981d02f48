"""Features of items and users through a whole run: trained, kept, evaluated, and recommended where nothing trained."""

import numpy as np
import pytest
import torch

import ss4rec
from ss4rec.config import RunConfig, override
from ss4rec.data.batches.source import LocalSource
from ss4rec.data.prepare.engine import prepare
from ss4rec.data.prepared.folder import PreparedFolder
from ss4rec.errors import ConfigError
from ss4rec.evaluation.alone import evaluate_with_baselines
from ss4rec.evaluation.table import rich_table
from ss4rec.export.card import model_card
from ss4rec.export.torch_export import export_torch
from ss4rec.protocol.plan import make_plan, plan_of_run
from ss4rec.recommender import History
from ss4rec.runs.folder import RunFolder
from ss4rec.runs.load import load_model
from ss4rec.states.state_model import StateModel
from ss4rec.train.group import Workers
from ss4rec.train.worker import build_loop, train_alone
from tests.group import run_pair

CPU = torch.device("cpu")
GROUPS, USERS, BEGIN, CUT = 4, 120, 1_000_000_000, 1_001_000_000
FIELDS = {
    "model.dim": 16, "model.blocks": 1, "model.time_states": 4, "model.relation_states": 4, "model.gap_map": "log",
    "model.id_dropout": 0.3, "data.max_len": 20, "data.overlap": 2, "data.source": "local", "data.target_time": False,
    "optim.lr": 0.02, "train.epochs": 12, "train.batch_size": 32, "tracking.wandb": "disabled",
    "protocol.kind": "global_time", "protocol.cut": CUT, "protocol.targets": "successive",
    "protocol.validation": "last_train_item",
}  # fmt: skip


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """People stay in one group of items; 2 of 8 items of each group come up after the cut, one without a feature."""
    folder, rng = tmp_path_factory.mktemp("shop"), np.random.default_rng(0)
    rows, items, users = [], [], []
    for user in range(USERS):
        group = user % GROUPS
        users.append(f"u{user},{'north' if group % 2 else 'south'},{user}")
        for place, item in enumerate(rng.choice(6, 8)):
            rows.append(f"u{user},{group}-{item:02d},{BEGIN + 1000 * user + 100 * place}")
        rows += [f"u{user},{group}-{item:02d},{CUT + 1000 * user + item}" for item in (3, 6, 7)]
    for group in range(GROUPS):
        items += [f"{group}-{item:02d},{'' if item == 7 else f'g{group}'},{item}" for item in range(8)]
    (folder / "shop.csv").write_text("user,item,time\n" + "\n".join(rows) + "\n")
    (folder / "items.csv").write_text("item,group,size\n" + "\n".join(items) + "\n")
    (folder / "users.csv").write_text("user,region,number\n" + "\n".join(users) + "\n")
    prepare(
        folder / "shop.csv",
        folder / "data",
        k_core=0,
        item_features=folder / "items.csv",
        user_features=folder / "users.csv",
    )
    return folder / "data"


@pytest.fixture(scope="module")
def config():
    return override(RunConfig(), FIELDS | {"model.item_features": ["group"]})


@pytest.fixture(scope="module")
def run(shop, config, tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "features"
    train_alone(config, shop, path, CPU)
    return path


def test_items_that_train_come_first_and_others_only_with_features(shop, config):
    data = PreparedFolder.open(shop)
    plan, without = plan_of_run(config, data), make_plan(config.protocol, data)
    assert (plan.trained, plan.num_items, without.num_items) == (24, 28, 24)
    assert plan.items(data)["source_id"].to_pylist()[:24] == without.items(data)["source_id"].to_pylist()
    assert plan.items(data)["source_id"].to_pylist()[24:] == [f"{group}-06" for group in range(GROUPS)]
    assert plan.facts["test_cold_targets"] == without.facts["test_cold_targets"] == 2 * USERS
    assert plan.facts["fit_rows"] == without.facts["fit_rows"]


def test_cold_targets_are_ranked_by_features_and_reported_apart(shop, run, config, tmp_path):
    found = evaluate_with_baselines(run, shop, CPU)
    model, popular = found["model"], found["most popular"]
    assert (model.num_targets, model.cold_targets, model.cold_ranked) == (3 * USERS, 2 * USERS, USERS)
    own = model.setting("kept", "known")
    # One of 7 items of the group; the other cold target of each user has no feature and is a miss.
    assert own.cold["HR@10"] > 0.45
    assert popular.setting("kept", "known").cold["HR@10"] == 0
    assert own.warm["HR@10"] > 0.8
    assert "240 of items that never trained: 120 ranked by features, 120 misses" in _title(found)
    assert any("cold items only" in column.cells for column in rich_table(found).columns)
    plain = override(config, {"model.item_features": "none"})
    train_alone(plain, shop, tmp_path / "plain", CPU)
    found = evaluate_with_baselines(tmp_path / "plain", shop, CPU)
    assert (found["model"].cold_targets, found["model"].cold_ranked) == (2 * USERS, 0)
    assert found["model"].setting("kept", "known").cold["HR@10"] == 0
    assert "they cannot be ranked and count as misses" in _title(found)


def test_a_run_keeps_its_features_and_recommends_what_never_trained(run):
    record = RunFolder(run).record()
    assert record.columns.items.names == ("group",)
    assert record.columns.users == ("region", "number")
    model, _ = load_model(run)
    assert (model.num_items, model.num_trained) == (28, 24)
    recommender = ss4rec.load(run)
    found = recommender.recommend(["1-01", "1-02", "1-06"], [1, 2, 3], k=4, profile={"region": "north"})
    assert {one.item[0] for one in found} == {"1"}
    scores = dict(zip(recommender.item_ids, recommender.scores(["1-01", "1-02"], [1, 2]), strict=True))
    assert scores["1-06"] > max(scores[f"{group}-06"] for group in (0, 2, 3))
    north, south = (
        recommender.scores(["1-01"], [1], profile={"region": name}) for name in ("north", "south")
    )
    assert not np.array_equal(north, south)


def test_exported_programs_and_states_score_as_the_model(run, tmp_path):
    facts = export_torch(run, tmp_path / "out", most_events=16)
    assert max(facts["largest_error"].values()) < 1e-4
    recommender, history = ss4rec.load(run), History(["1-01", "1-02"], [BEGIN, BEGIN + 5])
    states = StateModel(recommender)
    found = states.scores([states.encode(history)]).matrix()[0, 1:]
    expected = torch.from_numpy(recommender.scores(history.items, history.times))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert "28 items, 4 of them by group alone" in str(model_card(run))


def test_training_goes_on_from_a_checkpoint_with_features(shop, config, run, tmp_path):
    short = override(config, {"train.epochs": 2, "optim.ema": 0.9})
    train_alone(short, shop, tmp_path / "halves", CPU)
    longer = override(short, {"train.epochs": 3})
    train_alone(longer, shop, tmp_path / "halves", CPU)
    train_alone(longer, shop, tmp_path / "whole", CPU)
    halves, whole = (load_model(tmp_path / name)[0].state_dict() for name in ("halves", "whole"))
    assert all(torch.equal(halves[name], whole[name]) for name in whole)


def test_features_of_users_are_chosen_by_name(shop, config, tmp_path):
    one = override(config, {"model.user_features": "region", "train.epochs": 1})
    train_alone(one, shop, tmp_path / "one", CPU)
    record = RunFolder(tmp_path / "one").record()
    assert [record.profile_values[code - 1] for code in record.columns.user_codes] == [
        "region=north", "region=south"
    ]  # fmt: skip
    model, _ = load_model(tmp_path / "one")
    read = model.inputs.table.abs().sum(1) > 0
    assert read.nonzero().flatten().tolist() == list(record.columns.user_codes)
    with pytest.raises(ConfigError, match=r"user_features has city, and shop says of users: number, region"):
        train_alone(override(one, {"model.user_features": "city"}), shop, tmp_path / "wrong", CPU)


def test_leave_one_out_knows_which_items_only_test(shop, tmp_path):
    data = PreparedFolder.open(shop)
    own = {name: value for name, value in FIELDS.items() if not name.startswith("protocol")}
    plan = plan_of_run(override(RunConfig(), own), data)
    # The last two events of everybody are on items 6 and 7, which never train; here 7 is known by its size.
    assert (plan.trained, plan.num_items, plan.facts["test_cold_targets"]) == (24, 32, USERS)


def test_where_all_items_train_the_folder_s_numbers_stay(shop, tmp_path):
    lines = [
        f"u{user},{item},{BEGIN + 10 * user + place}"
        for user in range(9)
        for place, item in enumerate("abcdab")
    ]
    (tmp_path / "x.csv").write_text("user,item,time\n" + "\n".join(lines) + "\n")
    (tmp_path / "items.csv").write_text("item,kind\na,x\nb,y\nc,x\nd,y\n")
    prepare(tmp_path / "x.csv", tmp_path / "data", k_core=0, item_features=tmp_path / "items.csv")
    data = PreparedFolder.open(tmp_path / "data")
    plan = plan_of_run(RunConfig(), data)
    assert (plan.items_I, plan.trained, plan.num_items) == (None, 4, 4)
    RunFolder(tmp_path / "run").start(RunConfig(), data)
    assert (tmp_path / "run/items.parquet").read_bytes() == (tmp_path / "data/items.parquet").read_bytes()


def _title(found):
    from ss4rec.evaluation.table import rich_table

    return str(rich_table(found).title)


def _train(rank, world, config, shop, run):
    source = LocalSource.of(config, shop, rank=rank, world=world)
    build_loop(config, run, workers=Workers(rank, world, CPU), source=source).run()


def test_two_workers_end_with_the_weights_of_one(shop, config, tmp_path):
    plain = {"model.id_dropout": 0.0, "model.dropout": 0.0, "train.epochs": 1, "optim.clip_norm": 1.0}
    config = override(config, plain)
    for world in (1, 2):
        run = RunFolder(tmp_path / str(world))
        run.start(config, PreparedFolder.open(shop))
        if world == 1:
            _train(0, 1, config, shop, run.path)
        else:
            run_pair(_train, tmp_path / "rendezvous", 2, config, shop, run.path)
    one, two = (load_model(tmp_path / str(world))[0].state_dict() for world in (1, 2))
    for name, weights in one.items():
        torch.testing.assert_close(two[name], weights, rtol=1e-3, atol=2e-5, msg=name)
