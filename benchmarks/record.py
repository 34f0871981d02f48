"""Writes a benchmark's dated record: what was measured, by which command, on which machine, at which commit."""

from __future__ import annotations

import json
import platform
import shlex
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from ss4rec.runs.provenance import git_commit, installed_versions


def headline(name: str, value: float, unit: str, goal: float | None, peer: str = "") -> dict[str, Any]:
    """Return one headline figure; `goal` None where none was set, `peer` says what it is compared with."""
    return {"name": name, "value": value, "unit": unit, "goal": goal, "peer": peer}


def _without_machine(argument: str) -> str:
    """Return a path inside the project relative to it, and any other absolute path as its last part; also of NAME=PATH."""
    name, equals, value = argument.partition("=")
    if equals and Path(value).is_absolute():
        return f"{name}={_without_machine(value)}"
    if not Path(argument).is_absolute():
        return argument
    root = Path(__file__).parents[1]
    path = Path(argument)
    return str(path.relative_to(root)) if path.is_relative_to(root) else path.name


def _program(path: str) -> list[str]:
    """Return how Python was told what to run: `-m PACKAGE` for a package's `__main__`."""
    relative = Path(_without_machine(path))
    if relative.name != "__main__.py":
        return [str(relative)]
    return ["-m", ".".join(relative.parent.parts)]


def device_name() -> str:
    """Return the GPU's name, or the processor's where there is none."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or "CPU"


def write_record(
    name: str,
    rows: Sequence[Mapping[str, Any]],
    headlines: Sequence[Mapping[str, Any]],
    folder: Path,
    device: str | None = None,
) -> Path:
    """Write `folder/NAME-YYYYMMDD.json` and return its path; `device` is where it was measured, by default here."""
    now = datetime.now(UTC)
    record = {
        "name": name,
        "date": now.isoformat(timespec="seconds"),
        "commit": git_commit(),
        "command": shlex.join(["python", *_program(sys.argv[0]), *map(_without_machine, sys.argv[1:])]),
        "device": device or device_name(),
        "versions": installed_versions() | {"python": platform.python_version()},
        "rows": list(rows),
        "headline": list(headlines),
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-{now:%Y%m%d}.json"
    path.write_text(json.dumps(record, indent=2) + "\n")
    return path
