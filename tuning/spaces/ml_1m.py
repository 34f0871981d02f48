"""MovieLens-1M: shape, regularisation and learning rate around the hand-made recipe of `ml_1m_best`."""

from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from tuning.space import SearchSpace, When

SPACE = SearchSpace(
    base="ml_1m_best",
    fixed={"train.epochs": 40},
    parameters={
        "optim.lr": FloatDistribution(3e-4, 6e-3, log=True),
        "model.dim": CategoricalDistribution([64, 128, 192]),
        "model.blocks": IntDistribution(1, 4),
        "model.time_states": CategoricalDistribution([32, 64]),
        "model.dropout": FloatDistribution(0.1, 0.5),
        "model.embedding_dropout": FloatDistribution(0.0, 0.4),
        "model.feed_forward": CategoricalDistribution([0.0, 2.0]),
        "model.repeats": CategoricalDistribution(["learned", "ignore"]),
        "loss.label_smoothing": FloatDistribution(0.0, 0.2),
        "optim.weight_decay": FloatDistribution(0.0, 0.1),
        "optim.schedule": CategoricalDistribution(["cosine", "constant"]),
        "optim.final_lr_share": FloatDistribution(0.01, 0.3, log=True),
        "train.batch_size": CategoricalDistribution([64, 128]),
    },
    conditions={"optim.final_lr_share": When("optim.schedule", ("cosine",))},
    first=[
        "ml_1m_best",
        # The published shape, regularisation and learning rate.
        {
            "optim.lr": 1e-3,
            "model.dim": 64,
            "model.blocks": 2,
            "model.time_states": 32,
            "model.dropout": 0.2,
            "model.embedding_dropout": 0.0,
            "model.feed_forward": 0.0,
            "model.repeats": "ignore",
            "loss.label_smoothing": 0.0,
            "optim.weight_decay": 0.0,
            "optim.schedule": "constant",
            "train.batch_size": 64,
        },
    ],
)
