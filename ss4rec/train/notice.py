"""A notice from outside that training is about to end, a file in the run folder: a checkpoint is written at once.

Schedulers such as Slurm write it before they take a machine back, and so does the command itself on Ctrl-C and SIGTERM.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from ss4rec.runs.folder import RunFolder
from ss4rec.runs.lease import has_writer
from ss4rec.train.status import announce

NOTICE_FILE = "notice"
LOOK_EVERY_S = 0.5
"""Minimum seconds between two looks: run folders lie on file servers."""
WAIT_S = 60.0
"""How long a stop waits for the checkpoint: a long validation may be under way."""


class NoticeFile:
    """Says what `RUN/notice` holds once it is there, for `Hooks.notice`.

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


def stop_in_order(
    run_dirs: Sequence[Path],
    *,
    wait_s: float = WAIT_S,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> str:
    """Ask for a checkpoint of this moment in each run and wait for it; return what the user reads last.

    Runs in which no worker has begun have nothing to save and are not waited for.

    Args:
        run_dirs: runs of this command that are being trained.
        wait_s: maximum seconds to wait.
        clock: seconds.
        sleep: waits for some seconds.
    """
    begun = [folder for folder in map(RunFolder, run_dirs) if has_writer(folder.path)]
    waiting = {folder.path: _steps(folder) for folder in begun}
    if not waiting:
        return "stopped before the first step"
    announce("stopping: writing a checkpoint of this step; Ctrl-C again ends at once")
    for path in waiting:
        (path / NOTICE_FILE).write_text("this command was interrupted\n")
    ends_at = clock() + wait_s
    while waiting and clock() < ends_at:
        sleep(0.1)
        waiting = {path: steps for path, steps in waiting.items() if _steps(RunFolder(path)) <= steps}
    return _farewell(begun, len(waiting), wait_s)


def _farewell(runs: Sequence[RunFolder], late: int, wait_s: float) -> str:
    if len(runs) > 1:
        saved = f"{len(runs) - late} of {len(runs)} trials have a checkpoint of this moment"
        return f"stopped; {saved}; the same command continues"
    steps = _steps(runs[0])
    where = f"step {max(steps)}" if steps else "the start: no checkpoint was written yet"
    doubt = f" (no newer checkpoint came within {wait_s:.0f} s)" if late else ""
    return f"stopped; the same command continues at {where}{doubt}"


def _steps(folder: RunFolder) -> set[int]:
    """Return the global steps of the checkpoints that are there."""
    return {int(path.name.removeprefix("step-")) for path in folder.checkpoints.glob("step-*")}
