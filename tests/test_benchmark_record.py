"""What a benchmark's record says of the command: nothing of one machine."""

from pathlib import Path

import pytest

from benchmarks import record

ROOT = Path(record.__file__).parents[1]


@pytest.mark.parametrize(
    ("argument", "told"),
    [
        ("--out", "--out"),
        ("data/ml-1m", "data/ml-1m"),
        (str(ROOT / "benchmarks/results"), "benchmarks/results"),
        ("/somewhere/else/venv", "venv"),
        ("VENV=/somewhere/else/venv", "VENV=venv"),
        (f"--out={ROOT}/benchmarks", "--out=benchmarks"),
        ("train.epochs=3", "train.epochs=3"),
    ],
)
def test_paths_of_one_machine_are_left_out(argument, told):
    assert record._without_machine(argument) == told
