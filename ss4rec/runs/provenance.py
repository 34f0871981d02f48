"""Which code and packages run: what a record has to say about itself."""

from __future__ import annotations

import os
import subprocess  # nosec B404
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

COMMIT_VARIABLE = "SS4REC_COMMIT"
"""Names the commit to a copy of the code that has no git folder, as a submitted job is."""
_PACKAGES = (
    "ss4rec",
    "torch",
    "ray",
    "pyarrow",
    "numpy",
    "triton",
    "mamba-ssm",
    "causal-conv1d",
    "safetensors",
)


def installed_versions() -> dict[str, str]:
    """Return the versions of the packages that decide a result; a missing one is left out."""
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def git_commit() -> str | None:
    """Return the commit of the checkout that this code runs from; of a copy, what `COMMIT_VARIABLE` says, or None."""
    try:
        answer = subprocess.run(
            ["git", "rev-parse", "HEAD"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return os.environ.get(COMMIT_VARIABLE) or None
    return answer.stdout.strip() if answer.returncode == 0 else os.environ.get(COMMIT_VARIABLE) or None
