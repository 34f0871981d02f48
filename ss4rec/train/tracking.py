"""Where metrics go: always `metrics.jsonl`, and Weights & Biases unless it is disabled."""

from __future__ import annotations

from typing import Any

from ss4rec.config import RunConfig
from ss4rec.errors import UsageError
from ss4rec.runs import RunFolder


class Tracker:
    """Writes metrics of the leading worker; lines carry `global_step`, so a resumed run can rewind them."""

    def __init__(self, folder: RunFolder, config: RunConfig) -> None:
        self._folder = folder
        self._wandb = _start_wandb(folder, config)

    def log(self, kind: str, global_step: int, **figures: Any) -> None:
        """Append one line of `kind` (`status`, `epoch`)."""
        self._folder.append_metrics({"kind": kind, "global_step": global_step, **figures})
        if self._wandb is not None:
            self._wandb.log({f"{kind}/{name}": value for name, value in figures.items()}, step=global_step)

    def close(self) -> None:
        """Flush and end the Weights & Biases run."""
        if self._wandb is not None:
            self._wandb.finish()


def _start_wandb(folder: RunFolder, config: RunConfig) -> Any:
    if config.tracking.wandb == "disabled":
        return None
    try:
        import wandb
    except ImportError:
        raise UsageError(
            f"tracking.wandb is {config.tracking.wandb!r} and wandb is not installed; install it, or pass "
            "--set tracking.wandb=disabled"
        ) from None
    return wandb.init(
        project=config.tracking.project,
        name=folder.path.name,
        group=config.tracking.group or None,
        id=folder.path.name,
        resume="allow",
        mode=config.tracking.wandb,
        dir=str(folder.path),
        config=config.model_dump(mode="json"),
        settings=wandb.Settings(silent=True, console="off", x_disable_stats=True),
    )
