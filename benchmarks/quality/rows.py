"""The rows of the quality benchmark: each is a preset with overrides, a data folder, and seeds of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ss4rec.cli.options import resolve_config
from ss4rec.config import RunConfig


@dataclass(frozen=True)
class Row:
    """One line of a table."""

    name: str
    preset: str
    """A preset, or `peer`."""
    changes: tuple[str, ...] = ()
    """Overrides as FIELD=VALUE."""
    ties: Literal["file", "hash"] = "file"
    """Which prepared folder: events of one second in the order of the file, or of a hash."""

    @property
    def text(self) -> str:
        """The row as the command line takes it."""
        ties = " ties=hash" if self.ties == "hash" else ""
        return f"{self.name}: {self.preset}{ties}{''.join(f' {change}' for change in self.changes)}"

    @classmethod
    def parse(cls, text: str) -> Row:
        """Read `NAME: PRESET FIELD=VALUE ...`, or `PRESET ...`, which is its own name."""
        name, colon, rest = text.partition(":")
        preset, *changes = (rest if colon else text).split()
        return cls(
            name.strip().replace(" ", "-") if colon else preset,
            preset,
            tuple(change for change in changes if not change.startswith("ties=")),
            "hash" if "ties=hash" in changes else "file",
        )

    def config(self, seed: int, minutes: float) -> RunConfig:
        """Return the configuration of this row with one seed."""
        fixed = (
            f"train.seed={seed}",
            f"train.max_minutes={minutes}",
            "tracking.wandb=disabled",
            "data.source=local",
            "train.status_every_s=30",
            # A checkpoint is written at each best validation; more would only cost time here.
            "train.checkpoint_every_s=3600",
        )
        return resolve_config(self.preset, [*fixed, *self.changes])


def rows(group: str) -> list[Row]:
    """Return the rows of a group.

    Raises:
        KeyError: naming the groups, if there is none of that name.
    """
    if group not in GROUPS:
        raise KeyError(f"no group {group!r}; there are {', '.join(GROUPS)}")
    return GROUPS[group]


INPUTS = 'model.inputs=["rating","gap","clock","date"]'
ATTRIBUTES = "model.item_attributes=true"
NO_TIME = "data.target_time=false"
BASE = (
    "model.inputs=[]",
    "model.item_attributes=false",
    "model.layer_dropout=0",
    "model.blocks=3",
    "model.dropout=0.4",
    "model.embedding_dropout=0.2",
    "loss.label_smoothing=0.1",
    "optim.lr=1e-3",
    "optim.weight_decay=0",
    "optim.ema=0.999",
)
"""What `ml_1m_best` was on 2026-11-23, before the options of the first three lines existed."""
CANDIDATE = (*BASE, INPUTS, ATTRIBUTES, "optim.lr=2e-3")
"""All inputs and a higher rate, one member; later overrides of a field win."""


def _explore() -> list[Row]:
    """Return single trainings that looked for what helps, judged by validation alone."""
    base, all_inputs = BASE, (*BASE, INPUTS, ATTRIBUTES)
    changes: dict[str, tuple[str, ...]] = {
        "base": base,
        "gap": (*base, 'model.inputs=["gap"]'),
        "all": all_inputs,
        "all-lr-2e-3": CANDIDATE,
        "all-swap": (*CANDIDATE, "loss.swap_inputs=0.1", "loss.swap_targets=0.05"),
        "all-skip": (*CANDIDATE, "model.layer_dropout=0.15"),
        "all-3-members": (*CANDIDATE, "model.members=3"),
        "no-time-all": (*CANDIDATE, NO_TIME),
    }
    return [Row(name, "ml_1m_best", change) for name, change in changes.items()]


def _settings() -> list[Row]:
    """Return the recipe in the settings of the headline: time known or not, ties by file or by hash."""
    return [
        Row("best", "ml_1m_best"),
        Row("best-no-time", "ml_1m_best", (NO_TIME,)),
        Row("best-strict", "ml_1m_best", (), "hash"),
        Row("best-strict-no-time", "ml_1m_best", (NO_TIME,), "hash"),
    ]


def _ablation() -> list[Row]:
    """Return the recipe in 16 epochs, and with one thing changed at a time; what hurts was worth having."""
    changes: dict[str, tuple[str, ...]] = {
        "recipe": (),
        "without-rating": ('model.inputs=["gap","clock","date"]',),
        "with-profile": ('model.inputs=["rating","gap","clock","date","profile"]',),
        "without-attributes": ("model.item_attributes=false",),
        "without-learned-repeats": ("model.repeats=ignore",),
        "gaps-in-seconds": ("model.gap_map=seconds",),
        "without-feed-forward": ("model.feed_forward=0",),
        "pre-norm": ("model.norm=pre",),
        "shared-norm": ("model.shared_norm=true",),
        "3-blocks": ("model.blocks=3",),
        "dim-64": ("model.dim=64", "model.dropout=0.3"),
        "32-states": ("model.time_states=32",),
        "dropout-0.2": ("model.dropout=0.2",),
        "without-embedding-dropout": ("model.embedding_dropout=0",),
        "without-skipped-layers": ("model.layer_dropout=0",),
        "without-smoothing": ("loss.label_smoothing=0",),
        "swaps": ("loss.swap_inputs=0.1", "loss.swap_targets=0.05"),
        "cosine-head": ("model.cosine_temperature=0.05",),
        "constant-rate": ("optim.schedule=constant",),
        "without-average": ("optim.ema=0",),
        "length-500": ("data.max_len=500", "train.batch_size=64"),
        "length-1000": ("data.max_len=1000", "train.batch_size=48"),
        "length-2000": ("data.max_len=2000", "train.batch_size=40"),
        "published-dt": ("model.dt_init=published",),
        "without-weight-decay": ("optim.weight_decay=0",),
        "average-0.999": ("optim.ema=0.999",),
        "without-clock-date": ('model.inputs=["rating","gap"]',),
        "without-gap": ('model.inputs=["rating","clock","date"]',),
        "2-blocks": ("model.blocks=2",),
        "warmup-500": ("optim.warmup_steps=500",),
        "without-attributes-warmup-500": ("model.item_attributes=false", "optim.warmup_steps=500"),
    }
    short = ("train.epochs=16", "train.validate_every=4")
    return [Row(name, "ml_1m_best", (*short, *change)) for name, change in changes.items()]


def _paper() -> list[Row]:
    """Return the published configuration, and what its steps and the learned logit have to do with repeats."""
    wide = "train.batch_size=64"
    return [
        Row("paper", "paper", ("train.precision=bf16",)),
        Row("paper-64", "paper", ("train.precision=bf16", wide)),
        Row("paper-64-repeats", "paper", ("train.precision=bf16", wide, "model.repeats=learned")),
    ]


def _peers() -> list[Row]:
    """Return the peers; of each model several shapes, among which validation chooses."""
    sasrec, hstu, blind = "model=sasrec", "model=hstu", "relative_time_attention=false"
    return [
        Row("most-popular", "peer", ("model=most_popular",)),
        Row("markov-chain", "peer", ("model=markov_chain",)),
        Row("sasrec-128", "peer", (sasrec, "n_factors=128", "n_blocks=2", "n_heads=2", "dropout_rate=0.2")),
        Row("sasrec-256", "peer", (sasrec, "n_factors=256", "n_blocks=2", "n_heads=4", "dropout_rate=0.5")),
        Row("hstu-128", "peer", (hstu, "n_factors=128", "n_blocks=4", "n_heads=2", "dropout_rate=0.3")),
        Row("hstu-256", "peer", (hstu, "n_factors=256", "n_blocks=4", "n_heads=4", "dropout_rate=0.5")),
        Row(
            "hstu-128-no-time",
            "peer",
            (hstu, blind, "n_factors=128", "n_blocks=4", "n_heads=2", "dropout_rate=0.3"),
        ),
    ]


GROUPS: dict[str, list[Row]] = {
    "smoke": [Row("debug", "debug"), Row("markov-chain", "peer", ("model=markov_chain",))],
    "explore": _explore(),
    "settings": _settings(),
    "ablation": _ablation(),
    "paper": _paper(),
    "peers": _peers(),
}
