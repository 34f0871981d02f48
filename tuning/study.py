"""The Optuna study of a sweep: the one place that knows which trials there are and how they ended. No Ray.

It lives in one SQLite file that only the driver writes. A trial that was running when the driver died is taken up
again under its number, so its run folder, with its checkpoints, is found again.
"""

from __future__ import annotations

import math
import warnings
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import optuna
from optuna.pruners import BasePruner, MedianPruner, NopPruner, SuccessiveHalvingPruner
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from ss4rec.config import RunConfig, at, config_changes, parse_config
from ss4rec.errors import ConfigError, UsageError
from tuning.space import SearchSpace

Pruning = Literal["asha", "median", "none"]
REASON, FACTS, BASELINE = "reason", "facts", "baseline"
"""User attributes of a trial: why it ended; its run's figures; the preset it stands for, if any."""
_IDENTITY, _BASE = "identity", "base"


@dataclass(frozen=True)
class Objective:
    """What a sweep improves, and where a trial's figures hold it."""

    name: str
    metric: str
    direction: Literal["maximize", "minimize"]
    about: str


OBJECTIVES = {
    objective.name: objective
    for objective in (
        Objective("ndcg@10", "best_score", "maximize", "validation NDCG@10 of the best epoch"),
        Objective("events_per_s", "events_per_s", "maximize", "training targets a second in the last epoch"),
        Objective("parameters", "num_parameters", "minimize", "weights of the model"),
    )
}


@dataclass(frozen=True)
class Asked:
    """A trial that shall run."""

    number: int
    config: RunConfig
    resumed: bool
    """Whether an earlier attempt has begun it."""


class Sweep:
    """Hands out trials, takes their reports, decides on pruning.

    Args:
        study: from `open_study`.
        space: what is searched.
        base: configuration that gives every field which is not searched.
        objectives: what is improved; pruning needs exactly one.
        trials: trials of the whole sweep, those of earlier attempts included.
    """

    def __init__(
        self,
        study: optuna.Study,
        space: SearchSpace,
        base: RunConfig,
        objectives: Sequence[Objective],
        trials: int,
    ) -> None:
        self.study, self.space, self.base, self.objectives, self.total = (
            study,
            space,
            base,
            objectives,
            trials,
        )
        known = study.get_trials(deepcopy=False)
        self._interrupted = deque(trial for trial in known if trial.state is TrialState.RUNNING)
        self.resumed = len(self._interrupted)
        """Trials that an earlier attempt left running."""
        self._started = sum(trial.state is not TrialState.WAITING for trial in known)
        self._live: dict[int, Trial] = {}

    @property
    def left(self) -> int:
        """Trials that have not ended yet, those under way not counted."""
        return len(self._interrupted) + max(0, self.total - self._started)

    def ask(self) -> Asked | None:
        """Return the next trial to run, or None when all have been handed out.

        A point that the configuration refuses is a failed trial; the next one is taken.
        """
        while self.left:
            resumed = bool(self._interrupted)
            if resumed:
                trial = Trial(self.study, self._interrupted.popleft()._trial_id)
            else:
                trial = self.study.ask()
                self._started += 1
            point = self.space.sample(trial)
            try:
                config = self.space.configure(point, self.base)
            except ConfigError as error:
                self._end(trial, TrialState.FAIL, str(error))
                continue
            self._live[trial.number] = trial
            return Asked(trial.number, config, resumed)
        return None

    def report(self, number: int, epoch: int, score: float | None) -> bool:
        """Take the validation NDCG@10 of an epoch; return whether the trial should stop now.

        An epoch that was reported before (the trial was resumed before it) is not written twice. A baseline always
        goes on: what others are compared with has to be known at the full budget.
        """
        trial = self._live[number]
        return self._note(trial, epoch, score) and BASELINE not in trial.user_attrs and trial.should_prune()

    def catch_up(self, number: int, scores: Mapping[int, float]) -> None:
        """Write down scores by epoch that a trial kept and an earlier attempt did not live to report."""
        for epoch, score in scores.items():
            self._note(self._live[number], epoch, score)

    def complete(self, number: int, facts: Mapping[str, Any]) -> None:
        """End a trial whose training ended by itself.

        Args:
            number: the trial.
            facts: its figures; holds `best_score` and, for other objectives, their metrics.
        """
        trial = self._live.pop(number)
        self._note(trial, facts.get("epoch"), facts.get("score"))
        values = [facts.get(objective.metric, math.nan) for objective in self.objectives]
        bad = [
            f"{objective.name} is {value}"
            for objective, value in zip(self.objectives, values, strict=True)
            if not math.isfinite(value)
        ]
        if bad:  # Optuna refuses such a value and would leave the trial running for ever
            self._end(trial, TrialState.FAIL, f"no usable result: {', '.join(bad)}", facts)
        else:
            self._end(trial, TrialState.COMPLETE, str(facts.get("ended", "")), facts, values)

    def prune(self, number: int, facts: Mapping[str, Any]) -> None:
        """End a trial that `report` wanted to stop."""
        reason = f"epoch {facts.get('epoch')}: behind the other trials at this epoch"
        self._end(self._live.pop(number), TrialState.PRUNED, reason, facts)

    def fail(self, number: int, reason: str, facts: Mapping[str, Any] | None = None) -> None:
        """End a trial that could not be trained."""
        self._end(self._live.pop(number), TrialState.FAIL, reason, facts)

    def _end(
        self,
        trial: Trial,
        state: TrialState,
        reason: str,
        facts: Mapping[str, Any] | None = None,
        values: Sequence[float] | None = None,
    ) -> None:
        trial.set_user_attr(REASON, reason)
        trial.set_user_attr(FACTS, dict(facts or {}))
        self.study.tell(trial, values, state)

    def _note(self, trial: Trial, epoch: int | None, score: float | None) -> bool:
        """Write down an epoch's score, unless there is none or it is there; return whether there is one."""
        if epoch is None or score is None or not math.isfinite(score) or len(self.objectives) > 1:
            return False  # Optuna keeps the course of a trial for one objective only
        if epoch not in self.study._storage.get_trial(trial._trial_id).intermediate_values:
            trial.report(score, epoch)
        return True


def open_study(
    path: Path,
    name: str,
    *,
    space: SearchSpace,
    identity: Mapping[str, str],
    objectives: Sequence[Objective],
    pruning: Pruning,
    grace_epochs: int,
    seed: int,
    base: RunConfig | None = None,
) -> optuna.Study:
    """Create the study of a sweep, or open the one that an earlier attempt left.

    Args:
        path: SQLite file.
        name: study name.
        space: what is searched; its first points are enqueued once.
        identity: facts that may not change between attempts (data, base configuration, ...).
        objectives: what is improved.
        pruning: rule by which trials are stopped early.
        grace_epochs: epochs that every trial gets.
        seed: of the sampler.
        base: configuration of what is not searched, kept so that a later attempt can name the fields that differ.

    Raises:
        ConfigError: if the study was made with another space, data, or settings.
        UsageError: if several objectives are to be pruned, which Optuna cannot; if the file cannot be opened.
    """
    if len(objectives) > 1 and pruning != "none":
        raise UsageError(
            f"--pruner {pruning} compares trials by one objective and {len(objectives)} are given; use --pruner none"
        )
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        study = optuna.create_study(
            storage=optuna.storages.RDBStorage(f"sqlite:///{path}"),
            study_name=name,
            directions=[objective.direction for objective in objectives],
            load_if_exists=True,
            pruner=make_pruner(pruning, grace_epochs),
        )
    except (optuna.exceptions.OptunaError, SQLAlchemyError) as error:
        reason = str(error.__cause__ or error).splitlines()[0]
        raise UsageError(
            f"the study {path} cannot be opened: {reason}. End what else holds it (a dashboard, a copy that is being "
            "made), or choose another --name"
        ) from None
    # A sampler that starts anew with the same seed would propose the first points again.
    with warnings.catch_warnings():
        # `group` is what lets it learn joint distributions where parameters are conditional.
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study.sampler = optuna.samplers.TPESampler(
            multivariate=True,
            group=True,
            constant_liar=True,
            seed=seed + len(study.get_trials(deepcopy=False)),
        )
    facts = {
        **identity,
        "objectives": ", ".join(objective.name for objective in objectives),
        "pruner": f"{pruning} after {grace_epochs} epochs",
        **{f"space {name}": text for name, text in space.describe().items()},
    }
    _require_same(study, name, facts, base)
    for entry, point in zip(space.first, space.first_points(), strict=True):
        baseline = {BASELINE: entry} if isinstance(entry, str) else None
        study.enqueue_trial(point, baseline, skip_if_exists=True)
    return study


def make_pruner(pruning: Pruning, grace_epochs: int) -> BasePruner:
    """Return Optuna's pruner; both compare trials at equal epochs.

    `asha`: asynchronous successive halving, a quarter goes on at each rung (as in its paper, arXiv 1810.05934).
    `median`: stops what is below the median of earlier trials at that epoch.
    """
    if pruning == "asha":
        return SuccessiveHalvingPruner(min_resource=grace_epochs, reduction_factor=4)
    if pruning == "median":
        return MedianPruner(n_startup_trials=4, n_warmup_steps=grace_epochs)
    return NopPruner()


def ended(study: optuna.Study, state: TrialState) -> list[FrozenTrial]:
    """Return the trials of one end state, by number."""
    return study.get_trials(deepcopy=False, states=(state,))


def best_trial(study: optuna.Study) -> FrozenTrial | None:
    """Return the completed trial with the best first objective, the earlier one of equals; None if there is none."""
    sign = -1 if study.directions[0] is optuna.study.StudyDirection.MAXIMIZE else 1
    return min(
        ended(study, TrialState.COMPLETE),
        key=lambda trial: (sign * trial.values[0], trial.number),
        default=None,
    )


def _require_same(study: optuna.Study, name: str, facts: Mapping[str, str], base: RunConfig | None) -> None:
    """Note what a study is about, or refuse to go on with one about something else."""
    before: dict[str, str] | None = study.user_attrs.get(_IDENTITY)
    if before is None:
        study.set_user_attr(_IDENTITY, dict(facts))
        if base is not None:
            study.set_user_attr(_BASE, base.model_dump(mode="json"))
        return
    changed = [
        f"{key}: {before.get(key, 'not there')} -> {facts.get(key, 'not there')}"
        for key in sorted({*before, *facts})
        if before.get(key) != facts.get(key)
    ]
    if changed:
        changed += _changed_fields(study, base)
        raise ConfigError(
            f"the sweep {name} exists with other settings; choose another --name, or repeat its options:\n  "
            + "\n  ".join(changed)
        )


def _changed_fields(study: optuna.Study, base: RunConfig | None) -> list[str]:
    """Return the fields in which `base` differs from that of the attempt that made the study, if it is known."""
    kept = study.user_attrs.get(_BASE)
    if kept is None or base is None:
        return []
    before = parse_config(kept)
    return [f"{name}: {at(before, name)} -> {value}" for name, value in config_changes(before, base).items()]
