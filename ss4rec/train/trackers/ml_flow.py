"""MLflow: a run with parameters, metrics, tags and the model's files, registered under a name if one is given."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ss4rec.config import TrackingConfig
from ss4rec.errors import UsageError
from ss4rec.train.trackers.base import ExperimentTracker, RunEnd, RunStart, flat

_NAME = "mlflow"
_BATCH = 100
"""Parameters that a server takes in one call."""


class MLflow(ExperimentTracker):
    """A run on an MLflow server or in a local store.

    Raises:
        UsageError: if MLflow is not installed.
    """

    title = "MLflow"

    def __init__(self, start: RunStart, tracking: TrackingConfig) -> None:
        try:
            from mlflow import MlflowClient
            from mlflow.entities import Metric, RunTag
        except ImportError:
            raise UsageError(
                f"tracking.mlflow is {tracking.mlflow!r} and MLflow is not installed: pip install 'ss4rec[mlflow]'"
            ) from None
        logging.getLogger("mlflow").setLevel(logging.WARNING)
        self._metric, self._model_name = Metric, tracking.mlflow_model
        self.client = MlflowClient(store_uri(tracking.mlflow))
        self.run_id = start.known_id(_NAME) or self._create(start)
        self.client.update_run(self.run_id, status="RUNNING")
        tags = [RunTag(f"tag.{tag}", "true") for tag in start.tags]
        self.client.log_batch(
            self.run_id, tags=[*tags, *([RunTag("sweep", start.group)] if start.group else [])]
        )

    def _create(self, start: RunStart) -> str:
        experiment = self.client.get_experiment_by_name(start.project)
        experiment_id = (
            experiment.experiment_id if experiment else self.client.create_experiment(start.project)
        )
        run_id: str = self.client.create_run(experiment_id, run_name=start.name).info.run_id
        start.keep_id(_NAME, run_id)
        self._send_params(run_id, start)
        return run_id

    def _send_params(self, run_id: str, start: RunStart) -> None:
        """Send the configuration that the run begins with; MLflow's parameters cannot change, as epochs here may."""
        from mlflow.entities import Param

        params = [Param(name, str(value)[:500]) for name, value in flat(start.config).items()]
        for begin in range(0, len(params), _BATCH):
            self.client.log_batch(run_id, params=params[begin : begin + _BATCH])

    def log(self, kind: str, global_step: int, figures: Mapping[str, float]) -> None:
        """Send figures as metrics `kind/name`; `@` is not allowed in their names."""
        self._send({f"{kind}/{name}": value for name, value in figures.items()}, global_step)

    def finish(self, end: RunEnd) -> None:
        """Send facts, the model's files, and register it."""
        from mlflow.entities import RunTag

        self._send(end.figures, 0)
        tags = [RunTag(name, str(value)[:5000]) for name, value in flat(end.facts).items()]
        self.client.log_batch(self.run_id, tags=tags)
        if end.model is not None:
            self.client.log_artifacts(self.run_id, str(end.model), artifact_path="model")
            for file in ("config.json", "record.json", "items.parquet"):
                if (path := end.model.parents[1] / file).exists():
                    self.client.log_artifact(self.run_id, str(path), artifact_path="model")
            if self._model_name:
                self._register()
        self.client.set_terminated(self.run_id, "FAILED" if end.failed else "FINISHED")

    def _register(self) -> None:
        from mlflow.exceptions import MlflowException

        try:
            self.client.create_registered_model(self._model_name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        source = f"{self.client.get_run(self.run_id).info.artifact_uri}/model"
        self.client.create_model_version(self._model_name, source, self.run_id)

    def _send(self, figures: Mapping[str, float], step: int) -> None:
        now = int(time.time() * 1000)
        metrics: list[Any] = [
            self._metric(name.replace("@", "_at_"), float(value), now, step)
            for name, value in figures.items()
        ]
        self.client.log_batch(self.run_id, metrics=metrics)


def store_uri(text: str) -> str:
    """Return an MLflow URI: an address as it is; a folder becomes a SQLite store in it, MLflow's own choice today."""
    if "://" in text or text.startswith(("sqlite:", "file:", "databricks")):
        if text.startswith("file:"):  # it still works, and MLflow asks to say that one knows
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        return text
    folder = Path(text).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    return f"sqlite:///{folder / 'mlflow.db'}"
