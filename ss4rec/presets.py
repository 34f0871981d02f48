"""Named configurations: each is a function that returns a complete `RunConfig`.

`paper` is the published configuration; every other preset says where it leaves it and why.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable

from ss4rec.config import (
    DataConfig,
    EvalConfig,
    LossConfig,
    ModelConfig,
    OptimConfig,
    ResourceConfig,
    RunConfig,
    TrainConfig,
)
from ss4rec.errors import ConfigError


def paper() -> RunConfig:
    """The published configuration (model, loss, optimizer, stopping), trained at every position at once.

    The published step has 1,024 prefixes, each with one target. Here every position of a window is a target; 8
    windows of ML-1M hold about as many, so the number of optimizer steps an epoch stays the published one.
    """
    return RunConfig(preset="paper", train=TrainConfig(batch_size=8))


def debug() -> RunConfig:
    """The whole real path in seconds: a small model on short windows for two epochs."""
    return RunConfig(
        preset="debug",
        data=DataConfig(max_len=32, overlap=8),
        model=ModelConfig(dim=16, blocks=1, time_states=8, relation_states=4),
        optim=OptimConfig(lr=5e-3),
        train=TrainConfig(epochs=2, batch_size=32, status_every_s=1.0),
    )


def demo() -> RunConfig:
    """The data of `ss4rec demo` on a CPU core: half a minute; on a slow one two at most, and the schedule ends then."""
    return RunConfig(
        preset="demo",
        data=DataConfig(max_len=64, overlap=16),
        model=ModelConfig(
            dim=64,
            blocks=1,
            dropout=0.1,
            time_states=16,
            relation_states=8,
            gap_map="log",
            dt_init="mamba",
            repeats="learned",
            horizon=True,
        ),
        optim=OptimConfig(lr=5e-3, schedule="cosine"),
        train=TrainConfig(epochs=5, batch_size=32, patience=0, max_minutes=2.0, fit_minutes=True),
    )


def ml_1m_cpu() -> RunConfig:
    """ML-1M on two CPU cores within 15 minutes: fewer states, steps from log gaps, a schedule that ends in time."""
    return RunConfig(
        preset="ml_1m_cpu",
        data=DataConfig(max_len=200, overlap=20),
        model=ModelConfig(
            relation_states=8,
            gap_map="log",
            dt_init="mamba",
            shared_norm=False,
            norm_eps=1e-6,
            repeats="learned",
        ),
        loss=LossConfig(chunk_tokens=512),
        optim=OptimConfig(lr=4e-3, warmup_steps=50, schedule="cosine", clip_norm=1.0),
        train=TrainConfig(epochs=6, batch_size=32, patience=0, max_minutes=11.0),
    )


def ml_1m_best() -> RunConfig:
    """Best known for ML-1M on one GPU; its figures on validation and test are in docs/results.md.

    Inputs, attributes and skipped layers are what raised validation NDCG@10 from .2658 to .2863 in the exploration
    there; blocks, dropout, smoothing, rate, decay and average are those of the sweep in docs/tuning.md, rounded.
    With them 45 epochs do what 90 did before. Data without genres need 500 steps of warm-up at this rate.
    """
    return RunConfig(
        preset="ml_1m_best",
        data=DataConfig(max_len=200, overlap=50),
        model=ModelConfig(
            dim=128,
            blocks=4,
            dropout=0.42,
            embedding_dropout=0.25,
            time_states=64,
            gap_map="log",
            dt_init="mamba",
            feed_forward=2.0,
            shared_norm=False,
            norm_eps=1e-6,
            repeats="learned",
            inputs=("rating", "gap", "clock", "date"),
            item_attributes=True,
            layer_dropout=0.15,
        ),
        loss=LossConfig(label_smoothing=0.12),
        optim=OptimConfig(
            lr=6e-3, weight_decay=0.025, warmup_steps=100, schedule="cosine", ema=0.99, clip_norm=1.0
        ),
        train=TrainConfig(epochs=90, batch_size=128, precision="bf16", patience=0, validate_every=3),
        evaluation=EvalConfig(batch_users=2048),
    )


def ml_20m_best() -> RunConfig:
    """ML-20M and larger releases of MovieLens on one GPU; not run on them yet, since no archive was at hand.

    `auto` chooses for such data by now (docs/recipe.md); this one stays for who names it.

    Where it leaves `ml_1m_best`, and why (references are to published runs on ML-20M):

    - four blocks of width 256: HSTU, FuXi and eSASRec gain 5 to 10 % from 2 to 8 layers and from 50 to 256 dimensions;
    - dropout .2 and embedding dropout .1, since twenty times the events need less: HSTU gains 2.8 % from .2 to .1;
    - windows of 500 events, since a scan's cost is linear in the length and the mean user has 144, one in twenty more
      than 500; published models stop at 200;
    - the catalogue has 26,744 items, of which the full softmax is affordable: sampled losses lose 2 to 40 %;
    - steps: 256 windows hold some 40,000 targets, 30 epochs are 20,000 steps; validation chooses among them.
    """
    best = ml_1m_best()
    return RunConfig(
        preset="ml_20m_best",
        data=DataConfig(max_len=500, overlap=100, shuffle_shards=16),
        model=best.model.model_copy(
            update={"dim": 256, "blocks": 4, "dropout": 0.2, "embedding_dropout": 0.1}
        ),
        loss=LossConfig(label_smoothing=0.05),
        optim=OptimConfig(lr=1e-3, warmup_steps=1000, schedule="cosine", ema=0.9995, clip_norm=1.0),
        train=TrainConfig(epochs=30, batch_size=256, precision="bf16", patience=5),
        evaluation=EvalConfig(batch_users=1024),
        resources=ResourceConfig(cpus_per_worker=2.0),
    )


def production() -> RunConfig:
    """GPUs and large catalogues: a wider and deeper model, bf16 matrix products, a schedule, averaged weights."""
    return RunConfig(
        preset="production",
        data=DataConfig(max_len=200, overlap=50),
        model=ModelConfig(
            dim=256,
            blocks=4,
            dropout=0.2,
            embedding_dropout=0.2,
            time_states=64,
            gap_map="log",
            dt_init="mamba",
            feed_forward=2.0,
            norm="pre",
            shared_norm=False,
            norm_eps=1e-6,
        ),
        loss=LossConfig(label_smoothing=0.1),
        optim=OptimConfig(
            lr=1e-3, weight_decay=0.01, warmup_steps=500, schedule="cosine", clip_norm=1.0, ema=0.999
        ),
        train=TrainConfig(epochs=60, batch_size=256, precision="bf16"),
        evaluation=EvalConfig(batch_users=1024),
        resources=ResourceConfig(gpu="yes", cpus_per_worker=4.0, data_cpus=2.0),
    )


AUTO = "auto"
"""The preset that is chosen for the data (`ss4rec.auto`)."""
PRESETS: dict[str, Callable[[], RunConfig]] = {
    function.__name__: function
    for function in (demo, debug, paper, ml_1m_cpu, ml_1m_best, ml_20m_best, production)
}


def preset(name: str) -> RunConfig:
    """Return a preset by name.

    Raises:
        ConfigError: if there is none of that name; lists all and says which is near.
    """
    if name == AUTO:
        raise ConfigError(
            "preset auto looks at the data before it chooses: give them, as in --data data/ml-1m"
        )
    if name not in PRESETS:
        near = difflib.get_close_matches(name, PRESETS, n=1)
        hint = f'; did you mean "{near[0]}"?' if near else ""
        raise ConfigError(f"no preset {name!r}{hint} Presets: {', '.join([AUTO, *PRESETS])}")
    return PRESETS[name]()
