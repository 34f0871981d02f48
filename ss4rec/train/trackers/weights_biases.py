"""Weights & Biases. Offline runs lie in the run folder, one folder a run; `wandb sync` sends them later."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from ss4rec.cluster.secrets import redact
from ss4rec.config import TrackingConfig
from ss4rec.errors import UsageError
from ss4rec.train.status import say
from ss4rec.train.trackers.base import ExperimentTracker, RunEnd, RunStart

ANSWER_S = 20.0
"""Seconds that the server has for its first answer."""
_NAME = "wandb"


class WeightsBiases(ExperimentTracker):
    """A run of Weights & Biases.

    Raises:
        UsageError: if it is not installed, or has no key.
    """

    title = "Weights & Biases"

    def __init__(self, start: RunStart, tracking: TrackingConfig) -> None:
        run_id = start.known_id(_NAME)
        if run_id is None:
            run_id = uuid.uuid4().hex[:16]
            start.keep_id(_NAME, run_id)
        self._replace(start.folder, run_id)
        self.run = start_wandb(start.folder, tracking, dict(start.config), run_id, start.name, start.tags)
        self.done_step = -1 if self.run.offline else int(self.run.step) - 1
        """Last step that the server has; lines up to it are not sent again."""
        # The summary shows the best of these, not the last.
        for figure, best in (("epoch/valid_*", "max"), ("epoch/train_loss", "min"), ("status/loss", "min")):
            self.run.define_metric(figure, summary=best)

    @staticmethod
    def _replace(folder: Path, run_id: str) -> None:
        """Remove what an earlier attempt left offline and was not sent: all its lines are logged again."""
        for old in (folder / "wandb").glob(f"offline-run-*-{run_id}"):
            if not list(old.glob("*.synced")):
                shutil.rmtree(old, ignore_errors=True)

    def log(self, kind: str, global_step: int, figures: Mapping[str, float]) -> None:
        """Send figures under `kind/`."""
        if global_step > self.done_step:
            self.run.log({f"{kind}/{name}": value for name, value in figures.items()}, step=global_step)

    def finish(self, end: RunEnd) -> None:
        """Send facts and the model, and close."""
        self.run.config.update({"run": dict(end.facts)}, allow_val_change=True)
        self.run.summary.update(dict(end.figures))
        if end.model is not None:
            import wandb

            artifact = wandb.Artifact(f"model-{self.run.id}", type="model", metadata=dict(end.figures))
            for file in ("config.json", "record.json", "items.parquet"):
                if (path := end.model.parents[1] / file).exists():
                    artifact.add_file(str(path))
            artifact.add_file(str(end.model / "model.safetensors"))
            self.run.log_artifact(artifact, aliases=["best"])
        self.run.finish(exit_code=int(end.failed))


def start_wandb(
    folder: Path,
    tracking: TrackingConfig,
    config: dict[str, Any],
    run_id: str | None,
    name: str | None = None,
    tags: tuple[str, ...] = (),
) -> Any:
    """Start a Weights & Biases run with its files in `folder`; None if disabled.

    Args:
        folder: where its offline files go.
        tracking: mode and project.
        config: what the run shows as its configuration.
        run_id: continues the run of this id; None starts one of its own each time.
        name: of the run; default: that of `folder`.
        tags: of the run.

    Raises:
        UsageError: if it is wanted and not installed.
    """
    if tracking.wandb == "disabled":
        return None
    try:
        import wandb
    except ImportError:
        raise UsageError(
            f"wandb is {tracking.wandb!r} and not installed; install it, or set it to disabled "
            "(--set tracking.wandb=disabled in training, --set wandb=disabled for drift)"
        ) from None

    def start(mode: Literal["offline", "online"]) -> Any:
        return wandb.init(
            project=tracking.project,
            name=name or folder.name,
            group=tracking.group or None,
            tags=tags or None,
            id=run_id,
            resume="allow" if run_id else None,
            mode=mode,
            dir=str(folder),
            config=config,
            settings=wandb.Settings(silent=True, console="off", x_disable_stats=True, init_timeout=ANSWER_S),
        )

    try:
        return start(tracking.wandb)
    except wandb.errors.UsageError as error:  # no key, or one that no server could take
        if tracking.wandb == "offline":
            raise
        raise UsageError(
            f"tracking.wandb=online: {redact(str(error))}; run `wandb login` or set WANDB_API_KEY on the cluster, or "
            "pass --set tracking.wandb=offline"
        ) from None
    except wandb.errors.Error as error:
        if tracking.wandb == "offline":
            raise
        say(
            f"warning: Weights & Biases does not answer ({redact(str(error))}); its run is kept in "
            f"{folder}/wandb, `wandb sync` sends it later"
        )
        wandb.teardown()  # its service still holds the run's name for the attempt that failed
        return start("offline")
