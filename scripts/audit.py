"""Checks the installed packages: they fit together, they are the locked versions, none has a known vulnerability.

    python scripts/audit.py [--advisories]

The first two need no network and belong to `make check`. The third (`make audit`) asks PyPI about every locked package
through pip-audit, which is installed into a folder of its own; without it the last line says that nobody looked.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import distributions
from pathlib import Path

ROOT = Path(__file__).parents[1]
PIP_AUDIT = "pip-audit==2.10.0"
OWN = {"ss4rec", "pip", "setuptools", "wheel"}
"""This project, and what a virtual environment brings along."""
OPTIONAL = {"triton", "polars", "polars-runtime-32", "mamba-ssm", "causal-conv1d", "ninja", "einops"}
"""Installed by hand where they are wanted (docs/install.md); CUDA's own packages come with a CUDA torch."""


def canonical(name: str) -> str:
    """Return a package's name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def locked(text: str) -> dict[str, str]:
    """Return the versions of a constraints file by package."""
    pairs = (line.split("#")[0].strip().partition("==") for line in text.splitlines())
    return {canonical(name): version for name, _, version in pairs if version}


def differences(lock: Mapping[str, str], installed: Mapping[str, str]) -> list[str]:
    """Return one sentence a package that is installed in another version than the lock's, or that the lock lacks.

    A local version such as `+cpu` says how a package was built and is not compared.
    """
    found = []
    for name, version in sorted(installed.items()):
        if name in OWN | OPTIONAL or name.startswith("nvidia-"):
            continue
        if name not in lock:
            found.append(f"{name} {version} is installed and not in constraints.txt")
        elif version.partition("+")[0] != lock[name].partition("+")[0]:
            found.append(f"{name} {version} is installed, constraints.txt has {lock[name]}")
    return found


def look_up_advisories() -> int:
    """Run pip-audit over the lock; returns its exit code."""
    folder = Path(sys.prefix) / "pip-audit"
    if not (folder / "pip_audit").exists():
        command = [sys.executable, "-m", "pip", "install", "-q", "--target", str(folder), PIP_AUDIT]
        subprocess.run(command, check=True)
    command = [sys.executable, "-m", "pip_audit", "--disable-pip", "--no-deps", "-r", "constraints.txt"]
    return subprocess.run(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(folder)}).returncode


def main(advisories: bool) -> int:
    """Run the checks; 0 if none found anything."""
    code = subprocess.run([sys.executable, "-m", "pip", "check"]).returncode
    installed = {canonical(dist.metadata["Name"]): dist.version for dist in distributions()}
    lock = locked((ROOT / "constraints.txt").read_text())
    problems = differences(lock, installed)
    print("\n".join(problems) or f"{len(installed)} installed packages are those of constraints.txt")
    code = code or int(bool(problems))
    if not advisories:
        print("known vulnerabilities were not looked up: that needs a network, see `make audit`")
        return code
    return look_up_advisories() or code


if __name__ == "__main__":
    sys.exit(main("--advisories" in sys.argv[1:]))
