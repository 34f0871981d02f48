"""A small prepared folder and a space whose trials take a second."""

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution

from ss4rec.data.synth.generate import synth
from tuning.space import SearchSpace, When


@pytest.fixture(scope="session")
def small(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tuning") / "data"
    synth(folder, users=80, items=100, mean_len=24, seed=3)
    return folder


@pytest.fixture
def space():
    return SearchSpace(
        base="debug",
        fixed={"train.epochs": 9, "tracking.wandb": "disabled"},
        parameters={
            "optim.lr": FloatDistribution(1e-4, 3e-2, log=True),
            "optim.schedule": CategoricalDistribution(["cosine", "constant"]),
            "optim.final_lr_share": FloatDistribution(0.01, 0.5, log=True),
        },
        conditions={"optim.final_lr_share": When("optim.schedule", ("cosine",))},
        first=["debug"],
    )
