"""When a model is trained again: the policies of the replay, each a function of a report and of what was done so far."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from drift.config import ALARMS
from drift.report.contents import Report
from ss4rec.loop.decide import State, decide
from ss4rec.loop.settings import DecideConfig, How

Look = Callable[[], Report]
"""Makes the report on all windows since the champion's cut; only policies that ask pay for it."""


@dataclass(frozen=True)
class Policy:
    """A policy by name."""

    name: str
    choose: Callable[[Look, State, DecideConfig], How | None]
    """What is trained after a window; None: nothing. The last argument is read by `by decide` alone."""


def _on_drift(look: Look, state: State, config: DecideConfig) -> How | None:
    return "cold" if look().verdicts.data.now in ALARMS else None


def _on_regret(look: Look, state: State, config: DecideConfig) -> How | None:
    regret = look().verdicts.regret
    return "cold" if regret is not None and regret.now in ALARMS else None


def _by_decide(look: Look, state: State, config: DecideConfig) -> How | None:
    decision = decide(look(), state, config)
    return decision.how if decision.action == "retrain" else None


POLICIES = (
    Policy("never", lambda look, state, config: None),
    Policy("every window cold", lambda look, state, config: "cold"),
    Policy("every window warm", lambda look, state, config: "warm"),
    Policy("on drift", _on_drift),
    Policy("on regret", _on_regret),
    Policy("by decide", _by_decide),
)
