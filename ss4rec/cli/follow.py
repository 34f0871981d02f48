"""A job's log as a terminal shows it: the display of a run of one's own, fed by the log."""

from __future__ import annotations

import re

from rich.console import Console

from ss4rec.cli.display import Display, display_wanted
from ss4rec.train.status import Progress, Screen

_TRIALS = re.compile(r"(\(.* pid=.*\) )?\d+/\d+ trials done.*")
"""The first line of a sweep's table."""
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


class JobLog:
    """Shows a log; use as a context manager.

    Args:
        job_id: title of the display.
        console: where to; without a terminal every line is printed as it is.
    """

    def __init__(self, job_id: str, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True)
        wanted = self.console.is_terminal if console is not None else display_wanted(self.console)
        self.display = Display(job_id, self.console) if wanted else None
        self._rest = ""

    def __enter__(self) -> JobLog:
        if self.display is not None:
            self.display.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._rest:
            self._show(self._rest)
        if self.display is not None:
            self.display.__exit__(None, None, None)

    def write(self, chunk: str) -> None:
        """Take a piece of the log, of any number of whole or cut lines."""
        *lines, self._rest = (self._rest + chunk).split("\n")
        for line in lines:
            self._show(line)

    def _show(self, line: str) -> None:
        if self.display is None:
            Screen().line(line)
            return
        plain = _COLOURS.sub("", line)
        if (found := _TRIALS.search(plain)) and Progress.parse(plain) is None:
            self.display.panel([found[0]])
        self.display.line(plain)
