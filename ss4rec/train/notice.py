"""A notice from outside Ray that a machine is about to go: a file in the run folder, for schedulers such as Slurm."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

NOTICE_FILE = "notice"
LOOK_EVERY_S = 2.0
"""Least seconds between two looks: run folders lie on file servers."""


class NoticeFile:
    """Says what `RUN/notice` holds once it is there, for `TrainLoop`'s `notice`.

    Args:
        run_dir: the run folder.
        clock: seconds.
    """

    def __init__(self, run_dir: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self.path, self.clock = run_dir / NOTICE_FILE, clock
        self._looked_at: float | None = None

    def __call__(self) -> str:
        """Return why the machine goes, or an empty string."""
        now = self.clock()
        if self._looked_at is not None and now - self._looked_at < LOOK_EVERY_S:
            return ""
        self._looked_at = now
        try:
            text = self.path.read_bytes()[:200].decode(errors="replace")
        except OSError:
            return ""
        return " ".join(text.split()) or f"there is {self.path}"


def forget(run_dir: Path) -> None:
    """Remove a notice: it was meant for the attempt before."""
    (run_dir / NOTICE_FILE).unlink(missing_ok=True)
