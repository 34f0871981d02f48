"""Which model is served: a link that moves, a champion that changes, a torn checkpoint; events from a folder."""

import shutil

import pytest

from ss4rec.data.prepared.folder import PreparedFolder
from ss4rec.errors import ConfigError, DataError, UsageError
from ss4rec.registry import ModelRegistry
from ss4rec.serve.history import import_histories
from ss4rec.serve.service import Ask
from ss4rec.serve.settings import ServeSettings, require_tokens
from ss4rec.serve.sources import Follower, look, open_service


def test_a_link_is_followed_and_a_broken_run_is_not(runs, prepared, tmp_path):
    link = tmp_path / "current"
    link.symlink_to(runs / "run-1")
    settings = ServeSettings(run=str(link), store=str(tmp_path / "e.db"), look_every_s=3600)
    service, follower = open_service(settings)
    try:
        events = import_histories(PreparedFolder.open(prepared), service.store)
        assert events == sum(service.store.size()[1:]) > 1000
        assert import_histories(PreparedFolder.open(prepared), service.store) == 0
        assert (service.model.name, service.model.card["data"]["name"]) == ("run-1", "synth")
        user = str(PreparedFolder.open(prepared).users["source_id"][0].as_py())
        (first,) = service.recommend([Ask(user=user)])
        assert not follower.check()
        link.unlink()
        link.symlink_to(runs / "run-2")
        assert follower.check()
        (second,) = service.recommend([Ask(user=user)])
        assert (first.model.name, second.model.name) == ("run-1", "run-2")
        assert [r.score for r in first.items] != [r.score for r in second.items]
        shutil.copytree(runs / "run-1", tmp_path / "torn")
        for weights in (tmp_path / "torn" / "checkpoints").rglob("model.safetensors"):
            weights.write_bytes(b"torn")
        link.unlink()
        link.symlink_to(tmp_path / "torn")
        assert not follower.check()
        assert (service.model.name, service.counts.refused, service.counts.swaps) == ("run-2", 1, 1)
        (third,) = service.recommend([Ask(user=user)])
        assert third.items == second.items
    finally:
        follower.close()
        service.store.close()


def test_the_champion_of_a_registry(runs, tmp_path):
    registry = ModelRegistry(tmp_path / "registry" / "films")
    settings = ServeSettings(registry=str(registry.path))
    with pytest.raises(DataError, match="no model of a registry"):
        look(settings)
    for seed in (1, 2):
        registry.promote(registry.add(runs / f"run-{seed}").version, "a test")
        assert look(settings).name == f"films {seed}"
    registry.rollback("worse")
    assert look(settings).name == "films 1"


def test_the_follower_looks_by_itself(service, tmp_path, runs):
    import threading

    from tests.serve.conftest import served

    done = threading.Event()

    def load(found, graphs):
        done.set()
        return served(seed=1)

    settings = ServeSettings(run=str(runs / "run-1"), look_every_s=0.01)
    follower = Follower(service, settings, ("another",), load)
    follower.start()
    assert done.wait()
    follower.close()
    assert service.model.name == "model-1"


def test_settings_that_cannot_be(tmp_path):
    from ss4rec.config import parse_section

    for fields in ({}, {"run": "a", "registry": "b"}, {"run": "a", "replica": 2}):
        with pytest.raises(ConfigError):
            parse_section(ServeSettings, fields, "serve settings")
    (tmp_path / "tokens").write_text("\n")
    with pytest.raises(UsageError, match="holds no token"):
        ServeSettings(run="a", tokens=str(tmp_path / "tokens")).limits()
    (tmp_path / "tokens").write_text("one\n two \n")
    settings = ServeSettings(run="a", tokens=str(tmp_path / "tokens"))
    assert settings.limits().tokens == ("one", "two")
    require_tokens(settings, "0.0.0.0")


def test_what_a_folder_says_of_events_and_users_reaches_the_model(tmp_path):
    import numpy as np
    import pyarrow as pa
    import pyarrow.csv as pacsv
    import torch

    from ss4rec.config import RunConfig, override
    from ss4rec.data.prepare.engine import prepare
    from ss4rec.data.sources import TableOptions
    from ss4rec.recommender import History
    from ss4rec.train.worker import train_alone
    from tests.recommend.conftest import SHAPE

    rng, rows = np.random.default_rng(0), 40 * 10
    table = {
        "user": np.repeat(np.arange(40), 10),
        "item": rng.integers(1, 9, rows),
        "time": np.tile(np.arange(10), 40) + 1_000_000_000,
        "channel": np.array([f"c{code}" for code in rng.integers(0, 4, rows)]),
        "price": rng.integers(1, 9, rows) / 2,
    }
    pacsv.write_csv(pa.table(table), tmp_path / "shop.csv")
    prepare(
        tmp_path / "shop.csv",
        tmp_path / "data",
        k_core=0,
        columns=TableOptions(context=("channel", "price")),
    )
    config = override(
        RunConfig(),
        SHAPE
        | {"data.source": "local", "train.epochs": 1, "tracking.wandb": "disabled", "train.batch_size": 8},
    )
    train_alone(config, tmp_path / "data", tmp_path / "run", torch.device("cpu"))
    settings = ServeSettings(run=str(tmp_path / "run"), store=str(tmp_path / "e.db"), look_every_s=3600)
    service, follower = open_service(settings)
    try:
        import_histories(PreparedFolder.open(tmp_path / "data"), service.store)
        (found,) = service.recommend([Ask(user="3", exclude_seen=False)])
        mine = np.flatnonzero(table["user"] == 3)
        context = {
            "channel": table["channel"][mine].tolist(),
            "price": [f"{price:g}" for price in table["price"][mine]],
        }
        states = service.model.states
        history = History(table["item"][mine].tolist(), table["time"][mine].tolist(), context=context)
        ratings = [event.rating for event in service.store.since({"3": 0})["3"]]
        told, plain = (
            states.recommend(
                states.encode(History(history.items, history.times, None, ratings, None, one)),
                exclude_seen=False,
            )
            for one in (context, None)
        )
        assert [one.score for one in found.items] == pytest.approx([one.score for one in told], abs=1e-5)
        assert [one.score for one in told] != pytest.approx([one.score for one in plain], abs=1e-5)
    finally:
        follower.close()
        service.close()
