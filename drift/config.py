"""Everything that decides a drift report, as one frozen object; `config.json` of the report holds it."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Annotated, Literal, get_args

from pydantic import BeforeValidator, Field, NonNegativeInt, PositiveFloat, PositiveInt

from drift.calendar import Kind
from ss4rec.config import Section
from ss4rec.errors import UsageError

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


def default_detectors() -> tuple[Detector, ...]:
    """Return `ks` and `mmd` where the extra `ss4rec[alibi]` is installed, else nothing."""
    return ("ks", "mmd") if find_spec("alibi_detect") else ()


def check_detectors(config: DriftConfig) -> None:
    """Refuse detectors that are not installed, before anything is computed.

    Raises:
        UsageError: if alibi-detect is missing.
    """
    if config.alibi and not find_spec("alibi_detect"):
        raise UsageError(
            f"alibi={','.join(config.alibi)} needs alibi-detect, which is not installed: pip install 'ss4rec[alibi]', "
            "or leave the field out"
        )


class DriftConfig(Section):
    """Cut, windows, tests and thresholds."""

    window: Kind = "quarter"
    """Length of a window (UTC): hour, day, week, month, quarter or year. A window that has not ended is left out."""
    anchor: Literal["cut", "calendar"] = "cut"
    """`cut`: windows begin with the first second after the cut, so none is lost; `calendar`: with the calendar's."""
    reference: tuple[str, str] | None = None
    """First and last reference window, as in `("2013Q4", "2014Q3")`. None: the last four before the cut."""
    calibration: tuple[str, str] | None = None
    """First and last window for past-against-past thresholds. None: up to 20 windows that end with the reference."""
    permutations: PositiveInt = 2000
    """Minimum permutations of users in a test; as many more are drawn as the number of windows asks for."""
    bootstrap: PositiveInt = 300
    """Bootstrap draws of an interval."""
    level: float = Field(default=0.95, gt=0.5, lt=1.0)
    """Coverage of intervals."""
    alpha: float = Field(default=0.05, gt=0.0, lt=0.5)
    """Chance of a false alarm in a whole report without drift: maximum adjusted p of an alarm."""
    planned_windows: NonNegativeInt = 0
    """Windows that will be looked at in all; keeps alpha over repeated looks (`--since-last`)."""
    min_users: PositiveInt = 300
    """Users on each side below which a verdict is `undecided`."""
    max_users: PositiveInt = 20_000
    """Users on each side that enter tests; more are sampled by seed."""
    severe_factor: PositiveFloat = 2.0
    """Effect in multiples of its threshold from which drift is `severe`."""
    unseen_limit: float = Field(default=0.15, gt=0.0, le=1.0)
    """Share of events on items outside the model's catalogue from which the verdict `unseen` is `drift`."""
    quality_drop: PositiveFloat = 0.10
    """Relative drop of HR@10 that counts as `drift`, and the same of the lead over rolling popularity."""
    quality_severe: PositiveFloat = 0.25
    """Relative drop of HR@10 that counts as `severe`."""
    quality_users: PositiveInt = 500
    """Users per window that the model ranks for, sampled by seed and the users' own ids."""
    targets_per_user: PositiveInt = 20
    """Maximum events per user and window that are ranked, spread evenly over the user's events."""
    alibi: Annotated[tuple[Detector, ...], BeforeValidator(lambda v: DETECTORS if v == "all" else v)] = Field(
        default_factory=default_detectors
    )
    """Detectors of alibi-detect that are run beside ours (`drift.config.DETECTORS`); `all` for each of them. Without
    this field `ks` and `mmd` where `ss4rec[alibi]` is installed."""
    alibi_users: PositiveInt = 200
    """Users on each side that alibi-detect sees."""
    alibi_windows: PositiveInt = 8
    """Last windows that alibi-detect looks at, since its detectors take seconds for each."""
    fail_on: Literal["noted", "drift", "severe", "never"] = "severe"
    """Lowest verdict for exit code 10; `never` where another code than 0 means that the job is tried again."""
    seed: NonNegativeInt = 2020
    """Seed of every sample, permutation and bootstrap, with window and detector mixed in."""
    workers: PositiveInt = 2
    """Ray actors of the second pass and of ranking; no result depends on it."""
    wandb: Literal["offline", "online", "disabled"] = "offline"
    """Weights & Biases mode; it gets the summary of the report."""
    project: str = "ss4rec"
    """Weights & Biases project."""
