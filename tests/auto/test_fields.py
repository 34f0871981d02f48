"""No field of the model, changed to a sensible value, silently ruins what the recipe trains.

On a small model: each change must reach half of the recipe's validation NDCG@10, or the run must say that it diverges.
"""

import pytest
import torch

from ss4rec.auto.resolve import Auto
from ss4rec.config import ModelConfig
from ss4rec.protocol.settings import Protocol
from ss4rec.train.worker import loop_alone

SMALL = {
    "data.source": "local",
    "tracking.wandb": "disabled",
    "model.dim": 16,
    "model.blocks": 1,
    "model.time_states": 8,
    "model.relation_states": 4,
    "optim.base_dim": 16,
    "optim.lr": 0.03,
    "optim.warmup_steps": 10,
    "train.epochs": 5,
    "train.validate_every": 5,
    "train.batch_size": 32,
}
"""Sizes at which a training takes a second or two."""
CHANGES = {
    "dim": (8, 64),
    "blocks": (3,),
    "dropout": (0.0, 0.6),
    "embedding_dropout": (0.5,),
    "time_states": (2, 32),
    "time_step_min": (0.01,),
    "time_step_max": (1.0,),
    "gap_map": ("seconds",),
    "relation_states": (16,),
    "expand": (1, 6),
    "conv_width": (1,),
    "dt_init": ("published",),
    "feed_forward": (0.0, 4.0),
    "norm": ("pre",),
    "shared_norm": (True,),
    "norm_eps": (1e-12,),
    "init_std": (0.002, 0.2),
    "cosine_temperature": (0.0, 0.2),
    "repeats": ("ignore", "habits"),
    "layer_dropout": (0.3,),
    "inputs": ((), ("rating", "clock")),
    "horizon": (True,),
    "item_attributes": (False,),
    "item_features": ("none", ("genres", "period", "title")),
    "id_dropout": (0.5,),
    "user_features": ("none",),
    "context": ("none",),
    "members": (2,),
}
LEFT_OUT = {"time_backend", "relation_backend", "layer_backend"}
"""Which kernels run changes no result."""


def trained(prepared, folder, changes):
    """Train and return the best validation NDCG@10 and why training ended."""
    config = Auto(Protocol(), SMALL | changes)(prepared, gpu=False)
    with loop_alone(config, prepared, folder, torch.device("cpu")) as loop:
        outcome = loop.run()
    return outcome.best_score, outcome.ended


@pytest.fixture(scope="module")
def recipe_score(prepared, tmp_path_factory):
    score, _ = trained(prepared, tmp_path_factory.mktemp("recipe") / "run", {})
    assert score > 0.1  # by chance it would be .04
    return score


@pytest.mark.parametrize(
    ("field", "value"), [(field, value) for field in CHANGES for value in CHANGES[field]]
)
def test_a_changed_field_trains_or_says_why_not(prepared, tmp_path, recipe_score, field, value):
    changes = {f"model.{field}": list(value) if isinstance(value, tuple) else value}
    if field == "id_dropout":
        changes["model.item_features"] = ["genres"]
    if field == "horizon":
        changes["data.target_time"] = False
    score, ended = trained(prepared, tmp_path / "run", changes)
    assert score > recipe_score / 2 or "diverges" in ended, (score, recipe_score)


def test_every_field_is_changed():
    assert set(CHANGES) | LEFT_OUT == set(ModelConfig.model_fields)
