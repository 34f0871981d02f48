"""Runs ss4rec's main paths with several versions of Ray, each in an environment of its own, and prints a table.

    python -m tools.ray_versions [VERSION ...] [--out FOLDER]      (needs the dev packages and a package index)

An environment is a small one on top of that of the running Python: only Ray is installed anew (about 240 MB each), all
else is shared. What runs in it are the project's own tests of each part, those of one cluster in one process. Exit
code 1 if one fails. With `--work FOLDER --go-on` what passed in an earlier call is not run again; the
record names the commit at which each part passed.
"""

from __future__ import annotations

import argparse
import os
import re
import site
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from threading import Timer
from typing import Any

from ss4rec.io.journal import Journal
from ss4rec.runs.provenance import git_commit

ROOT = Path(__file__).resolve().parents[1]
VERSIONS = ("2.56.1", "2.57.1", "2.58.1", "2.59.0", "2.60.0")
"""The newest of each minor version from the lower bound in pyproject.toml on."""
PARTS: Mapping[str, tuple[str, ...]] = {
    "internals": ("tests/cluster/test_ray_private.py",),
    "training": ("tests/test_end_to_end.py::test_train_as_a_job_with_two_workers_then_evaluate",),
    "sweep": ("tests/test_end_to_end.py::test_a_sweep_as_a_job_names_its_best_trial",),
    "job": ("tests/test_end_to_end.py::test_a_users_error_ends_the_job_with_one_sentence",),
    "resume": (
        "tests/faults/test_driver_killed.py::test_same_command_continues_after_the_driver_and_then_the_head_were_killed",
    ),
}
"""What must pass: a job that trains on two workers and one that ranks; a sweep; a refusal; a driver that is killed and
started again, with the bits of a run that nothing stopped."""
GROUPS = (("internals",), ("training", "sweep", "job"), ("resume",))
"""Parts that share a cluster, and so one process of tests."""
BESIDE = {
    "RAY_raylet_start_wait_time_s": "150",
    "RAY_DASHBOARD_SUBPROCESS_MODULE_WAIT_READY_TIMEOUT": "150",
    "SS4REC_TEST_PORTS": "40",
}
"""Beside other work Ray's own processes need longer to start than it gives them, and the tests ports of their own."""
TIMEOUT_S = 1200


def make_environment(version: str, folder: Path) -> Path:
    """Make an environment with Ray `version` on top of this one, if it is not there; return its Python."""
    home = folder / version
    python = home / "bin" / "python"
    if not (home / "complete").exists():
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(home)], check=True)
        packages = next(home.glob("lib/python*/site-packages"))
        below = [path for path in site.getsitepackages() if Path(path).is_dir()]
        # Packages of the environment itself come first; `addsitedir` also reads the .pth files of those below.
        lines = [f"import site; site.addsitedir({path!r})" for path in below]
        (packages / "below.pth").write_text("\n".join(lines) + "\n")
        pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet"]
        subprocess.run([*pip, "--no-deps", "--ignore-installed", f"ray=={version}"], check=True)
        (home / "complete").touch()
    code = "import ray; print(ray.__version__, ray.__file__)"
    found = subprocess.run(
        [str(python), "-c", code], check=True, capture_output=True, text=True
    ).stdout.split()
    if found[0] != version or not Path(found[1]).is_relative_to(home):
        raise SystemExit(f"wanted Ray {version} in {home}, got {found[0]} from {found[1]}; remove the folder")
    return python


def run_parts(python: Path, parts: Sequence[str], tell: Callable[[str], None]) -> tuple[set[str], str]:
    """Run the tests of some parts in one process.

    Args:
        python: of the environment.
        parts: names in `PARTS`.
        tell: gets each part that has passed, as soon as it has.

    Returns:
        The parts that have passed, and the end of what was printed.
    """
    tests = [test for part in parts for test in PARTS[part]]
    command = [str(python), "-m", "pytest", "-v", "-p", "no:cacheprovider", *tests]
    path = os.pathsep.join([str(python.parent), os.environ["PATH"]])
    environment = os.environ | BESIDE | {"PATH": path, "PYTHONPATH": str(ROOT)}
    lines: list[str] = []
    ends: list[tuple[str, str]] = []
    good: set[str] = set()
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with subprocess.Popen(command, cwd=ROOT, env=environment, **pipes) as process:
        limit = Timer(TIMEOUT_S, process.kill)
        limit.start()
        for line in process.stdout or ():
            lines.append(line)
            if found := re.match(r"(\S+::\S+) (PASSED|FAILED|ERROR)", line):
                ends.append((found[2], found[1]))
            over = re.match(r"=+ .* in [\d.]+s.* =+$", line) is not None
            for part in parts:
                # Of a whole file more tests may come.
                named = all("::" in test for test in PARTS[part])
                if part not in good and (named or over) and passed(PARTS[part], ends):
                    good.add(part)
                    tell(part)
        limit.cancel()
    return good, "".join(lines)[-3000:]


def passed(tests: Sequence[str], ends: Sequence[tuple[str, str]]) -> bool:
    """Return whether each of these tests (or files) has passed, and none of them has failed.

    Args:
        tests: ids of tests, or files.
        ends: (PASSED, FAILED or ERROR; id of a test) of each test that ran.
    """

    def of(test: str) -> list[str]:
        return [end for end, name in ends if name == test or name.startswith(f"{test}::")]

    return all(of(test) and set(of(test)) == {"PASSED"} for test in tests)


def run_version(version: str, folder: Path, parts: list[str], go_on: bool) -> dict[str, Any]:
    """Run all parts with one version, or those that have not passed yet; return a row of the table."""
    python = make_environment(version, folder)
    journal = Journal(folder / "parts.jsonl")
    commits = {row["part"]: row["commit"] for row in journal.rows() if go_on and row["ray"] == version}
    row: dict[str, Any] = {"ray": version, "commits": commits} | dict.fromkeys(parts, "passed")
    for group in GROUPS:
        wanted = [part for part in group if part in parts and part not in commits]
        if not wanted:
            continue
        began = time.perf_counter()

        def tell(part: str, began: float = began) -> None:
            commits[part] = git_commit()
            journal.append({"ray": version, "part": part, "commit": commits[part]})
            print(f"ray {version:8s}{part:12s}passed after {time.perf_counter() - began:.0f} s", flush=True)

        good, text = run_parts(python, wanted, tell)
        for part in sorted(set(wanted) - good):
            row[part] = "failed"
            print(f"ray {version:8s}{part:12s}failed", flush=True)
        if set(wanted) - good:
            print(text, flush=True)
    row["commits"] = {part: commits.get(part) for part in parts}
    row["passed"] = all(row[part] == "passed" for part in parts)
    return row


def main() -> int:
    """Run what the command line asks for, print the table and write the record."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("versions", nargs="*", default=list(VERSIONS))
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--work", type=Path, help="keep the environments here and take them from here")
    parser.add_argument("--go-on", action="store_true", help="leave out what passed in an earlier call")
    parser.add_argument("--out", type=Path, help="write a record ray_versions-YYYYMMDD.json into this folder")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = (options.work or Path(scratch)).resolve()
        rows = [run_version(version, folder, options.parts, options.go_on) for version in options.versions]
    print("\n| Ray | " + " | ".join(options.parts) + " |\n|---|" + "---|" * len(options.parts))
    for row in rows:
        print(f"| {row['ray']} | " + " | ".join(row[part] for part in options.parts) + " |")
    good = sum(row["passed"] for row in rows)
    if options.out and options.parts == list(PARTS) and options.versions == list(VERSIONS):
        from benchmarks.record import headline, write_record

        lines = [headline("ray.versions_passed", good, "versions", len(VERSIONS))]
        print(write_record("ray_versions", rows, lines, options.out, device="CPU"))
    return int(good < len(rows))


if __name__ == "__main__":
    sys.exit(main())
