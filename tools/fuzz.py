"""Coverage-guided fuzzing of the readers and parsers: atheris drives the tests of `test_fuzz.py`.

    pip install atheris
    python -m tools.fuzz --minutes 5 [TEST ...]

Each test gets a process of its own, in which our packages are instrumented; the bytes that atheris invents decide what
Hypothesis draws. Prints a line a test; exit code 1 if one of them found anything but our own errors.
"""

from __future__ import annotations

import argparse
import random
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

TESTS = ("configuration", "assignments", "json_files", "metrics_lines", "checkpoints", "sources", "parquet")
INSTRUMENTED = [
    "ss4rec.runs.checkpoint",
    "ss4rec.config",
    "ss4rec.data",
    "ss4rec.io.untrusted",
    "ss4rec.runs.folder",
    "ss4rec.runs.load",
    "ss4rec.runs.record",
    "drift.config",
]


class Folders:
    """Stands for pytest's `tmp_path_factory`."""

    def __init__(self, base: Path) -> None:
        self.base = base

    def mktemp(self, name: str, numbered: bool = True) -> Path:
        """Return a new folder."""
        return Path(tempfile.mkdtemp(prefix=f"{name}-", dir=self.base))


def target(name: str, base: Path) -> Callable[[bytes], object]:
    """Return what runs a test on bytes."""
    from hypothesis import given
    from hypothesis import strategies as st

    from ss4rec.data.synth.generate import synth
    from tests.faults import test_fuzz
    from tests.faults.small import small, train

    test: Any = getattr(test_fuzz, f"test_{name}")
    if name == "assignments":
        return test.hypothesis.fuzz_one_input
    given_names = test.hypothesis.inner_test.__code__.co_varnames[
        : test.hypothesis.inner_test.__code__.co_argcount
    ]
    fixtures: dict[str, Any] = {
        "prepared": base / "data",
        "run": base / "run",
        "tmp_path_factory": Folders(base),
    }
    synth(base / "data", users=150, items=120, mean_len=26, seed=1)
    if "run" in given_names:
        train(base / "data", base / "run", small(**{"train.epochs": 1}))
    wanted = {key: value for key, value in fixtures.items() if key in given_names}

    @test_fuzz.fuzz
    @given(data=st.data())
    def bound(data: Any) -> None:
        test.hypothesis.inner_test(data, **wanted)

    return bound.hypothesis.fuzz_one_input


def fuzz_one(name: str, minutes: float) -> None:
    """Fuzz in this process, which ends with it."""
    import atheris

    with atheris.instrument_imports(include=INSTRUMENTED):
        import drift.config  # noqa: F401
        import ss4rec.data.batches.source
        import ss4rec.data.sources
        import ss4rec.data.split
        import ss4rec.runs.checkpoint
        import ss4rec.runs.folder
        import ss4rec.runs.load  # noqa: F401
    base = Path(tempfile.mkdtemp(prefix="ss4rec-fuzz-"))
    # Draws take hundreds of bytes and inputs that are too short end early: begin with long random ones.
    (base / "corpus").mkdir()
    for number in range(64):
        content = random.Random(number).randbytes(64 << (number % 7))
        (base / "corpus" / str(number)).write_bytes(content)
    options = [
        f"-max_total_time={60 * minutes:.0f}",
        "-max_len=4096",
        "-len_control=0",
        "-print_final_stats=1",
    ]
    options += ["-timeout=120", f"-artifact_prefix={base}/", str(base / "corpus")]
    atheris.Setup([sys.argv[0], *options], target(name, base))
    atheris.Fuzz()


def main() -> int:
    """Fuzz every test, each in its own process, and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("tests", nargs="*", metavar="TEST", help=f"of {', '.join(TESTS)}; default: all")
    parser.add_argument("--minutes", type=float, default=5.0, help="for each test")
    parser.add_argument("--here", action="store_true", help="in this process; of one test")
    options = parser.parse_args()
    if options.here:
        fuzz_one(options.tests[0], options.minutes)
    failed = False
    for name in options.tests or TESTS:
        command = [sys.executable, "-m", "tools.fuzz", name, "--here", f"--minutes={options.minutes}"]
        answer = subprocess.run(command, capture_output=True, text=True)
        told = answer.stdout + answer.stderr
        inputs = re.search(r"number_of_executed_units: (\d+)", told)
        edges = re.findall(r"cov: (\d+)", told)
        failed |= answer.returncode != 0
        verdict = "nothing found" if answer.returncode == 0 else "FAILED\n" + told[-4000:]
        print(
            f"{name}: {inputs[1] if inputs else '?'} inputs, {edges[-1] if edges else '?'} edges, {verdict}",
            flush=True,
        )
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
