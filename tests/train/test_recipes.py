"""The recipes for MovieLens train and rank on small data; their figures are in docs/results.md."""

import pytest
import torch

from ss4rec.config import override
from ss4rec.data.synth.generate import synth
from ss4rec.evaluation.alone import evaluate_alone
from ss4rec.presets import preset
from ss4rec.runs.folder import RunFolder
from ss4rec.train.worker import train_alone


@pytest.mark.parametrize("name", ["ml_1m_best", "ml_20m_best"])
def test_a_recipe_runs_as_it_is_but_for_its_length(tmp_path, name):
    few = tmp_path / "few"
    synth(few, users=20, items=100, mean_len=24, seed=1)
    changes = {"train.epochs": 1, "train.batch_size": 64, "train.precision": "float32"}
    config = override(preset(name), changes | {"tracking.wandb": "disabled"})
    outcome = train_alone(config, few, tmp_path / "run", torch.device("cpu"))
    assert (outcome.epochs, outcome.best_epoch) == (1, 1)
    record = RunFolder(tmp_path / "run").record()
    assert record.num_parameters > config.model.members * config.model.blocks * 10 * config.model.dim**2
    assert evaluate_alone(tmp_path / "run", few, torch.device("cpu")).num_users == record.num_users
