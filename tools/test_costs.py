"""What each test costs, and which ones `make test` can leave out: the split lies in tests/slow.tsv.

    python -m pytest -q -p tools.test_costs -m "not ray" tests      writes build/test_costs.tsv
    python -m tools.test_costs [MIN_SECONDS]                        writes tests/slow.tsv from it

Seconds are those of the CPU, of the test and the processes that it ended: they hardly depend on what else runs.
"""

from __future__ import annotations

import os
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
COSTS = ROOT / "build" / "test_costs.tsv"
SLOW = ROOT / "tests" / "slow.tsv"
MIN_S = 5.0
"""A test function, over all its cases, that takes at least this long is left out."""


def _cpu_s() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> Iterator[Any]:
    """Note what a test costs."""
    before = _cpu_s()
    result = yield
    COSTS.parent.mkdir(exist_ok=True)
    with COSTS.open("a") as file:
        file.write(f"{_cpu_s() - before:.2f}\t{item.nodeid}\n")
    return result


def costs(lines: list[str]) -> dict[str, float]:
    """Return the seconds of each test function, over its cases."""
    found: dict[str, float] = defaultdict(float)
    for line in lines:
        seconds, _, node = line.partition("\t")
        found[node.partition("[")[0]] += float(seconds)
    return found


def main(arguments: list[str]) -> None:
    """Write the split."""
    limit = float(arguments[0]) if arguments else MIN_S
    head = [line for line in SLOW.read_text().splitlines() if line.startswith("#")]
    found = costs(COSTS.read_text().splitlines())
    slow = sorted((node, seconds) for node, seconds in found.items() if seconds >= limit)
    SLOW.write_text("\n".join([*head, *(f"{seconds:.0f}\t{node}" for node, seconds in slow)]) + "\n")
    left = sum(seconds for seconds in found.values() if seconds < limit)
    print(f"{len(slow)} of {len(found)} left out; {left:.0f} of {sum(found.values()):.0f} s of CPU stay")


if __name__ == "__main__":
    main(sys.argv[1:])
