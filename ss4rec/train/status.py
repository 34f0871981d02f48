"""What a training says: the status line, with all that one wants to know, and every other line.

`SS4REC_LOG=json` makes each line a JSON object for log collectors, with time, run, worker and step; in text only the
leading worker speaks.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import torch

LOG_VARIABLE = "SS4REC_LOG"
_context: dict[str, Any] = {}


def log_is_json() -> bool:
    """Whether lines are JSON objects (`SS4REC_LOG=json`)."""
    return os.environ.get(LOG_VARIABLE) == "json"


def log_as(**context: Any) -> None:
    """Put fields (run, worker) into every JSON line of this process from here on."""
    _context.update(context)


def say(line: str, **fields: Any) -> None:
    """Write a line to stdout at once; `fields` and those of `log_as` are only in its JSON form.

    Not by `print`: Ray Train replaces it by one that writes every line twice.
    """
    if log_is_json():
        level = "warning" if line.startswith(("warning", "failure")) else "info"
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        line = json.dumps({"time": now, "level": level, **_context, **fields, "message": line})
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def duration(seconds: float) -> str:
    """Format seconds as `42s`, `3m05s` or `2h07m`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"


@dataclass
class StatusLine:
    """Counts steps and targets since the last line and prints the next one when it is due.

    Args:
        every_s: least seconds between lines.
        epochs: most epochs, for the time left.
        steps_per_epoch: steps of an epoch.
    """

    every_s: float
    epochs: int
    steps_per_epoch: int
    emit: Callable[[str], None] = say
    clock: Callable[[], float] = time.perf_counter
    _steps: int = 0
    _targets: int = 0
    _since: float = field(init=False)

    def __post_init__(self) -> None:
        self._since = self.clock()

    def count(self, targets: int) -> None:
        """Take note of a step over `targets` targets (of all workers)."""
        self._steps += 1
        self._targets += targets

    @property
    def due(self) -> bool:
        """Whether `every_s` has passed since the last line."""
        return self.clock() - self._since >= self.every_s

    def show(
        self,
        *,
        epoch: int,
        step: int,
        loss: float,
        grad_norm: float,
        lr: float,
        waited_s: float,
        device: torch.device,
    ) -> dict[str, float]:
        """Print the line and return its figures; counting starts anew."""
        now = self.clock()
        elapsed_s = max(now - self._since, 1e-9)
        steps, targets = max(self._steps, 1), self._targets
        step_s = elapsed_s / steps
        left_s = step_s * ((self.epochs - epoch) * self.steps_per_epoch - step)
        figures = {
            "loss": loss,
            "grad_norm": grad_norm,
            "lr": lr,
            "targets_per_s": targets / elapsed_s,
            "step_ms": 1000 * step_s,
            "data_wait_share": min(1.0, waited_s / elapsed_s),
            "memory_gib": _peak_gib(device),
        }
        self.emit(
            f"epoch {epoch + 1}/{self.epochs} step {step}/{self.steps_per_epoch}  loss {loss:.4f}  "
            f"grad {grad_norm:.2f}  lr {lr:.1e}  {_thousands(figures['targets_per_s'])} events/s  "
            f"{figures['step_ms']:.0f} ms/step  data wait {figures['data_wait_share']:.0%}  "
            f"{figures['memory_gib']:.2f} GiB  at most {duration(left_s)} left"
        )
        self._steps, self._targets, self._since = 0, 0, now
        return figures


def epoch_line(metrics: dict[str, Any], epochs: int, is_best: bool) -> str:
    """Format an epoch's metrics as a line.

    Args:
        metrics: as `TrainLoop.epochs` gives them; the loss is None if every step was skipped.
        epochs: most epochs.
        is_best: whether validation was the best so far.
    """
    loss = "none" if metrics["train_loss"] is None else f"{metrics['train_loss']:.4f}"
    line = f"epoch {metrics['epoch']}/{epochs} done  train loss {loss}"
    if "valid_ndcg@10" in metrics:
        line += f"  valid HR@10 {metrics['valid_hr@10']:.4f}  NDCG@10 {metrics['valid_ndcg@10']:.4f}"
        line += "  best so far" if is_best else ""
    return line + f"  ({duration(metrics['elapsed_s'])})"


def _thousands(value: float) -> str:
    return f"{value / 1e6:.2f}M" if value >= 1e6 else f"{value / 1e3:.1f}k"


def _peak_gib(device: torch.device) -> float:
    """Peak memory: of the GPU's allocator, or of this process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
