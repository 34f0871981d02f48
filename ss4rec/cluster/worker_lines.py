"""What the processes of a cluster print, as this process shows it: the one place that knows Ray's noise.

Lines of our own workers are shown as they are, without Ray's prefix. What `NOISE` names is dropped: it appears in good
runs and means nothing. Everything else is shown as Ray shows it, with its prefix.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ss4rec.cluster import ray_private
from ss4rec.train.status import say_line

OURS = ("RayTrainWorker", "TrainController", "OneWorkerTrial", "many_workers_trial", "_train_workers")
"""Actors and tasks whose stdout is ours: no library prints there."""
NOISE = tuple(
    re.compile(pattern)
    for pattern in (
        # Ray warns that an actor which it makes itself could not be restarted.
        r"(PreemptionWatcher|MapWorker).*has constructor arguments in the object store",
        # Ray Data starts more processes than there are CPUs, by design.
        r"\d+ PYTHON worker processes have been started",
        # Ray Train's cleaner asks a dashboard that is slow for a moment, and asks again.
        r"Failed to query Ray Train Controller actor state",
        # A cluster that is ending.
        r"WebSocket closed",
        r"Failed to establish connection to the metrics exporter agent",
        # Deprecations of Ray's own code.
        r"RayDeprecationWarning|PydanticDeprecatedSince20|exclude_resources",
        r"Progress bars disabled",
    )
)
"""Lines of good runs."""
_TRACEBACK = "Traceback (most recent call last):"
_AT_EXIT = "Exception ignored in atexit callback: <function _start_and_connect_service"
"""What Python says before the traceback where W&B's service has ended first."""


def is_noise(line: str) -> bool:
    """Return whether a line says nothing to a user: it appears in runs in which all is well."""
    return any(pattern.search(line) for pattern in NOISE)


@dataclass
class _Tracebacks:
    """Holds back a traceback until its last line says whether it is W&B's service that noticed the end of its process.

    It appears after a trial's process was ended on purpose; no figure is lost, the run's files are written by then.
    """

    held: list[str] = field(default_factory=list)

    def pass_on(self, line: str) -> list[str]:
        """Take a line and return those that may be shown now."""
        if line.startswith((_TRACEBACK, _AT_EXIT)) and not self.held:
            self.held = [line]
            return []
        if not self.held:
            return [line]
        self.held.append(line)
        if line.startswith((" ", "^", _TRACEBACK)) or not line:
            return []
        block, self.held = self.held, []
        ending = line.startswith(("ConnectionResetError", "BrokenPipeError"))
        return [] if ending and any("/wandb/" in text for text in block) else block


def show_worker_lines(show: Callable[[str], None] = say_line) -> None:
    """Show what workers of the connected cluster print, see the module; `show` takes our own lines."""
    sources: defaultdict[tuple[Any, Any], _Tracebacks] = defaultdict(_Tracebacks)

    def take(data: dict[str, Any]) -> dict[str, Any] | None:
        lines = [line for line in map(str, data["lines"]) if not is_noise(line)]
        name = data.get("actor_name") or data.get("task_name") or ""
        if not data["is_err"] and str(name).startswith(OURS):
            for line in lines:
                show(line)
            return None
        if data["is_err"]:
            held = sources[data.get("ip"), data.get("pid")]
            lines = [shown for line in lines for shown in held.pass_on(line)]
        return {**data, "lines": lines} if lines else None

    ray_private.route_worker_lines(take)
