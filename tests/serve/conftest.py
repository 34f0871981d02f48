"""A small model that is served from an event store of its own, and trained runs to serve."""

import shutil

import pytest
import torch

from ss4rec.serve.served_model import ServedModel
from ss4rec.serve.service import Service
from ss4rec.serve.sqlite import SqliteStore
from ss4rec.states import StateModel
from tests.states.conftest import recommender_of

OPTIONS = {"gap_map": "log", "repeats": "learned", "inputs": ("rating", "gap", "clock"), "blocks": 1}


def served(seed=0, **options) -> ServedModel:
    """Return a model; item 7 has a title."""
    recommender = recommender_of(torch.float32, seed=seed, **(OPTIONS | options))
    recommender.titles[6] = "Seven Samurai (1954)"
    return ServedModel(f"model-{seed}", StateModel(recommender), {"data": {"name": "made up"}})


@pytest.fixture
def store(tmp_path):
    store = SqliteStore(tmp_path / "events.db")
    yield store
    store.close()


@pytest.fixture
def service(store):
    return Service(store, served())


@pytest.fixture(scope="module")
def runs(prepared, tmp_path_factory):
    """Two runs of one data set, and a copy of the first."""
    from ss4rec.cli.options import resolve_config
    from ss4rec.train.worker import train_alone

    base = tmp_path_factory.mktemp("runs")
    for seed in (1, 2):
        config = resolve_config("debug", ["train.epochs=1", "tracking.wandb=disabled", f"train.seed={seed}"])
        train_alone(config, prepared, base / f"run-{seed}", torch.device("cpu"))
    shutil.copytree(base / "run-1", base / "run-3")
    return base
