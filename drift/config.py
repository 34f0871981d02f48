"""Everything that decides a drift report, as one frozen object; `config.json` of the report holds it."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import BeforeValidator, Field, NonNegativeInt, PositiveFloat, PositiveInt

from ss4rec.config import Section

Severity = Literal["undecided", "none", "noted", "drift", "severe"]
SEVERITIES: tuple[Severity, ...] = get_args(Severity)
"""Verdicts, rising; `undecided` is no all-clear, it says that there were too few users."""
ALARMS: tuple[Severity, ...] = ("drift", "severe")
"""Verdicts that raise an alarm."""
NOT_DECISIVE = {"workers", "wandb", "project"}
"""Fields that change no figure of a report: where it is computed, and who gets its summary."""
Detector = Literal[
    "ks",
    "chi2",
    "tabular",
    "cvm",
    "mmd",
    "lsdd",
    "classifier",
    "spot_the_diff",
    "context_mmd",
    "mmd_online",
    "lsdd_online",
]
DETECTORS: tuple[Detector, ...] = get_args(Detector)
"""The alibi-detect detectors that `drift.cells.alibi` adapts."""


class DriftConfig(Section):
    """Cut, windows, tests and thresholds."""

    window: Literal["month", "quarter", "year"] = "quarter"
    """Length of a window (calendar, UTC). Windows cut by either end of the data or by the cut are left out."""
    reference: tuple[str, str] | None = None
    """First and last reference window, as in `("2013Q4", "2014Q3")`. None: the last four before the cut."""
    calibration: tuple[str, str] | None = None
    """First and last window for past-against-past thresholds. None: up to 20 windows that end with the reference."""
    permutations: PositiveInt = 2000
    """Permutations of users in a test; Holm over W windows needs at least 20 W."""
    bootstrap: PositiveInt = 300
    """Bootstrap draws of an interval."""
    level: float = Field(default=0.95, gt=0.5, lt=1.0)
    """Coverage of intervals."""
    alpha: float = Field(default=0.05, gt=0.0, lt=0.5)
    """Largest adjusted p of an alarm."""
    planned_windows: NonNegativeInt = 0
    """Windows that will be looked at in all; keeps alpha over repeated looks (`--since-last`)."""
    min_users: PositiveInt = 300
    """Users a side below which a verdict is `undecided`."""
    max_users: PositiveInt = 20_000
    """Users a side that enter tests; more are sampled by seed."""
    severe_factor: PositiveFloat = 2.0
    """Effect in multiples of its threshold from which drift is `severe`."""
    quality_drop: PositiveFloat = 0.10
    """Relative drop of HR@10 that counts as `drift`."""
    quality_severe: PositiveFloat = 0.25
    """Relative drop of HR@10 that counts as `severe`."""
    quality_users: PositiveInt = 2000
    """Users a window that the model ranks for, sampled by seed."""
    alibi: Annotated[tuple[Detector, ...], BeforeValidator(lambda v: DETECTORS if v == "all" else v)] = ()
    """Detectors of alibi-detect that are run beside ours (`drift.config.DETECTORS`); `all` for each of them."""
    alibi_users: PositiveInt = 500
    """Users a side that alibi-detect sees."""
    fail_on: Literal["noted", "drift", "severe", "never"] = "severe"
    """Least verdict for exit code 10; `never` where another code than 0 means that the job is tried again."""
    seed: NonNegativeInt = 2020
    """Seed of every sample, permutation and bootstrap, with window and detector mixed in."""
    workers: PositiveInt = 2
    """Ray actors of the second pass; no result depends on it."""
    wandb: Literal["offline", "online", "disabled"] = "offline"
    """Weights & Biases mode; it gets the summary of the report."""
    project: str = "ss4rec"
    """Weights & Biases project."""
