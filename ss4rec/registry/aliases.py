"""The alias `champion` in the registries of MLflow and Weights & Biases, where the run is known there.

The folder is what decides. A server that is away, or that does not know the run, is a line and never an error.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ss4rec.cluster.secrets import redact
from ss4rec.config import RunConfig
from ss4rec.runs.folder import RunFolder
from ss4rec.train.trackers.base import RunStart

ALIAS = "champion"


def tell_trackers(run: Path) -> list[str]:
    """Give the run's model the alias `champion` wherever a tracker has it; returns a line for each tracker.

    Args:
        run: run folder of the version that serves now.
    """
    config = RunFolder.open(run).config()
    start = RunStart(run, {}, config.tracking.group, config.tracking.project)
    lines = []
    for title, wanted, tell in (
        ("MLflow", bool(config.tracking.mlflow and config.tracking.mlflow_model), _tell_mlflow),
        ("Weights & Biases", config.tracking.wandb == "online", _tell_wandb),
    ):
        if wanted:
            lines.append(f"{title}: {_tried(tell, config, start)}")
    return lines


def _tried(tell: Callable[[RunConfig, RunStart], str], config: RunConfig, start: RunStart) -> str:
    try:
        return tell(config, start)
    except Exception as error:  # their own kinds change between versions, and none may undo a promotion
        first = next(iter(str(error).splitlines()), type(error).__name__)
        return f"warning: the alias {ALIAS} was not set ({redact(first)})"


def _tell_mlflow(config: RunConfig, start: RunStart) -> str:
    from mlflow import MlflowClient

    from ss4rec.train.trackers.ml_flow import store_uri

    client, name = MlflowClient(store_uri(config.tracking.mlflow)), config.tracking.mlflow_model
    run_id = start.known_id("mlflow")
    mine = [one for one in client.search_model_versions(f"name='{name}'") if one.run_id == run_id]
    if run_id is None or not mine:
        return f"model {name} has no version of this run; the alias {ALIAS} stays where it is"
    newest = max(mine, key=lambda one: int(one.version))
    client.set_registered_model_alias(name, ALIAS, newest.version)
    return f"model {name}, version {newest.version} has the alias {ALIAS}"


def _tell_wandb(config: RunConfig, start: RunStart) -> str:
    import wandb

    run_id = start.known_id("wandb")
    if run_id is None:
        return f"this run is not known there; the alias {ALIAS} stays where it is"
    artifact = wandb.Api().artifact(f"{config.tracking.project}/model-{run_id}:best")
    artifact.aliases.append(ALIAS)
    artifact.save()
    return f"artifact model-{run_id} has the alias {ALIAS}"
