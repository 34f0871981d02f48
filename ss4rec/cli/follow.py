"""A job's log as a terminal shows it: lines scroll by, the newest status line of the training stays at the bottom."""

from __future__ import annotations

import re
import time
from collections.abc import Callable

from rich.console import Console
from rich.live import Live
from rich.text import Text

from ss4rec.train.status import duration

STATUS = re.compile(r"epoch \d+/\d+ step \d+/\d+  \S.*")
"""What `StatusLine` prints, behind whatever Ray puts before it."""


class JobLog:
    """Shows a log; use as a context manager.

    Args:
        job_id: shown in the status line.
        console: where to; without a terminal every line is printed as it is.
        clock: seconds.
    """

    def __init__(
        self, job_id: str, console: Console | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.job_id, self.console, self.clock = job_id, console or Console(), clock
        self.began, self.status, self._rest = clock(), "starting", ""
        self._live = Live(
            console=self.console, get_renderable=self.line, refresh_per_second=2, transient=True
        )

    def __enter__(self) -> JobLog:
        if self.console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._rest:
            self._show(self._rest)
        self._live.stop()

    def line(self) -> Text:
        """Return the status line."""
        text = f"{self.job_id}  {duration(self.clock() - self.began)}  {self.status}"
        return Text(text, no_wrap=True, overflow="ellipsis")

    def write(self, chunk: str) -> None:
        """Take a piece of the log, of any number of whole or cut lines."""
        *lines, self._rest = (self._rest + chunk).split("\n")
        for line in lines:
            self._show(line)

    def _show(self, line: str) -> None:
        found = STATUS.search(line)
        if found and self.console.is_terminal:
            self.status = found[0]
        else:
            self.console.print(line, markup=False, highlight=False, soft_wrap=True)
