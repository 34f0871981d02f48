"""Where metrics go: always `metrics.jsonl`, written by the main worker, and from there to the trackers that are wanted.

The process that started the training follows the file and tells the trackers. So they see after a restart what the file
shows, test metrics come into the same run, and no server that is slow or away holds up a step.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from ss4rec.cluster.secrets import redact
from ss4rec.config import RunConfig
from ss4rec.errors import SS4RecError
from ss4rec.io.untrusted import parse_json
from ss4rec.runs import checkpoint
from ss4rec.runs.folder import METRICS_FILE, RECORD_FILE, RunFolder
from ss4rec.train.status import say
from ss4rec.train.trackers.base import ExperimentTracker, RunEnd, RunStart

LOOK_EVERY_S = 2.0
SCORE = "valid_ndcg@10"


class Tracker:
    """Writes the metrics of the main worker; lines carry `global_step`, so a resumed run can rewind them."""

    def __init__(self, folder: RunFolder, config: RunConfig) -> None:
        self._folder = folder

    def log(self, kind: str, global_step: int, **figures: Any) -> None:
        """Append one line of `kind` (`status`, `epoch`)."""
        self._folder.append_metrics({"kind": kind, "global_step": global_step, **figures})

    def close(self) -> None:
        """Nothing is kept open."""


Finish = Callable[[Mapping[str, Any]], None]
"""Takes the test metrics of a run, `EvalResult` as plain values by scorer."""


@contextmanager
def tracked(folder: RunFolder, config: RunConfig) -> Iterator[Finish]:
    """Tell the trackers that `config.tracking` names of everything that is logged in `folder` during the block.

    Yields a function that takes the test results; without a call the run has none.

    Raises:
        UsageError: before the block, if a tracker is wanted and cannot be used at all (not installed, no key).
    """
    trackers = start_all(folder.path, config)
    test: dict[str, Any] = {}
    if not trackers:
        yield test.update
        return
    follower = _Follower(folder, trackers)
    follower.start()
    failed = False
    try:
        yield test.update
    except Exception:
        failed = True
        raise
    finally:
        follower.stop()
        follower.finish(_end(folder, config, test, failed))


def start_all(folder: Path, config: RunConfig) -> list[ExperimentTracker]:
    """Start the trackers that a configuration names.

    Raises:
        UsageError: if one is not installed or has no key.
    """
    tracking = config.tracking
    start = RunStart(folder, config.model_dump(mode="json"), tracking.group, tracking.project, tracking.tags)
    wanted: list[tuple[str, Callable[[], ExperimentTracker]]] = []
    # Imported when wanted: each costs seconds.
    if tracking.wandb != "disabled":
        from ss4rec.train.trackers.weights_biases import WeightsBiases

        wanted.append((WeightsBiases.title, lambda: WeightsBiases(start, tracking)))
    if tracking.mlflow:
        from ss4rec.train.trackers.ml_flow import MLflow

        wanted.append((MLflow.title, lambda: MLflow(start, tracking)))
    if tracking.tensorboard:
        from ss4rec.train.trackers.tensor_board import TensorBoard

        wanted.append((TensorBoard.title, lambda: TensorBoard(start)))
    started = []
    for title, make in wanted:
        try:
            started.append(make())
        except SS4RecError:
            raise
        except Exception as error:  # their own kinds change between versions, and none may stop a training
            say(f"warning: {title} could not be started and is left out: {redact(_first_line(error))}")
    return started


class _Follower:
    """Reads new lines of `metrics.jsonl` and tells the trackers, in a thread of its own."""

    def __init__(self, folder: RunFolder, trackers: list[ExperimentTracker]) -> None:
        self.folder, self.trackers = folder, list(trackers)
        self._last_steps: dict[str, int] = {}
        self._file, self._offset = 0, 0
        """Inode of the file that was read last, and how far: it is replaced when a run rewinds it."""
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="trackers", daemon=True)

    def start(self) -> None:
        """Begin to follow."""
        self._thread.start()

    def stop(self) -> None:
        """Tell what is left and end."""
        self._ended.set()
        self._thread.join()
        self._look()

    def finish(self, end: RunEnd) -> None:
        """Tell the trackers of the end."""
        for tracker in list(self.trackers):
            self._try(tracker, partial(tracker.finish, end))

    def _follow(self) -> None:
        while not self._ended.wait(LOOK_EVERY_S):
            self._look()

    def _look(self) -> None:
        for row in self._new_rows():
            kind, step = str(row["kind"]), int(row["global_step"])
            # After a restart from a checkpoint the file repeats steps, which a tracker's axis cannot.
            if step <= self._last_steps.get(kind, -1):
                continue
            self._last_steps[kind] = step
            figures = _numbers_of(row)
            for tracker in list(self.trackers):
                self._try(tracker, partial(tracker.log, kind, step, figures))

    def _new_rows(self) -> Iterator[dict[str, Any]]:
        """Yield the whole lines that were written since the last look."""
        path = self.folder.path / METRICS_FILE
        try:
            with path.open("rb") as file:
                inode = os.fstat(file.fileno()).st_ino
                if inode != self._file:
                    self._file, self._offset = inode, 0
                file.seek(self._offset)
                text = file.read()
        except OSError:  # not there yet, or storage that is away for a moment
            return
        whole = text[: text.rfind(b"\n") + 1]
        self._offset += len(whole)
        for line in whole.splitlines():
            row = parse_json(line)
            if isinstance(row, dict) and isinstance(row.get("global_step"), int):
                yield row

    def _try(self, tracker: ExperimentTracker, tell: Callable[[], None]) -> None:
        try:
            tell()
        except Exception as error:  # their own kinds change between versions, and none may end a training
            say(f"warning: {tracker.title} failed and is left out from here on: {redact(_first_line(error))}")
            self.trackers.remove(tracker)


def _numbers_of(row: Mapping[str, Any]) -> dict[str, float]:
    """Return the figures of a line."""
    return {
        name: float(value)
        for name, value in row.items()
        if name not in ("kind", "global_step")
        and isinstance(value, int | float)
        and not isinstance(value, bool)
    }


def _end(folder: RunFolder, config: RunConfig, test: Mapping[str, Any], failed: bool) -> RunEnd:
    """Collect what the run folder knows at the end."""
    facts: dict[str, Any] = {}
    if (folder.path / RECORD_FILE).exists():
        record = folder.record()
        facts = {
            "data": record.data_name,
            "data_sha256": record.data_sha256,
            "users": record.num_users,
            "items": record.num_items,
            "interactions": record.num_interactions,
            "parameters": record.num_parameters,
            "fingerprint": record.fingerprint,
            "device": record.device,
            "workers": record.workers,
            "commit": record.commit or "",
            "versions": dict(record.versions),
        }
    figures: dict[str, float] = {}
    epochs = [row for row in folder.metrics() if row["kind"] == "epoch" and row.get(SCORE) is not None]
    if epochs:
        best = max(epochs, key=lambda row: (row[SCORE], -row["epoch"]))
        figures = {"best/epoch": best["epoch"], f"best/{SCORE}": best[SCORE]}
    for scorer, result in test.items():
        kept = next((each for each in result["settings"] if each["seen"] == "kept"), result["settings"][0])
        prefix = "test/" if scorer == "model" else f"test_{scorer}/"
        figures |= {prefix + name: value for name, value in kept["metrics"].items()}
    return RunEnd(facts, figures, None if failed else _model(folder, config), failed)


def _model(folder: RunFolder, config: RunConfig) -> Path | None:
    """Return the best checkpoint's folder if the trackers shall have it."""
    tracking = config.tracking
    online = tracking.wandb == "online" or bool(tracking.mlflow)
    if tracking.model == "no" or (tracking.model == "auto" and (tracking.group or not online)):
        return None
    return checkpoint.best(folder.checkpoints).path if list(folder.checkpoints.glob("step-*")) else None


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
