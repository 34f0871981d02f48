"""The split of `make test` and `make test-all` names tests that exist; files that share a cluster start none."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

from tools.test_costs import costs

ROOT = Path(__file__).parents[1]


def test_every_slow_test_exists():
    lines = (ROOT / "tests" / "slow.tsv").read_text().splitlines()
    for line in (line for line in lines if not line.startswith("#")):
        path, _, name = line.partition("\t")[2].partition("::")
        assert re.search(rf"def {name.rpartition('::')[2]}\(", (ROOT / path).read_text()), line


def test_costs_are_of_functions_over_their_cases():
    lines = ["1.5\ttests/a.py::test_x[1]", "2\ttests/a.py::test_x[2]", "0.25\ttests/a.py::test_y"]
    assert costs(lines) == {"tests/a.py::test_x": 3.5, "tests/a.py::test_y": 0.25}


def test_no_test_waits_for_a_clock():
    """`tests.progress.until` waits for progress; a machine with other work to do needs longer than any number here."""
    clock = re.compile(r"(monotonic|perf_counter|time)\(\) [<>]|(wait|join)\((timeout=)?[1-9][0-9]?(\.0)?\)")
    for path in sorted(ROOT.glob("tests/**/*.py")):
        for number, line in enumerate(path.read_text().splitlines(), 1):
            assert not clock.search(line), f"{path.name}:{number}: {line.strip()}"


def dry(*words):
    """Return the commands that `make` would run."""
    # `make` hands its own options and variables on to the tests that it runs.
    mine = ("MAKE", "MFLAGS", "SLOW", "TWICE", "ALONE", "VENV")
    env = {name: value for name, value in os.environ.items() if not name.startswith(mine)}
    command = ["make", "-n", *words]
    return subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, check=True, env=env
    ).stdout.splitlines()


def test_ci_runs_all_checks_kernels_and_tests():
    told = dry("ci")
    for target in ("check", "test-kernels", "test-all"):
        runs = [line for line in dry(target) if line.startswith((".venv", "TRITON", "PYTHONPATH"))]
        assert len(runs) >= 2
        for run in runs:
            assert any(line.startswith(run) for line in told), run


def test_make_test_all_runs_every_file_once():
    runs = [line for line in dry("test-all") if "pytest" in line]
    fast = [line for line in runs if '"not ray' in line]
    assert len(fast) == 2
    assert all(f"--ignore={folder}" in fast[1] for folder in fast[0].split(' "not ray ')[1].split()[1:])
    with_ray = " ".join(line for line in runs if '"not ray' not in line).split()
    marked = subprocess.run(
        ["grep", "-rl", "mark" + ".ray", "tests", "--include=test_*.py"],
        capture_output=True,
        text=True,
        cwd=ROOT,
    ).stdout.split()
    assert {path: with_ray.count(path) for path in marked} == dict.fromkeys(marked, 1)


def test_files_that_share_a_cluster_start_none():
    shared = subprocess.run(
        ["grep", "-rl", "small_" + "cluster", "tests", "--include=test_*.py"],
        capture_output=True,
        text=True,
        cwd=ROOT,
    ).stdout.split()
    assert len(shared) >= 5
    for path in set(shared):
        text = (ROOT / path).read_text()
        assert "ray.init(" not in text, path
        assert "ray.shutdown(" not in text, path
