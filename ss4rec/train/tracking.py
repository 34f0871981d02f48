"""Where metrics go: always `metrics.jsonl`, and Weights & Biases unless it is disabled.

Weights & Biases is a convenience: what goes wrong with it is said once and never ends a training.
"""

from __future__ import annotations

from typing import Any

from ss4rec.config import RunConfig
from ss4rec.errors import UsageError
from ss4rec.runs import RunFolder
from ss4rec.secrets import redact
from ss4rec.train.status import say

ANSWER_S = 20.0
"""Seconds that the server of Weights & Biases has for its first answer."""


class Tracker:
    """Writes metrics of the leading worker; lines carry `global_step`, so a resumed run can rewind them."""

    def __init__(self, folder: RunFolder, config: RunConfig) -> None:
        self._folder = folder
        self._wandb = _start_wandb(folder, config)

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
    try:
        return _init(wandb, folder, config, config.tracking.wandb)
    except wandb.errors.UsageError as error:  # no key, or one that no server could take
        if config.tracking.wandb == "offline":
            raise
        raise UsageError(
            f"tracking.wandb=online: {redact(str(error))}; run `wandb login` or set WANDB_API_KEY on the cluster, or "
            "pass --set tracking.wandb=offline"
        ) from None
    except wandb.errors.Error as error:
        if config.tracking.wandb == "offline":
            raise
        say(
            f"warning: Weights & Biases does not answer ({redact(str(error))}); its run is kept in "
            f"{folder.path}/wandb, `wandb sync` sends it later"
        )
        wandb.teardown()  # its service still holds the run's name for the attempt that failed
        return _init(wandb, folder, config, "offline")


def _init(wandb: Any, folder: RunFolder, config: RunConfig, mode: str) -> Any:
    return wandb.init(
        project=config.tracking.project,
        name=folder.path.name,
        id=folder.path.name,
        resume="allow",
        mode=mode,
        dir=str(folder.path),
        config=config.model_dump(mode="json"),
        settings=wandb.Settings(silent=True, console="off", x_disable_stats=True, init_timeout=ANSWER_S),
    )
