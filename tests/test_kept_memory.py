"""A worker that keeps freed memory takes each page from the system once."""

import subprocess
import sys

import pytest

PROGRAM = """
import resource
import numpy as np
from ss4rec.io.kept_memory import keep_freed_memory

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

if {keep}:
    assert keep_freed_memory()
before = faults()
for _ in range(10):
    np.empty(1 << 23).fill(1.0)  # 64 MiB
print(faults() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="mallopt is glibc's")
def test_pages_of_large_blocks_are_taken_once():
    found = [
        int(subprocess.run([sys.executable, "-c", PROGRAM.format(keep=keep)], capture_output=True, text=True,
                           check=True, timeout=120).stdout)
        for keep in (False, True)
    ]  # fmt: skip
    assert found[1] < found[0] / 3
