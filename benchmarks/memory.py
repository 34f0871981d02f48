"""Peak memory of a process and everything it started, sampled."""

from __future__ import annotations

import os
import threading
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import TracebackType

SAMPLE_S = 0.25


def tree_bytes(root: int) -> int:
    """Return the proportional set size of process `root` and its descendants: shared pages are counted once."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:  # it ended meanwhile
                continue
            children.setdefault(parent, []).append(int(entry.name))
    total, open_pids = 0, [root]
    while open_pids:
        pid = open_pids.pop()
        open_pids += children.get(pid, [])
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) << 10
    return total


class PeakMemory:
    """Context in which the peak of `tree_bytes` of process `root`, None for this one, is kept in `peak`."""

    def __init__(self, root: int | None = None) -> None:
        self.root = os.getpid() if root is None else root
        self.before = self.peak = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> PeakMemory:
        self.before = self.peak = tree_bytes(self.root)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(SAMPLE_S):
            self.peak = max(self.peak, tree_bytes(self.root))


def watched(wanted: bool, root: int | None = None) -> AbstractContextManager[PeakMemory | None]:
    """Return a context that samples memory, or one that does nothing: samples take time from what is measured."""
    return PeakMemory(root) if wanted else nullcontext()
