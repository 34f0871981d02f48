"""What a training says: the status line, with all that one wants to know, and every other line.

`SS4REC_LOG=json` makes each line a JSON object for log collectors, with time, run, worker and step; in text only the
main worker speaks. On a terminal a display (`ss4rec.cli.display`) takes the lines instead of stdout.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from ss4rec.io.paths import AnyPath

LOG_VARIABLE = "SS4REC_LOG"
_context: dict[str, Any] = {}


def log_is_json() -> bool:
    """Whether lines are JSON objects (`SS4REC_LOG=json`)."""
    return os.environ.get(LOG_VARIABLE) == "json"


def log_as(**context: Any) -> None:
    """Put fields (run, worker) into every JSON line of this process from here on."""
    _context.update(context)


def shown(path: str | AnyPath) -> str:
    """Return a path as a reader types it here: from the working directory on, if it lies below."""
    text, here = str(path), os.getcwd() + os.sep
    return text.removeprefix(here)


def say(line: str, **fields: Any) -> None:
    """Write a line at once; `fields` and those of `log_as` are only in its JSON form."""
    if log_is_json():
        level = "warning" if line.startswith(("warning", "failure")) else "info"
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        line = json.dumps({"time": now, "level": level, **_context, **fields, "message": line})
    say_line(line)


def say_line(line: str) -> None:
    """Write a line that is as it should be: of this process, or of a worker that has said it already."""
    _screens[-1].line(line)


def say_panel(lines: Sequence[str]) -> None:
    """Write lines that belong together and replace those of the last call where there is a display."""
    _screens[-1].panel(lines)


def announce(line: str) -> None:
    """Say what is being waited for: in a display, else on stderr, so that results on stdout stay alone."""
    _screens[-1].waiting(line)


class Screen:
    """Where lines go: plainly to stdout, and to stderr what is no result. A display is one too."""

    def line(self, text: str) -> None:
        """Show a line."""
        # Not by `print`: Ray Train replaces it by one that writes every line twice.
        sys.stdout.write(text + "\n")
        sys.stdout.flush()

    def panel(self, lines: Sequence[str]) -> None:
        """Show lines that belong together."""
        for text in lines:
            say(text)

    def waiting(self, text: str) -> None:
        """Show what is being waited for."""
        sys.stderr.write(text + "\n")
        sys.stderr.flush()


_screens: list[Screen] = [Screen()]
_display: Callable[[], AbstractContextManager[Screen]] | None = None


def use_display(make: Callable[[], AbstractContextManager[Screen]] | None) -> None:
    """Choose the display that `on_display` shows in this process; None: lines are written plainly."""
    global _display
    _display = make


@contextmanager
def on_display() -> Iterator[None]:
    """Show lines on the display, if one was chosen and none is on, for the length of the block."""
    if _display is None or len(_screens) > 1 or log_is_json():
        yield
        return
    with _display() as screen:
        _screens.append(screen)
        try:
            yield
        finally:
            _screens.remove(screen)


def run_name() -> str:
    """Return the name of the run that this process trains, if it has one."""
    return str(_context.get("run", ""))


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

    The time left is the mean over all steps of this attempt but the first, validations included once there was one: the
    first step waits for data and compiles, and a forecast from it would be hours off.

    Args:
        every_s: minimum seconds between lines.
        epochs: maximum epochs, for the time left.
        steps_per_epoch: steps of an epoch.
        may_stop_early: whether training may end before that, so that the time left is a maximum.
    """

    every_s: float
    epochs: int
    steps_per_epoch: int
    emit: Callable[[str], None] = say
    clock: Callable[[], float] = time.perf_counter
    may_stop_early: bool = True
    _steps: int = 0
    _targets: int = 0
    _all_steps: int = 0
    _since: float = field(init=False)
    _first_done: float | None = None

    def __post_init__(self) -> None:
        self._since = self.clock()

    def count(self, targets: int) -> None:
        """Take note of a step over `targets` targets (of all workers)."""
        if self._first_done is None:
            self._first_done = self.clock()
        self._all_steps += 1
        self._steps += 1
        self._targets += targets

    @property
    def due(self) -> bool:
        """Whether `every_s` has passed since the last line."""
        return self.clock() - self._since >= self.every_s

    def left_s(self, epoch: int, step: int) -> float | None:
        """Return the seconds that all steps behind `step` of `epoch` will take; None if too few are known."""
        if self._first_done is None or self._all_steps < 2:
            return None
        step_s = (self.clock() - self._first_done) / (self._all_steps - 1)
        return step_s * ((self.epochs - epoch) * self.steps_per_epoch - step)

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
            f"{figures['memory_gib']:.2f} GiB{self._left(epoch, step)}"
        )
        self._steps, self._targets, self._since = 0, 0, now
        return figures

    def _left(self, epoch: int, step: int) -> str:
        left_s = self.left_s(epoch, step)
        if left_s is None:
            return ""
        return f"  {'at most' if self.may_stop_early else 'about'} {duration(left_s)} left"


def epoch_line(metrics: dict[str, Any], epochs: int, is_best: bool) -> str:
    """Format an epoch's metrics as a line.

    Args:
        metrics: as `TrainLoop.epochs` gives them; the loss is None if every step was skipped.
        epochs: maximum epochs.
        is_best: whether validation was the best so far.
    """
    loss = "none" if metrics["train_loss"] is None else f"{metrics['train_loss']:.4f}"
    line = f"epoch {metrics['epoch']}/{epochs} done  train loss {loss}"
    if "valid_ndcg@10" in metrics:
        line += f"  valid HR@10 {metrics['valid_hr@10']:.4f}  NDCG@10 {metrics['valid_ndcg@10']:.4f}"
        line += "  best so far" if is_best else ""
    return line + f"  ({duration(metrics['elapsed_s'])})"


_STATUS = re.compile(
    r"epoch (?P<epoch>\d+)/(?P<epochs>\d+) step (?P<step>\d+)/(?P<steps>\d+)  loss (?P<loss>\S+)  grad \S+  lr \S+  "
    r"(?P<rate>\S+) events/s  \S+ ms/step  data wait \S+  (?P<memory>\S+ GiB)"
    r"(  (?P<left>(at most|about) \S+ left))?"
)
_EPOCH = re.compile(
    r"epoch (?P<epoch>\d+)/(?P<epochs>\d+) done  train loss (?P<loss>\S+)"
    r"(  valid HR@10 \S+  NDCG@10 (?P<ndcg>\S+))?(?P<best>  best so far)?"
)


@dataclass(frozen=True)
class Progress:
    """What a status line or the line of an epoch's end says, read back for a display."""

    epoch: int
    """From 1; at an epoch's end the one that is done."""
    epochs: int
    step: int
    """Steps done of the epoch."""
    steps: int
    """Steps of an epoch; 0 in the line of an epoch's end."""
    loss: str
    rate: str = ""
    memory: str = ""
    left: str = ""
    valid: str = ""
    """Validation NDCG@10, if there was one."""
    is_best: bool = False

    @classmethod
    def parse(cls, line: str) -> Progress | None:
        """Read what `StatusLine` or `epoch_line` wrote, behind whatever stands before it; None for other lines."""
        if found := _STATUS.search(line):
            return cls(
                int(found["epoch"]), int(found["epochs"]), int(found["step"]), int(found["steps"]), found["loss"],
                f"{found['rate']} events/s", found["memory"], found["left"] or "",
            )  # fmt: skip
        if found := _EPOCH.search(line):
            return cls(
                int(found["epoch"]), int(found["epochs"]), 0, 0, found["loss"], valid=found["ndcg"] or "",
                is_best=bool(found["best"]),
            )  # fmt: skip
        return None


def _thousands(value: float) -> str:
    return f"{value / 1e6:.2f}M" if value >= 1e6 else f"{value / 1e3:.1f}k"


def _peak_gib(device: torch.device) -> float:
    """Peak memory: of the GPU's allocator, or of this process on a CPU."""
    if device.type == "cuda":
        import torch

        return torch.cuda.max_memory_allocated(device) / 2**30
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
