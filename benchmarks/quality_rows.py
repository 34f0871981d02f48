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
ALL_INPUTS = 'model.inputs=["rating","gap","clock","date","profile"]'
ATTRIBUTES = "model.item_attributes=true"
NO_TIME = "data.target_time=false"


def _explore() -> list[Row]:
    """Return single trainings that look for what helps, judged by validation alone."""
    both = (INPUTS, ATTRIBUTES)
    fast = (*both, "optim.lr=2e-3")
    return [
        Row("base", "ml_1m_best"),
        Row("lr-2e-3", "ml_1m_best", ("optim.lr=2e-3",)),
        Row("gap", "ml_1m_best", ('model.inputs=["gap"]',)),
        Row("rating", "ml_1m_best", ('model.inputs=["rating"]',)),
        Row("clock-date", "ml_1m_best", ('model.inputs=["clock","date"]',)),
        Row("profile", "ml_1m_best", ('model.inputs=["profile"]',)),
        Row("attributes", "ml_1m_best", (ATTRIBUTES,)),
        Row("all", "ml_1m_best", both),
        Row("all-lr-2e-3", "ml_1m_best", fast),
        Row("all-lr-4e-3", "ml_1m_best", (*both, "optim.lr=4e-3")),
        Row("all-swap", "ml_1m_best", (*fast, "loss.swap_inputs=0.1", "loss.swap_targets=0.05")),
        Row("all-skip", "ml_1m_best", (*fast, "model.layer_dropout=0.15")),
        Row("all-4-blocks", "ml_1m_best", (*fast, "model.blocks=4")),
        Row("all-d256", "ml_1m_best", (*fast, "model.dim=256", "model.dropout=0.5")),
        Row("all-batch-64", "ml_1m_best", (*both, "train.batch_size=64")),
        Row("all-3-members", "ml_1m_best", (*fast, "model.members=3")),
        Row("no-time-all", "ml_1m_best", (*fast, NO_TIME)),
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
    "peers": _peers(),
}
