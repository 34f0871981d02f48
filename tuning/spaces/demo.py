"""The data of `ss4rec demo` on a CPU: a small space whose trials take seconds."""

from optuna.distributions import CategoricalDistribution, FloatDistribution

from tuning.space import SearchSpace, When

SPACE = SearchSpace(
    base="demo",
    fixed={
        "train.epochs": 9,
        "train.max_minutes": 0.0,
        "train.fit_minutes": False,
        "tracking.wandb": "disabled",
    },
    parameters={
        "optim.lr": FloatDistribution(1e-4, 3e-2, log=True),
        "model.dim": CategoricalDistribution([32, 64]),
        "model.dropout": FloatDistribution(0.0, 0.5),
        "optim.schedule": CategoricalDistribution(["cosine", "constant"]),
        "optim.final_lr_share": FloatDistribution(0.01, 0.5, log=True),
    },
    conditions={"optim.final_lr_share": When("optim.schedule", ("cosine",))},
    first=["demo"],
)
