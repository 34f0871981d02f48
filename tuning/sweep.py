"""One sweep from the space to the report: what `ss4rec tune` and `python -m ray_jobs.tune` run."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import optuna
from optuna.trial import FrozenTrial, TrialState
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveInt

from ss4rec.cluster.connect import cluster
from ss4rec.cluster.placement import read_cluster
from ss4rec.cluster.storage_check import storage_preflight
from ss4rec.config import RunConfig, Section, config_changes, override
from ss4rec.data.batches.source import check_trainable
from ss4rec.data.prepared.folder import PreparedFolder
from ss4rec.errors import SS4RecError
from ss4rec.io.atomic import write_json, write_whole
from ss4rec.presets import preset
from ss4rec.runs.lease import hold
from ss4rec.runs.provenance import installed_versions
from ss4rec.runs.record import data_fingerprint
from ss4rec.train.status import say
from tuning.plan import TrialPlan, plan_trials
from tuning.report import write_report
from tuning.space import SearchSpace
from tuning.study import FACTS, OBJECTIVES, REASON, Pruning, Sweep, best_trial, ended, open_study
from tuning.table import LiveTable

STUDY_FILE, BEST_FILE, PRESET_FILE, SUMMARY_FILE, REPORT_FILE = (
    "study.db",
    "best.json",
    "preset.py",
    "sweep.json",
    "report.html",
)


class SweepConfig(Section):
    """How a sweep searches; what it searches is the space."""

    trials: PositiveInt = 64
    """Trials of the whole sweep, over all attempts."""
    objectives: tuple[Literal["ndcg@10", "events_per_s", "parameters"], ...] = ("ndcg@10",)
    """What is improved; the first names the best trial."""
    pruner: Pruning = "asha"
    """Rule that stops trials early."""
    grace_epochs: NonNegativeInt = 0
    """Epochs that every trial gets; 0: a ninth of the most, so that ASHA decides there and at four ninths."""
    seed: NonNegativeInt = 2020
    """Seed of the search."""
    trials_per_gpu: PositiveInt = 1
    """One-worker trials that share a GPU."""
    concurrent: NonNegativeInt = 0
    """Maximum concurrent trials; 0: as many as fit."""
    minutes: NonNegativeFloat = 0.0
    """Minutes after which this attempt ends in order, its start included; 0: when all trials are done."""


def run_sweep(
    space: SearchSpace,
    data: PreparedFolder | Path,
    sweep_dir: Path,
    settings: SweepConfig,
    *,
    base: RunConfig | None = None,
    address: str | None = None,
) -> dict[str, Any]:
    """Run or continue the sweep in `sweep_dir`; return the content of its `sweep.json`.

    Args:
        space: what is searched.
        data: a prepared folder that all nodes can read, or its absolute path.
        sweep_dir: absolute path of the sweep's folder, on storage that all nodes share.
        settings: how it is searched.
        base: configuration of what is not searched; default: the space's own.
        address: Ray cluster, see `ss4rec.cluster.connect.cluster`.

    Raises:
        SS4RecError: any expected failure, as one sentence; also if no trial reached its end.
    """
    ends_at = time.monotonic() + 60 * settings.minutes if settings.minutes else None
    base = space.start() if base is None else base
    data = PreparedFolder.open(data)
    check_trainable(data, base.protocol)
    with hold(sweep_dir, say=say), cluster(address):
        from tuning.ray_tune import placement_groups_held, require_dashboard, run_trials

        require_dashboard()
        storage_preflight(str(sweep_dir))
        plan = plan_trials(
            base.resources,
            read_cluster(),
            trials_per_gpu=settings.trials_per_gpu,
            most=settings.concurrent or None,
            ray_data=base.data.source == "ray",
        )
        say("\n".join([str(plan), *plan.notes]))
        base = trial_base(base, sweep_dir.name, plan)
        study = _study(space, base, data, sweep_dir, settings)
        objectives = [OBJECTIVES[name] for name in settings.objectives]
        sweep = Sweep(study, space, base, objectives, settings.trials)
        table = LiveTable(space, base.train.epochs, settings.trials, plan.concurrent, ends_at)
        table.known(study.get_trials(deepcopy=False))
        if sweep.resumed:
            say(f"continuing {sweep_dir.name}: {sweep.resumed} trial(s) were running when it stopped")
        try:
            if sweep.left:
                run_trials(
                    sweep,
                    plan,
                    data,
                    sweep_dir,
                    max_failures=base.resources.max_failures,
                    listen=table,
                    ends_at=ends_at,
                )
        except BaseException:
            with suppress(Exception):  # a disk that is full here too is not the news
                write_results(study, space, base, sweep_dir)
            raise
        table.print()
        if stopped := len(ended(study, TrialState.RUNNING)):
            say(
                f"{settings.minutes:g} minutes have passed: {stopped} trial(s) were stopped; the same command "
                "continues them from their last checkpoints"
            )
        summary = write_results(study, space, base, sweep_dir)
        summary["placement_groups_left"] = placement_groups_held()
    if summary["best"] is None:
        raise SS4RecError(_nothing(study, sweep_dir))
    return summary


def trial_base(base: RunConfig, group: str, plan: TrialPlan) -> RunConfig:
    """Return the configuration that all trials start from.

    Budgets are epochs, never minutes, which would depend on who else runs; the study hears of every epoch; the test
    items stay unseen; threads are part of the configuration, since they change rounding.
    """
    changes: dict[str, Any] = {
        "train.max_minutes": 0.0,
        "train.report_every_s": 0.0,
        "evaluation.at_end": False,
        "tracking.group": group,
    }
    if plan.workers == 1:
        changes["resources.threads_per_worker"] = plan.threads
    return override(base, changes)


def write_results(
    study: optuna.Study, space: SearchSpace, base: RunConfig, sweep_dir: Path
) -> dict[str, Any]:
    """Write `best.json`, `preset.py`, `sweep.json` and `report.html`; return the content of `sweep.json`."""
    counts = {state.name.lower(): len(ended(study, state)) for state in TrialState}
    summary: dict[str, Any] = {
        "sweep": sweep_dir.name,
        "trials": counts,
        "best": None,
        "epochs": sum(
            trial.user_attrs.get(FACTS, {}).get("epoch", 0) for trial in study.get_trials(deepcopy=False)
        ),
        "versions": installed_versions() | {"optuna": optuna.__version__},
    }
    best = best_trial(study)
    if best is not None:
        config = best_config(space, base, best)
        summary["best"] = {
            "trial": best.number,
            "values": best.values,
            "point": best.params,
            "best_epoch": best.user_attrs[FACTS].get("best_epoch"),
        }
        write_json(sweep_dir / BEST_FILE, summary["best"] | {"config": config.model_dump(mode="json")})
        write_whole(sweep_dir / PRESET_FILE, _preset_source(config, best, sweep_dir.name).encode())
    write_json(sweep_dir / SUMMARY_FILE, summary)
    write_report(study, space, sweep_dir.name, base.train.epochs, sweep_dir / REPORT_FILE)
    return summary


def best_config(space: SearchSpace, base: RunConfig, best: FrozenTrial) -> RunConfig:
    """Return the configuration that trains the best trial again, with reports and the test at its end as usual."""
    usual = {
        "train.report_every_s": RunConfig().train.report_every_s,
        "evaluation.at_end": True,
        "tracking.group": "",
    }
    return override(space.configure(best.params, base), usual)


def _study(
    space: SearchSpace, base: RunConfig, data: PreparedFolder, sweep_dir: Path, settings: SweepConfig
) -> optuna.Study:
    """Open the study of a sweep, or make it."""
    every = base.train.validate_every
    grace = settings.grace_epochs or max(1, base.train.epochs // 9)
    return open_study(
        sweep_dir / STUDY_FILE,
        sweep_dir.name,
        space=space,
        identity={
            "data": f"{data.manifest.name} {data_fingerprint(data.manifest)[:12]}",
            "base configuration": base.fingerprint(),
        },
        objectives=[OBJECTIVES[name] for name in settings.objectives],
        pruning=settings.pruner,
        grace_epochs=-(-grace // every) * every,
        seed=settings.seed,
        base=base,
    )


def _nothing(study: optuna.Study, sweep_dir: Path) -> str:
    failed = ended(study, TrialState.FAIL)
    first = f"; the first failure: {failed[0].user_attrs.get(REASON, 'unknown')}" if failed else ""
    stopped = len(ended(study, TrialState.RUNNING))
    more = f", {stopped} stopped by --minutes (the same command continues them)" if stopped else ""
    return (
        f"no trial of {sweep_dir.name} reached its end ({len(failed)} failed, "
        f"{len(ended(study, TrialState.PRUNED))} pruned{more}){first}. See {sweep_dir / REPORT_FILE}"
    )


def _preset_source(config: RunConfig, best: FrozenTrial, name: str) -> str:
    """Return Python that defines the best configuration as a preset: what it changes, and nothing else."""
    function = "".join(letter if letter.isalnum() else "_" for letter in f"{name}_best").lower()
    changes = config_changes(preset(config.preset), config)
    lines = "".join(f"            {field!r}: {value!r},\n" for field, value in changes.items())
    return (
        f'"""Written by `ss4rec tune --name {name}`; the function may go into ss4rec/presets.py."""\n\n'
        "from ss4rec.config import RunConfig, override\n"
        "from ss4rec.presets import preset\n\n\n"
        f"def {function}() -> RunConfig:\n"
        f'    """Best of the sweep {name}: trial {best.number}, value {best.values[0]:.6g}."""\n'
        f"    return override(\n        preset({config.preset!r}),\n        {{\n{lines}        }},\n    )\n"
    )
