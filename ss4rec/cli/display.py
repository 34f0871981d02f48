"""A terminal's live display: what is being waited for, how far training is, how good it is, how long it will take.

It reads the lines that a piped command prints (`ss4rec.train.status.Progress`), so a job's log looks the same as a
run of this process. Other lines scroll by above it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from types import TracebackType

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from ss4rec.train.status import Progress, Screen, duration, run_name

_BARS = "▁▂▃▄▅▆▇█"
_SHOWN = 24
"""Validations in the little curve."""


class Display(Screen):
    """Shows lines of a command; use as a context manager.

    Args:
        title: what runs; None takes the name of the run once it is known.
        console: where to.
        clock: seconds.
    """

    def __init__(
        self,
        title: str | None = None,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.title, self.console, self.clock = title, console or Console(stderr=True), clock
        self.began, self.doing = clock(), "starting"
        self.step: Progress | None = None
        """The newest status line."""
        self.epoch: Progress | None = None
        """The newest end of an epoch."""
        self.scores: list[float] = []
        self.best: Progress | None = None
        self.lines: Sequence[str] = ()
        self._spinner = Spinner("dots")
        self._live = Live(
            console=self.console, get_renderable=self.render, refresh_per_second=4, transient=True
        )

    def __enter__(self) -> Display:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def line(self, text: str) -> None:
        """Take a line: progress is drawn, anything else scrolls by."""
        progress = Progress.parse(text)
        if progress is None:
            self.doing = text.strip().partition("\n")[0] or self.doing
            self.console.print(Text(text))
        elif progress.steps:
            self.step = progress
        else:
            self._take_epoch(progress)

    def panel(self, lines: Sequence[str]) -> None:
        """Show these lines instead of those of the last call."""
        self.lines = lines

    def waiting(self, text: str) -> None:
        """Show what is being waited for."""
        self.doing = text
        if text.startswith(("warning", "stopping")):
            self.console.print(Text(text))

    def _take_epoch(self, progress: Progress) -> None:
        self.epoch = progress
        if progress.valid:
            self.scores.append(float(progress.valid))
            if progress.is_best:
                self.best = progress

    def render(self) -> RenderableType:
        """Return what is shown now."""
        parts: list[RenderableType] = [self._head()]
        if self.step is not None:
            parts += [self._bars(self.step), self._figures(self.step)]
        parts += [Text(line, no_wrap=True, overflow="ellipsis") for line in self.lines]
        return Group(*parts)

    def _head(self) -> RenderableType:
        head = Table.grid(padding=(0, 1), expand=True)
        head.add_column(no_wrap=True)
        head.add_column(no_wrap=True, ratio=1, overflow="ellipsis")
        head.add_column(no_wrap=True, justify="right")
        title = Text(self.title or run_name() or "ss4rec", style="bold")
        doing = "training" if self.step is not None else self.doing
        left = f"  {self.step.left}" if self.step is not None and self.step.left else ""
        first: RenderableType = title
        if self.step is None and not self.lines:
            self._spinner.update(text=title)
            first = self._spinner
        head.add_row(first, Text(doing, style="dim"), f"{duration(self.clock() - self.began)}{left}")
        return head

    def _bars(self, step: Progress) -> RenderableType:
        """Return the bars of the whole run and of the epoch."""
        done = step.step
        epoch = step.epoch
        if (
            self.epoch is not None and self.epoch.epoch >= step.epoch
        ):  # its end came after the last status line
            epoch, done = min(self.epoch.epoch + 1, step.epochs), 0
        whole = (epoch - 1) * step.steps + done
        if self.epoch is not None and self.epoch.epoch == step.epochs:
            epoch, whole, done = step.epochs, step.epochs * step.steps, step.steps
        bars = Table.grid(padding=(0, 1), expand=True)
        bars.add_column(no_wrap=True)
        bars.add_column(ratio=1)
        bars.add_column(no_wrap=True, justify="right")
        bars.add_row("run", ProgressBar(step.epochs * step.steps, whole), f"epoch {epoch}/{step.epochs}")
        bars.add_row("epoch", ProgressBar(step.steps, done), f"step {done}/{step.steps}")
        return bars

    def _figures(self, step: Progress) -> RenderableType:
        figures = f"loss {step.loss}  {step.rate}  {step.memory}"
        if not self.scores:
            return Text(figures)
        low, high = min(self.scores), max(self.scores)
        curve = "".join(
            _BARS[round((score - low) / (high - low) * (len(_BARS) - 1)) if high > low else 0]
            for score in self.scores[-_SHOWN:]
        )
        best = f" (best {self.best.valid}, epoch {self.best.epoch})" if self.best is not None else ""
        return Text.assemble(
            f"{figures}\nvalidation NDCG@10 {self.scores[-1]:.4f}{best}  ",
            (curve, "cyan"),
            overflow="ellipsis",
        )


def display_wanted(console: Console) -> bool:
    """Return whether a display can be shown: both streams are a terminal that can move its cursor."""
    return console.is_terminal and not console.is_dumb_terminal and Console().is_terminal
