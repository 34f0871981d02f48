"""The check of installed packages against the lock."""

import runpy
from pathlib import Path

AUDIT = runpy.run_path(str(Path(__file__).parents[1] / "scripts/audit.py"))


def test_differences_from_the_lock():
    """Seen to fail: without the comparison of versions; without the look at the lock."""
    lock = AUDIT["locked"]("# words\nTorch==2.13.0\ntyping_extensions==4.1  # why\n")
    fine = {"torch": "2.13.0+cpu", "typing-extensions": "4.1", "pip": "99", "nvidia-nccl-cu13": "2"}
    assert AUDIT["differences"](lock, fine) == []
    found = AUDIT["differences"](lock, {"torch": "2.14.0", "stranger": "1"})
    assert found == [
        "stranger 1 is installed and not in constraints.txt",
        "torch 2.14.0 is installed, constraints.txt has 2.13.0",
    ]
