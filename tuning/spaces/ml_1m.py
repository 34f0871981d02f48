"""MovieLens-1M: shape, regularisation and pace around the hand-made recipe of `ml_1m_best`, at half its epochs.

The cosine schedule spans the epochs of a trial (`--set train.epochs=N` changes both), so all trials are complete
trainings of one length. ASHA looks at a ninth of it, where a slow weight average (`optim.ema`) lags behind; the recipe
itself, a baseline, is never pruned.
"""

from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from tuning.space import SearchSpace

SPACE = SearchSpace(
    base="ml_1m_best",
    fixed={"train.epochs": 45, "train.validate_every": 1},
    parameters={
        "optim.lr": FloatDistribution(5e-4, 8e-3, log=True),
        "optim.ema": CategoricalDistribution([0.0, 0.99, 0.997, 0.999]),
        "train.batch_size": CategoricalDistribution([64, 128]),
        "model.dim": CategoricalDistribution([64, 128, 192, 256]),
        "model.blocks": IntDistribution(1, 4),
        "model.dropout": FloatDistribution(0.1, 0.5),
        "model.embedding_dropout": FloatDistribution(0.0, 0.4),
        "model.feed_forward": CategoricalDistribution([0.0, 2.0]),
        "loss.label_smoothing": FloatDistribution(0.0, 0.2),
        "optim.weight_decay": FloatDistribution(0.0, 0.1),
    },
    first=[
        "ml_1m_best",
        # The recipe at a faster pace, which fewer epochs may want, narrow and wide.
        {
            "optim.lr": 3e-3,
            "optim.ema": 0.99,
            "train.batch_size": 128,
            "model.dim": 128,
            "model.blocks": 3,
            "model.dropout": 0.4,
            "model.embedding_dropout": 0.2,
            "model.feed_forward": 2.0,
            "loss.label_smoothing": 0.1,
            "optim.weight_decay": 0.0,
        },
        {
            "optim.lr": 2e-3,
            "optim.ema": 0.997,
            "train.batch_size": 128,
            "model.dim": 256,
            "model.blocks": 2,
            "model.dropout": 0.4,
            "model.embedding_dropout": 0.2,
            "model.feed_forward": 2.0,
            "loss.label_smoothing": 0.1,
            "optim.weight_decay": 0.03,
        },
        # The published shape, regularisation and learning rate.
        {
            "optim.lr": 1e-3,
            "optim.ema": 0.0,
            "train.batch_size": 64,
            "model.dim": 64,
            "model.blocks": 2,
            "model.dropout": 0.2,
            "model.embedding_dropout": 0.0,
            "model.feed_forward": 0.0,
            "loss.label_smoothing": 0.0,
            "optim.weight_decay": 0.0,
        },
    ],
)
