"""`watch.toml`: what the loop watches, when it retrains, how it compares, and whom it tells."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from drift.config import DriftConfig, Severity
from ss4rec.config import Section, parse_section
from ss4rec.errors import ConfigError

How = Literal["cold", "warm"]


class DecideConfig(Section):
    """When the loop retrains."""

    retrain_at: Literal["drift", "severe"] = "drift"
    """Lowest verdict on the model's fall, its regret or unseen items that asks for a retraining."""
    how: Literal["warm", "cold", "auto"] = "auto"
    """How it retrains: from the champion's weights, from nothing, or warm with a cold one every `cold_every` times."""
    cold_every: PositiveInt = 8
    """`how=auto`: trainings after which one begins from nothing."""
    cool_down: NonNegativeInt = 1
    """Windows that must have ended since the last training; twice as many for each training in a row that was not
    promoted."""
    budget: NonNegativeInt = 0
    """Maximum trainings in `budget_windows` windows; 0 has no limit."""
    budget_windows: PositiveInt = 12
    """Windows over which trainings are counted."""
    max_age: NonNegativeInt = 0
    """Windows after which the champion is retrained whatever the report says; 0 never."""


class TrainingConfig(Section):
    """How challengers are trained."""

    preset: str = "auto"
    """Preset of the first training, and of those from nothing where the champion's configuration is not wanted; later
    ones take the champion's."""
    set: dict[str, Any] = Field(default_factory=dict)
    """Fields of the configuration, as in `"train.epochs" = 20`."""
    minutes: float | None = Field(default=None, gt=0)
    """Time for a training; None: as the configuration says."""
    k_core: NonNegativeInt = 5
    """k-core of the past that a model trains on."""


class CompareConfig(Section):
    """What a challenger has to show."""

    gate_windows: PositiveInt = 1
    """Last windows of the data, which no challenger trains on: both models are compared there."""
    users: PositiveInt = 4000
    """Maximum users who are ranked for, drawn by seed and their own ids."""
    targets_per_user: PositiveInt = 20
    """Maximum events of each that are ranked."""
    metric: str = "NDCG@10"
    """What decides."""
    alpha: float = Field(default=0.05, gt=0.0, lt=0.5)
    """Chance with which a challenger that is no better is promoted (one-sided, by permutation of users)."""
    guard_alpha: float = Field(default=0.05, gt=0.0, lt=0.5)
    """Level at which a loss on known items, known users or new users forbids a promotion."""
    min_users: PositiveInt = 50
    """Users below which nothing is concluded."""
    seed: NonNegativeInt = 2020
    """Seed of users, permutations and intervals."""


class TellConfig(Section):
    """Whom the loop tells."""

    prometheus: str = ""
    """File of gauges for node_exporter's textfile collector; empty: `metrics.prom` in the work folder."""
    webhook: str = ""
    """Address that gets a POST with JSON when something was decided; empty for none. An environment variable is named
    as in `$ALERT_URL`."""
    webhook_at: Literal["change", "always"] = "change"
    """`change`: when somebody has to look, or a training was made; `always`: at each look."""
    wandb: Literal["disabled", "offline", "online"] = "disabled"
    """Weights & Biases: a run for each look, with an alert where somebody has to look."""
    project: str = "ss4rec"
    """Weights & Biases project."""
    exit_codes: Literal["detailed", "plain"] = "detailed"
    """`detailed`: 10 look, 11 wait, 12 retrained and the champion stays. `plain`: 0 unless the loop itself failed, for
    schedulers that take any other code as a failure."""


class WatchConfig(Section):
    """Everything that decides what `ss4rec watch` does."""

    model: str
    """`registry/NAME`, the model that is kept good."""
    data: str
    """Prepared folder that grows (`ss4rec data prepare --k-core 0`)."""
    work: str
    """Folder of the loop's own: journal, reports, challengers, page."""
    first_cut: str | None = None
    """Last moment of the first model's training (a date, an ISO time or unix seconds), where the registry is empty;
    None: up to the last `compare.gate_windows` windows."""
    look: DriftConfig = Field(default_factory=DriftConfig)
    """Fields of the drift report."""
    decide: DecideConfig = DecideConfig()
    """When to retrain."""
    train: TrainingConfig = TrainingConfig()
    """How to retrain."""
    compare: CompareConfig = CompareConfig()
    """What a challenger has to show."""
    tell: TellConfig = TellConfig()
    """Whom to tell."""

    @classmethod
    def load(cls, path: Path) -> WatchConfig:
        """Read `watch.toml`; paths in it are relative to its folder.

        Raises:
            ConfigError: if it cannot be read, or fields are refused, all at once.
        """
        try:
            raw = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise ConfigError(f"{path} cannot be read as TOML: {error}") from None
        found = parse_section(cls, raw, str(path))
        base = path.resolve().parent
        return found.model_copy(
            update={name: str(base / getattr(found, name)) for name in ("model", "data", "work")}
        )


SEVERE: dict[str, tuple[Severity, ...]] = {"drift": ("drift", "severe"), "severe": ("severe",)}
"""Verdicts that ask for a retraining, by `DecideConfig.retrain_at`."""
EXIT_LOOK, EXIT_WAIT, EXIT_KEPT = 10, 11, 12
