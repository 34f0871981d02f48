"""Checks the installed packages: they fit together, they are the locked versions, none has a known vulnerability.

    python tools/audit.py [--advisories]

The first two need no network. The third does: by default (`make check`) one question about all locked packages to
OSV, whose advisories for Python are those of PyPI. An advisory that is not accepted below fails the check; a network
that is away does not, and is said. `--advisories` (`make audit`) asks PyPI about each package through pip-audit,
which is installed into a folder of its own, and fails if it cannot.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import urllib.request
from collections.abc import Mapping
from http.client import HTTPException
from importlib.metadata import distributions
from pathlib import Path

ROOT = Path(__file__).parents[1]
PIP_AUDIT = "pip-audit==2.10.0"
OSV = "https://api.osv.dev/v1/querybatch"
PATIENCE_S = 10.0
"""Seconds to wait for OSV's answer."""
ACCEPTED: dict[str, str] = {}
"""Advisories that we live with, and why."""
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


def advisories(
    lock: Mapping[str, str], url: str = OSV, patience_s: float = PATIENCE_S
) -> dict[str, list[str]]:
    """Return the ids of known advisories by package, for the packages that have any.

    Raises:
        OSError, HTTPException: if the service cannot be asked.
        ValueError: if it answers with something else than promised.
    """
    packages = sorted(lock)
    queries = [
        {"package": {"name": name, "ecosystem": "PyPI"}, "version": lock[name].partition("+")[0]}
        for name in packages
    ]
    question = urllib.request.Request(
        url, json.dumps({"queries": queries}).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(question, timeout=patience_s) as answer:
        try:
            results = json.load(answer)["results"]
            ids = [[entry["id"] for entry in result.get("vulns", ())] for result in results]
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"an answer that is not OSV's: {error!r}") from error
    if len(ids) != len(packages):
        raise ValueError(f"{len(ids)} answers to {len(packages)} questions")
    return {name: found for name, found in zip(packages, ids, strict=True) if found}


def check_advisories(lock: Mapping[str, str], url: str = OSV) -> int:
    """Ask OSV about the lock and print what it says; 1 if a package has an advisory that is not accepted."""
    try:
        found = advisories(lock, url)
    except (OSError, HTTPException, ValueError) as error:
        print(f"warning: known vulnerabilities were not looked up, {url} gave no answer: {error}")
        return 0
    code = 0
    for name, ids in found.items():
        for one in ids:
            if one not in ACCEPTED:
                code = 1
            print(f"{name} {lock[name]}: https://osv.dev/{one} ({ACCEPTED.get(one, 'not accepted')})")
    print(f"OSV was asked about {len(lock)} packages: {len(found)} of them have advisories")
    return code


def look_up_advisories() -> int:
    """Run pip-audit over the lock; returns its exit code."""
    folder = Path(sys.prefix) / "pip-audit"
    if not (folder / "pip_audit").exists():
        command = [sys.executable, "-m", "pip", "install", "-q", "--target", str(folder), PIP_AUDIT]
        subprocess.run(command, check=True)
    command = [sys.executable, "-m", "pip_audit", "--disable-pip", "--no-deps", "-r", "constraints.txt"]
    return subprocess.run(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(folder)}).returncode


def main(with_pip_audit: bool) -> int:
    """Run the checks; 0 if none found anything."""
    code = subprocess.run([sys.executable, "-m", "pip", "check"]).returncode
    installed = {canonical(dist.metadata["Name"]): dist.version for dist in distributions()}
    lock = locked((ROOT / "constraints.txt").read_text())
    problems = differences(lock, installed)
    print("\n".join(problems) or f"{len(installed)} installed packages are those of constraints.txt")
    code = code or int(bool(problems))
    looked = look_up_advisories() if with_pip_audit else check_advisories(lock)
    return looked or code


if __name__ == "__main__":
    sys.exit(main("--advisories" in sys.argv[1:]))
