"""Ray Tune runs what the study asks for. Tune's own search state and files are thrown away after each attempt."""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from ss4rec.cluster.ray_private import dashboard_url
from ss4rec.cluster.secrets import redact
from ss4rec.data.prepared.folder import PreparedFolder
from ss4rec.errors import ResourceError, SS4RecError
from ss4rec.interrupt import finish_first
from ss4rec.runs.folder import RunFolder
from ss4rec.train.notice import stop_in_order
from tuning.plan import TrialPlan
from tuning.ray_trial import OneWorkerTrial, epoch_scores, many_workers_trial
from tuning.study import Asked, Sweep

_DASHBOARD_START_S = 60.0
"""A dashboard that has just been started answers after some seconds."""
Listener = Callable[[int, Mapping[str, Any]], None]
"""Told a trial's number and its newest result; `state` is `running`, `ended`, `failed` or `pruned`."""


class _Bridge:
    """Carries news between Tune's trials and the study; the searcher and the scheduler are its two faces."""

    def __init__(self, sweep: Sweep, settings: Callable[[Asked], dict[str, Any]], listen: Listener) -> None:
        self.sweep, self.settings, self.listen = sweep, settings, listen
        self.numbers: dict[str, int] = {}
        """Study number by Tune's trial id."""
        self.last: dict[str, dict[str, Any]] = {}
        self.pruned: set[str] = set()
        self.causes: dict[str, str] = {}
        """What Tune met last, by id of a trial that it gave up."""
        self.error: BaseException | None = None
        """What broke the study itself, as a full disk does; Tune would bury it."""

    def ask(self, trial_id: str) -> dict[str, Any] | None:
        """Return the settings of a new trial; None if the study asks for no more."""
        asked = self._guard(self.sweep.ask)
        if asked is None:
            return None
        self.numbers[trial_id] = asked.number
        settings: dict[str, Any] = self._guard(lambda: self.settings(asked))
        if asked.resumed:
            kept = epoch_scores(RunFolder(Path(settings["run_dir"])))
            self._guard(lambda: self.sweep.catch_up(asked.number, kept))
        self.listen(asked.number, {"state": "running", "config": asked.config})
        return settings

    def report(self, trial_id: str, result: Mapping[str, Any]) -> bool:
        """Take a result of a trial that goes on; return whether it should stop."""
        if result.get("state") != "running":
            return False
        number = self.numbers[trial_id]
        self.last[trial_id] = facts = _facts(result)
        stop = self._guard(lambda: self.sweep.report(number, result["epoch"], result.get("score")))
        if stop:
            self.pruned.add(trial_id)
        self.listen(number, facts | ({"state": "pruned"} if stop else {}))
        return bool(stop)

    def end(self, trial_id: str, result: Mapping[str, Any] | None, error: bool) -> None:
        """Tell the study how a trial ended."""
        if trial_id not in self.numbers:
            return
        number = self.numbers.pop(trial_id)
        facts = _facts(result or {}) or self.last.get(trial_id, {})
        state = "pruned" if trial_id in self.pruned else "failed" if error else facts.get("state")
        if state == "pruned":
            self._guard(lambda: self.sweep.prune(number, facts))
        elif state == "ended":
            self._guard(lambda: self.sweep.complete(number, facts))
        elif state == "no space":
            self.error = _stopped(facts["reason"])
            raise self.error  # the study keeps the trial as running
        else:
            reason = facts.get("reason") or redact(self.causes.pop(trial_id, "it ended without a result"))
            self._guard(lambda: self.sweep.fail(number, reason, facts))
            facts = facts | {"reason": reason}
            state = "failed"
        self.listen(number, facts | {"state": state})

    def run_dirs(self, sweep_dir: Path) -> list[Path]:
        """Return the run folders of the trials that are being trained."""
        return [trial_dir(sweep_dir, number) for number in self.numbers.values()]

    def interrupt(self) -> None:
        """Tell the listener which trials were stopped for lack of time; the study keeps them as running."""
        for number in self.numbers.values():
            self.listen(number, {"state": "waiting"})

    def _guard(self, action: Callable[[], Any]) -> Any:
        try:
            return action()
        except BaseException as error:
            self.error = error
            raise


class _Search(Searcher):
    """Tune's question for the next trial, put to the study."""

    def __init__(self, bridge: _Bridge) -> None:
        super().__init__()
        self._bridge = bridge

    def suggest(self, trial_id: str) -> Any:  # a dict, or a word
        """Return the settings of a trial, or Tune's word that no more will come."""
        return self._bridge.ask(trial_id) or Searcher.FINISHED

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Do nothing: the scheduler has told the study already."""

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Tell the study how a trial ended."""
        self._bridge.end(trial_id, result, error)

    def save(self, checkpoint_path: str) -> None:
        """Save nothing: the study is the state."""

    def restore(self, checkpoint_path: str) -> None:
        """Restore nothing."""


class _Pruner(FIFOScheduler):
    """Tune's question whether a trial goes on, put to the study."""

    def __init__(self, bridge: _Bridge) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # Ray leaves it so
        self._bridge = bridge

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Return whether a trial goes on."""
        stop = self._bridge.report(trial.trial_id, result)
        return TrialScheduler.STOP if stop else TrialScheduler.CONTINUE

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        """Keep why a trial failed, for the study."""
        what = last_failure(Path(trial.error_file).read_text()) if trial.error_file else "unknown"
        self._bridge.causes[trial.trial_id] = (
            f"failed {trial.run_metadata.num_failures} times, resources.max_failures is {trial.max_failures}; "
            f"last: {what}"
        )

    def save(self, checkpoint_path: str) -> None:
        """Save nothing."""


def run_trials(
    sweep: Sweep,
    plan: TrialPlan,
    data: PreparedFolder,
    sweep_dir: Path,
    *,
    max_failures: int,
    listen: Listener,
    ends_at: float | None = None,
) -> None:
    """Run all trials that `sweep` still asks for on the connected Ray cluster.

    Args:
        sweep: asks for trials and takes their results.
        plan: what a trial takes.
        data: prepared folder.
        sweep_dir: trial N runs in `sweep_dir/trials/N`.
        max_failures: lost processes after which a trial counts as failed.
        listen: told of every result.
        ends_at: `time.monotonic()` at which the trials under way are stopped, to be continued by another attempt.

    Raises:
        SS4RecError: if the study cannot be written or Tune itself breaks.
    """

    def settings(asked: Asked) -> dict[str, Any]:
        run_dir = trial_dir(sweep_dir, asked.number)
        run_dir.mkdir(parents=True, exist_ok=True)
        return {
            "number": asked.number,
            "config": asked.config.model_dump(mode="json"),
            "data_dir": str(data),
            "run_dir": str(run_dir),
            "gpu": plan.use_gpu,
        }

    bridge = _Bridge(sweep, settings, listen)
    trainable = OneWorkerTrial if plan.workers == 1 else many_workers_trial
    scratch = sweep_dir / ".ray"
    _quiet_tune()
    tuner = tune.Tuner(
        tune.with_resources(trainable, tune.PlacementGroupFactory([dict(plan.resources)])),
        tune_config=tune.TuneConfig(
            search_alg=_Search(bridge),
            scheduler=_Pruner(bridge),
            num_samples=sweep.left,
            max_concurrent_trials=plan.concurrent,
            trial_dirname_creator=lambda trial: trial.trial_id,
            reuse_actors=plan.workers == 1,
            time_budget_s=None if ends_at is None else max(0.0, ends_at - time.monotonic()),
        ),
        run_config=tune.RunConfig(
            name=f"attempt-{time.time_ns()}",
            storage_path=str(scratch),
            failure_config=tune.FailureConfig(max_failures=max_failures),
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            verbose=0,
        ),
    )
    try:
        with finish_first(lambda: stop_in_order(bridge.run_dirs(sweep_dir))):
            tuner.fit()
    except Exception as error:
        if bridge.error is None:
            raise
        raise study_error(bridge.error, sweep_dir) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    if bridge.error is not None:
        raise study_error(bridge.error, sweep_dir) from bridge.error
    bridge.interrupt()


def _quiet_tune() -> None:
    """Leave the console to the live table, and the disk to the runs: nothing that Tune writes is used again."""
    os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"  # each trial has metrics.jsonl already
    os.environ["TUNE_GLOBAL_CHECKPOINT_S"] = "3600"
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"  # `ss4rec.interrupt` answers
    os.environ["RAY_AIR_NEW_OUTPUT"] = "0"  # the new output ignores verbose=0
    for name in ("ray.tune", "ray.tune.execution.tune_controller", "ray.tune.analysis.experiment_analysis"):
        logging.getLogger(name).setLevel(
            logging.CRITICAL
        )  # failures are told by the table, with their reason


def last_failure(told: str) -> str:
    """Return what a trial failed of last, from the file in which Tune notes each failure with its traceback."""
    block = told.rsplit("Failure # ", 1)[-1].strip().splitlines()[1:]
    if not block or block[0].startswith("The actor died"):
        return "its process was lost"
    return block[-1].strip()


def trial_dir(sweep_dir: Path, number: int) -> Path:
    """Return the run folder of a trial."""
    return sweep_dir / "trials" / f"{number:04d}"


def study_error(error: BaseException, sweep_dir: Path) -> SS4RecError:
    """Turn what broke the study into one sentence."""
    if isinstance(error, SS4RecError):
        return error
    cause = str(error.__cause__ or error).splitlines()[0]
    return _stopped(f"the study in {sweep_dir} cannot be written: {cause}")


def _stopped(why: str) -> SS4RecError:
    return SS4RecError(
        f"{why}. Mend that (is the disk full?) and give the same command again: no trial is lost"
    )


def require_dashboard() -> None:
    """Refuse a cluster without a dashboard: Ray Train frees the resources of a pruned trial through its State API.

    Raises:
        ResourceError: with what to do.
    """
    url = dashboard_url()
    reason = _answer(url) if url else "this cluster was started without one"
    if reason:
        raise ResourceError(
            "sweeps need Ray's dashboard: without its State API pruned trials of several workers would keep their "
            f"GPUs ({reason}). Start Ray with `ray start --head --include-dashboard=true`, or pass --address local to "
            "start one here"
        )


def placement_groups_held() -> int:
    """Return how many placement groups of the cluster hold resources or wait for them."""
    table = ray.util.placement_group_table()
    return sum(group["state"] != "REMOVED" for group in table.values())


def _answer(url: str) -> str:
    """Return why the dashboard at `url` (host:port) does not answer; empty if it does, which may take some seconds."""
    deadline = time.monotonic() + _DASHBOARD_START_S
    while True:
        try:
            with closing(HTTPConnection(url, timeout=5)) as connection:
                connection.request("GET", "/api/version")
                connection.getresponse()  # whatever it says (it may want a token), it is there
            return ""
        except (OSError, HTTPException) as error:
            if time.monotonic() > deadline:
                return f"{url} does not answer: {error}"
            time.sleep(0.5)


def _facts(result: Mapping[str, Any]) -> dict[str, Any]:
    """Return what training reported, without what Tune adds."""
    names = (
        *("state", "reason", "epoch", "score", "ended", "best_score", "best_epoch", "num_parameters"),
        *("train_loss", "events_per_s", "elapsed_s", "setup_s"),
    )
    return {name: result[name] for name in names if name in result}
