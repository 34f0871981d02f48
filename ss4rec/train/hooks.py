"""What a training loop calls back while it runs; whoever hosts the loop fills in what it wants to know."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Figures = dict[str, Any]
"""Plain numbers and words by name."""


@dataclass(frozen=True)
class Hooks:
    """Functions that `TrainLoop` calls; none of them is needed."""

    report: Callable[[Figures], None] | None = None
    """Called by all workers after an epoch with its metrics, at most every `train.report_every_s`."""
    watch: Callable[[Figures], None] = lambda figures: None
    """Called by each worker with its figures at each status line, and with the epoch's metrics at its end."""
    first_step: Callable[[], None] = lambda: None
    """Called by the main worker when the first step after a start or restart is done."""
    notice: Callable[[], str] = lambda: ""
    """Returns why this machine is about to go, or an empty string; a checkpoint is then written at once."""
    may_write: Callable[[], None] = lambda: None
    """Called before a checkpoint appears; raises `LeaseError` if another process writes this run now."""
    saved: Callable[[], None] = lambda: None
    """Called by the main worker when a checkpoint of this very step is whole (after a notice, at the end; others are
    written beside the steps that follow); may raise to end the training there."""
