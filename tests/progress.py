"""Waits for progress, never for a clock: a test that is slow because the machine is busy goes on.

What never comes is ended by pytest's own limit (`timeout` in pyproject.toml), which shows where every thread stands.
"""

import subprocess
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def until(condition: Callable[[], T], process: subprocess.Popen | None = None, every_s: float = 0.02) -> T:
    """Return the first value of `condition` that counts as true.

    Args:
        condition: looks at files or at other processes, which nothing can be waited on for.
        process: what makes the progress; fails if it ends before the condition holds.
        every_s: seconds between looks.
    """
    while True:
        ended = process is not None and process.poll() is not None
        if found := condition():
            return found
        assert not ended, f"the process ended with {process.returncode}{_said(process)}"
        time.sleep(every_s)


def started(start: Callable[[], T], tries: int = 3) -> T:
    """Return what `start` returns; a Ray that gave up its own start is begun again.

    Ray ends a node whose agent does not answer 15 s after it began, which a busy machine does not keep.
    """
    for left in reversed(range(tries)):
        try:
            return start()
        except Exception as error:
            if not left or "timed out during startup" not in str(error):
                raise
    raise AssertionError("not reached")


def _said(process: subprocess.Popen) -> str:
    return "" if process.stdout is None else f": {process.stdout.read()}"
