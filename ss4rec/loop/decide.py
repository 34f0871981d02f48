"""What to do after a look: one pure function of the report and of what the loop has done so far.

Order matters. A fault of the pipeline comes first and blocks retraining: a model that learns from corrupt data is worse
than one that is old. Then reasons to retrain, held back by cool-down and budget; then what could not be decided.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from drift.config import ALARMS
from drift.report.contents import Report, Verdict
from ss4rec.loop.settings import SEVERE, DecideConfig, How

Action = Literal["look", "retrain", "wait", "nothing"]


@dataclass(frozen=True)
class Facts:
    """What a report says, as far as a decision hangs on it."""

    pipeline: Verdict
    data: Verdict
    unseen: Verdict
    model_fall: Verdict | None
    regret: Verdict | None
    windows: tuple[str, ...]
    """All windows after the champion's cut, in order of time."""
    new_windows: tuple[str, ...]
    """Those that nobody had looked at before."""
    incomplete: bool = False
    """Whether a part of the report failed."""

    @classmethod
    def of(cls, report: Report) -> Facts:
        """Take the facts of a report."""
        verdicts = report.verdicts
        return cls(
            pipeline=verdicts.pipeline,
            data=verdicts.data,
            unseen=verdicts.unseen,
            model_fall=verdicts.model_fall,
            regret=verdicts.regret,
            windows=tuple(window["name"] for window in report.windows),
            new_windows=tuple(report.new_windows),
            incomplete=report.incomplete,
        )


@dataclass(frozen=True)
class Training:
    """A training that the loop has made."""

    ended_windows: int
    """Windows that had ended since the loop began (`State.ended_windows`) when it was made."""
    how: How
    promoted: bool


@dataclass(frozen=True)
class State:
    """What the loop has done so far."""

    has_champion: bool = True
    ended_windows: int = 0
    """Windows that the loop has seen end, over all champions."""
    champion_age: int = 0
    """Windows that have ended since the champion's cut."""
    spare_windows: int = 1
    """Windows after the champion's cut that a challenger could train on: those before the gate."""
    trainings: tuple[Training, ...] = ()
    """The oldest first."""
    past_changed: str = ""
    """What is wrong with the data before the champion's cut, if they are not those that it was trained on."""
    past_cleared: bool = False
    """Whether somebody has said that they are right as they are now."""
    cleared: str | None = None
    """Window up to which faults of the pipeline were looked at, and found to be none or mended (`watch --clear`)."""


@dataclass(frozen=True)
class Decision:
    """What to do, and why."""

    action: Action
    reason: str
    """One or two sentences."""
    how: How | None = None
    """Of a retraining."""
    because: tuple[str, ...] = ()
    """Verdicts that it rests on, by name."""


def decide(report: Report | Facts | None, state: State, config: DecideConfig) -> Decision:
    """Return what to do.

    Args:
        report: of the data after the champion's cut; None where there is no champion, or no window has ended since.
        state: what the loop has done so far.
        config: limits.
    """
    facts = Facts.of(report) if isinstance(report, Report) else report
    if not state.has_champion:
        return Decision("retrain", "There is no champion yet: a first model is trained from nothing.", "cold")
    if state.past_changed:
        return _other_past(state, config)
    if facts is None:
        return Decision("nothing", "No window has ended since the champion's cut.")
    fault = _fault(facts, state)
    if fault is not None:
        return fault
    because, why = _reasons(facts, state, config)
    if because:
        held = _held_back(state, config)
        if held:
            return Decision("wait", f"{why} {held}", because=because)
        how = _how(state, config)
        words = "from nothing" if how == "cold" else "from the champion's weights"
        return Decision("retrain", f"{why} A challenger is trained {words}.", how, because)
    if not facts.new_windows:
        return Decision("nothing", "No window has ended since the last look.")
    undecided = [v for v in (facts.model_fall, facts.data, facts.regret) if v and v.now == "undecided"]
    if undecided:
        wait_for = next((v.wait_for for v in undecided if v.wait_for), undecided[0].sentence)
        return Decision("wait", f"Undecided: {wait_for.rstrip('.')}.")
    if facts.data.now in ALARMS:
        fine = "the model does not suffer from it"
        return Decision("nothing", f"{facts.data.sentence} So far {fine}.", because=("data",))
    model = facts.model_fall.sentence if facts.model_fall else facts.data.sentence
    return Decision("nothing", model)


def _other_past(state: State, config: DecideConfig) -> Decision:
    """Return the decision where events came late, or were changed: no report can be made on this champion."""
    what = "The data before the champion's cut are not those that it was trained on"
    if not state.past_cleared:
        return Decision(
            "look",
            f"{what} ({state.past_changed.rstrip('.')}): events came late, or were changed. Nothing is trained on this "
            "until somebody has looked: mend the data, or say `ss4rec watch --clear` if they are right.",
            because=("past",),
        )
    if held := _held_back(state, config):
        return Decision("wait", f"{what}. {held}", because=("past",))
    return Decision(
        "retrain", f"{what}, and they are right now. A challenger is trained from nothing.", "cold", ("past",)
    )


def _fault(facts: Facts, state: State) -> Decision | None:
    """Return the decision on a fault of the pipeline, or on a report that has a hole."""
    if facts.incomplete:
        return Decision("look", "A part of the report failed, and a report with a hole is no all-clear.")
    fault = facts.pipeline
    if not (fault.now in ALARMS or fault.new in ALARMS) or _is_cleared(fault, facts.windows, state.cleared):
        return None
    return Decision(
        "look",
        f"{fault.sentence} Nothing is trained on this until somebody has looked: mend the data, or say "
        "`ss4rec watch --clear` if they are right.",
        because=("pipeline",),
    )


def _is_cleared(fault: Verdict, windows: Sequence[str], cleared: str | None) -> bool:
    """Whether a fault began in a window that was looked at; one that the report does not name was before all others."""
    if cleared is None:
        return False
    seen = windows[: windows.index(cleared) + 1] if cleared in windows else windows[:0]
    return fault.since in seen


def _reasons(facts: Facts, state: State, config: DecideConfig) -> tuple[tuple[str, ...], str]:
    """Return the verdicts that ask for a retraining, and the sentences of the first two."""
    limits = SEVERE[config.retrain_at]
    named = {"model_fall": facts.model_fall, "regret": facts.regret, "unseen": facts.unseen}
    found = {name: verdict for name, verdict in named.items() if verdict and verdict.now in limits}
    sentences = [verdict.sentence for verdict in list(found.values())[:2]]
    because = tuple(found)
    if config.max_age and state.champion_age >= config.max_age:
        because = (*because, "age")
        sentences.append(f"The champion is {state.champion_age} windows old; {config.max_age} are allowed.")
    return because, " ".join(sentences)


def _held_back(state: State, config: DecideConfig) -> str:
    """Say what holds a retraining back; empty if nothing does."""
    if state.spare_windows < 1:
        return "All windows since the champion's cut are needed to compare on; one more must end."
    if not state.trainings:
        return ""
    failed = 0
    for training in reversed(state.trainings):
        if training.promoted:
            break
        failed += 1
    pause = config.cool_down * 2**failed
    since = state.ended_windows - state.trainings[-1].ended_windows
    if since < pause:
        again = f", doubled for each of the last {failed} that was not promoted" if failed else ""
        return f"The last training was {since} windows ago, and {pause} must pass{again}."
    if config.budget:
        first = state.ended_windows - config.budget_windows
        spent = sum(training.ended_windows > first for training in state.trainings)
        if spent >= config.budget:
            return (
                f"The budget is spent: {spent} trainings in the last {config.budget_windows} windows, {config.budget} "
                "are allowed."
            )
    return ""


def _how(state: State, config: DecideConfig) -> How:
    """Return whether a training begins from nothing."""
    if config.how != "auto":
        return config.how
    last = state.trainings[-config.cold_every + 1 :] if config.cold_every > 1 else ()
    all_warm = len(last) == config.cold_every - 1 and all(training.how == "warm" for training in last)
    return "cold" if all_warm else "warm"
