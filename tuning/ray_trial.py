"""One trial's training, in the Tune process itself (one worker) or in workers of its own (several).

Both hosts speak one language to the sweep: a result an epoch, whose `state` is `running`, `ended`, `failed` or `no
space`, which is no fault of the trial and ends the sweep. A failure that a restart would repeat is such a result;
anything else is raised, and Ray Tune starts the trial again, which continues from its run's last checkpoint.
"""

from __future__ import annotations

import errno
import gc
import os
import time
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import ray
import torch
from ray import tune
from ray.train import UserCallback
from ray.tune.integration.ray_train import TuneReportCallback

from ss4rec.cluster.placement import preflight
from ss4rec.config import RunConfig, parse_config
from ss4rec.data.prepared.folder import PreparedFolder
from ss4rec.errors import BUGS, SS4RecError
from ss4rec.runs.folder import RunFolder
from ss4rec.train.hooks import Hooks
from ss4rec.train.loop import SCORE
from ss4rec.train.notice import NoticeFile, forget
from ss4rec.train.outcome import Outcome
from ss4rec.train.tracking import tracked
from ss4rec.train.worker import loop_alone

LOG_FILE = "log.txt"


class OneWorkerTrial(tune.Trainable):
    """Trains in the Tune process; one step is one epoch. The process serves one trial after another.

    The settings are `{"number", "config", "data_dir", "run_dir", "gpu"}`.
    """

    def setup(self, config: dict[str, Any]) -> None:
        """Take the settings of the first trial."""
        self._settings = config
        self._epochs: Generator[dict[str, Any], None, None] | None = None

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """End the trial before this one and take the settings of the next."""
        self.cleanup()
        self.setup(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """Train one epoch and validate."""
        try:
            with _log_to(Path(self._settings["run_dir"])):
                if self._epochs is None:
                    self._epochs = _epochs(self._settings)
                return next(self._epochs)
        except Exception as error:
            return _final(error)

    def cleanup(self) -> None:
        """Stop training where it is; the run folder and its checkpoints stay."""
        if self._epochs is not None:
            with _log_to(Path(self._settings["run_dir"])):
                self._epochs.close()
        self._epochs = None
        if torch.cuda.is_available():  # other trials share the card
            gc.collect()  # graphs hold memory and one another
            torch.cuda.empty_cache()


def many_workers_trial(settings: dict[str, Any]) -> None:
    """Train in a TorchTrainer of its own, whose reports become results of the trial."""
    # Ray Train's cleaner of placement groups looks for the State API by itself; with another Ray on the machine it
    # would ask the wrong one. Its process inherits this environment.
    here = {"env_vars": {"RAY_ADDRESS": ray.get_runtime_context().gcs_address}}
    train = ray.remote(num_cpus=0, max_retries=0, runtime_env=here)(_train_workers)
    reports = _Reports()  # type: ignore[no-untyped-call]  # Ray leaves it so
    tune.report(ray.get(train.remote(settings, reports)))


def _train_workers(settings: dict[str, Any], reports: UserCallback) -> dict[str, Any]:
    """Train on several workers and return the trial's last result."""
    from ss4rec.train.ray_train import fit

    config, data_dir, run_dir = _unpack(settings)
    try:
        data = PreparedFolder.open(data_dir)
        RunFolder(run_dir).start(config, data)
        placement = preflight(config.resources, ray_data=config.data.source == "ray")
        with tracked(RunFolder(run_dir), config):
            outcome = Outcome(**fit(config, data, run_dir, placement, callbacks=[reports]))
        return _finished(outcome, run_dir)
    except Exception as error:
        return _final(error)


class _Reports(TuneReportCallback):
    """Hands each report of the workers to Tune; the last one comes with the trial's end."""

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any) -> None:
        """Hand on the first worker's report, unless it is the last one."""
        if not metrics[0]["ended"]:
            super().after_report(run_context, [_running(metrics[0])], checkpoint)


def final_reason(error: Exception) -> str | None:
    """Return why a restart would only repeat `error`; None if it may help."""
    if isinstance(error, torch.cuda.OutOfMemoryError | MemoryError) or "not enough memory" in str(error):
        return f"out of memory: {str(error).splitlines()[0] if str(error) else type(error).__name__}"
    if isinstance(error, (SS4RecError, *BUGS)):
        return f"{type(error).__name__}: {error}"
    return None


def epoch_scores(folder: RunFolder) -> dict[int, float]:
    """Return the validation NDCG@10 of each epoch that a run has trained."""
    return {
        row["epoch"]: row[f"valid_{SCORE}"]
        for row in folder.metrics()
        if row["kind"] == "epoch" and f"valid_{SCORE}" in row
    }


def _epochs(settings: dict[str, Any]) -> Generator[dict[str, Any], None, None]:
    """Train; give a result an epoch, the last one marked as such."""
    began = time.monotonic()
    config, data_dir, run_dir = _unpack(settings)
    if not settings["gpu"]:
        torch.set_num_threads(config.resources.threads_per_worker)
    forget(run_dir)
    device, hooks = torch.device("cuda" if settings["gpu"] else "cpu"), Hooks(notice=NoticeFile(run_dir))
    with loop_alone(config, data_dir, run_dir, device, hooks) as loop:
        setup_s = time.monotonic() - began
        with closing(loop.epochs()) as epochs:
            for metrics in epochs:
                if not loop.ended:
                    yield _running(metrics) | {"setup_s": setup_s}
    yield _finished(loop.outcome(), run_dir) | {"setup_s": setup_s}


def _running(metrics: dict[str, Any]) -> dict[str, Any]:
    """Return an epoch's metrics as a result of a trial that goes on."""
    return {**metrics, "state": "running", "score": metrics.get(f"valid_{SCORE}")}


def _finished(outcome: Outcome, run_dir: Path) -> dict[str, Any]:
    """Return the last result of a trial: that of its last epoch, which may lie in an attempt before this one."""
    rows = [row for row in RunFolder(run_dir).metrics() if row["kind"] == "epoch"]
    facts = {
        "best_score": outcome.best_score,
        "best_epoch": outcome.best_epoch,
        "num_parameters": RunFolder(run_dir).record().num_parameters,
    }
    return _running(rows[-1]) | facts | {"ended": outcome.ended, "state": "ended", "done": True}


def _final(error: Exception) -> dict[str, Any]:
    """Return the last result of a trial that ended with `error`; raises it if a restart may help."""
    if any(os.strerror(number) in str(error) for number in (errno.ENOSPC, errno.EDQUOT)):
        return {"state": "no space", "reason": str(error), "done": True}
    reason = final_reason(error)
    if reason is None:
        raise error
    return {"state": "failed", "reason": reason, "done": True}


def _unpack(settings: dict[str, Any]) -> tuple[RunConfig, Path, Path]:
    return parse_config(settings["config"]), Path(settings["data_dir"]), Path(settings["run_dir"])


@contextmanager
def _log_to(run_dir: Path) -> Iterator[None]:
    """Send what training says to the trial's own log: many trials talk at once."""
    run_dir.mkdir(parents=True, exist_ok=True)
    with (run_dir / LOG_FILE).open("a") as log, redirect_stdout(log):
        yield
