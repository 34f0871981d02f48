"""Where metrics go: always `metrics.jsonl`, and Weights & Biases unless it is disabled."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ss4rec.config import RunConfig, TrackingConfig
from ss4rec.errors import UsageError
from ss4rec.runs import RunFolder


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
        if self._wandb is not None:
            self._wandb.log({f"{kind}/{name}": value for name, value in figures.items()}, step=global_step)

    def close(self) -> None:
        """Flush and end the Weights & Biases run."""
        if self._wandb is not None:
            self._wandb.finish()


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
    return wandb.init(
        project=tracking.project,
        name=folder.name,
        group=tracking.group or None,
        id=run_id,
        resume="allow" if run_id else None,
        mode=tracking.wandb,
        dir=str(folder),
        config=config,
        settings=wandb.Settings(silent=True, console="off", x_disable_stats=True),
    )
