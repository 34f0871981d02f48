"""What a tracker is told: figures while a run trains, and facts at its end."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ss4rec.io.atomic import write_json
from ss4rec.io.untrusted import read_json

IDS_FILE = "trackers.json"
"""In the run folder: the id that each tracker's server knows the run by. A folder's name may come again elsewhere."""


@dataclass(frozen=True)
class RunStart:
    """A run that begins or goes on."""

    folder: Path
    config: Mapping[str, Any]
    """The resolved configuration, nested."""
    group: str = ""
    """Sweep that the run is a trial of; empty for none."""
    project: str = "ss4rec"
    tags: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The run's name: that of its folder; a trial's has its sweep before it."""
        return f"{self.group}-{self.folder.name}" if self.group else self.folder.name

    def known_id(self, tracker: str) -> str | None:
        """Return the id under which `tracker` knows this run, if it does."""
        path = self.folder / IDS_FILE
        found = read_json(path).get(tracker) if path.exists() else None
        return found if isinstance(found, str) else None

    def keep_id(self, tracker: str, run_id: str) -> None:
        """Remember the id under which `tracker` knows this run."""
        path = self.folder / IDS_FILE
        write_json(path, (read_json(path) if path.exists() else {}) | {tracker: run_id})


@dataclass(frozen=True)
class RunEnd:
    """What there is to say at the end of a run, or of an attempt."""

    facts: Mapping[str, Any] = field(default_factory=dict)
    """Data, parameters, versions and the like, flat."""
    figures: Mapping[str, float] = field(default_factory=dict)
    """Best epoch, its validation, test metrics, by name as in `test/NDCG@10`."""
    model: Path | None = None
    """Folder of the best checkpoint; None if it is not to be sent."""
    failed: bool = False


class ExperimentTracker(ABC):
    """One tracker's view of one run. Methods may raise anything; the caller sees to it."""

    title: str
    """As a user knows it."""

    @abstractmethod
    def log(self, kind: str, global_step: int, figures: Mapping[str, float]) -> None:
        """Take figures of a `status` or `epoch` line."""

    @abstractmethod
    def finish(self, end: RunEnd) -> None:
        """Take the facts of the end, send what is left, and close."""


def flat(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return `nested` with dotted names; lists become JSON."""
    found: dict[str, Any] = {}
    for name, value in nested.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{name}.")
        else:
            found[prefix + name] = json.dumps(value) if isinstance(value, list | tuple) else value
    return found
