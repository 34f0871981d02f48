"""Where metrics go: always `metrics.jsonl`, and Weights & Biases unless it is disabled.

Weights & Biases is a convenience: what goes wrong with it is said once and never ends a training.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ss4rec.cluster.secrets import redact
from ss4rec.config import RunConfig, TrackingConfig
from ss4rec.errors import UsageError
from ss4rec.runs.folder import RunFolder
from ss4rec.train.status import say

ANSWER_S = 20.0
"""Seconds that the server of Weights & Biases has for its first answer."""


class Tracker:
    """Writes metrics of the leading worker; lines carry `global_step`, so a resumed run can rewind them."""

    def __init__(self, folder: RunFolder, config: RunConfig) -> None:
        self._folder = folder
        self._wandb = start_wandb(
            folder.path, config.tracking, config.model_dump(mode="json"), folder.path.name
        )

    def log(self, kind: str, global_step: int, **figures: Any) -> None:
        """Append one line of `kind` (`status`, `epoch`)."""
        self._folder.append_metrics({"kind": kind, "global_step": global_step, **figures})
        if self._wandb is None:
            return
        try:
            self._wandb.log({f"{kind}/{name}": value for name, value in figures.items()}, step=global_step)
        except Exception as error:  # its own kinds change between versions, and none may end a training
            say(f"warning: Weights & Biases failed and is left out from here on: {redact(str(error))}")
            self._wandb = None

    def close(self) -> None:
        """Flush and end the Weights & Biases run."""
        if self._wandb is None:
            return
        try:
            self._wandb.finish()
        except Exception as error:
            say(f"warning: Weights & Biases could not end its run: {redact(str(error))}")


def start_wandb(folder: Path, tracking: TrackingConfig, config: dict[str, Any], run_id: str | None) -> Any:
    """Start a Weights & Biases run named after `folder`, with its files there; None if disabled.

    Args:
        folder: where its offline files go.
        tracking: mode and project.
        config: what the run shows as its configuration.
        run_id: continues the run of this id; None starts one of its own each time.

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
    try:
        return _init(wandb, folder, tracking, config, run_id, tracking.wandb)
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
        return _init(wandb, folder, tracking, config, run_id, "offline")


def _init(
    wandb: Any, folder: Path, tracking: TrackingConfig, config: dict[str, Any], run_id: str | None, mode: str
) -> Any:
    return wandb.init(
        project=tracking.project,
        name=folder.name,
        group=tracking.group or None,
        id=run_id,
        resume="allow" if run_id else None,
        mode=mode,
        dir=str(folder),
        config=config,
        settings=wandb.Settings(silent=True, console="off", x_disable_stats=True, init_timeout=ANSWER_S),
    )
