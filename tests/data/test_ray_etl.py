"""Preparation on Ray: same bytes as in this process, results in order, and a killed driver's work is not lost."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from ss4rec.data.prepare import engine
from ss4rec.data.prepare.engine import prepare
from ss4rec.data.prepare.ray_map import ray_map
from ss4rec.errors import DataError
from tests.data.reference import content
from tests.progress import until

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("small_cluster")]


@pytest.fixture(scope="module", params=["by user", "shuffled"])
def ratings(request, tmp_path_factory):
    rng = np.random.default_rng(0)
    rows = [
        f"{user},{item},4.0,{10**9 + int(rng.integers(0, 9999))}\n"
        for user in range(1, 400)
        for item in rng.choice(300, 60, replace=False)
    ]
    if request.param == "shuffled":
        rng.shuffle(rows)
    path = tmp_path_factory.mktemp("in") / "ratings.csv"
    path.write_text("userId,movieId,rating,timestamp\n" + "".join(rows))
    return path


def test_same_bytes_after_a_kill(tmp_path, ratings, monkeypatch):
    options = {"rows_per_shard": 37, "block_bytes": 20_000}
    prepare(ratings, tmp_path / "one", rows_per_shard=37)
    monkeypatch.setattr(engine, "WHOLE_BYTES", 0)
    # The same job in a process of its own, slowed down, killed once some blocks stand.
    code = (
        "import sys, time; from pathlib import Path; from ss4rec.data.prepare import engine\n"
        "engine.WHOLE_BYTES = 0\n"
        "def slow(function, items):\n"
        "    for item in items:\n"
        "        time.sleep(0.05); yield function(item)\n"
        f"engine.prepare(Path({str(ratings)!r}), Path({str(tmp_path / 'ray')!r}), mapper=slow, **{options})"
    )
    process = subprocess.Popen([sys.executable, "-c", code])
    work = tmp_path / ".ray.work"
    until(lambda: list(work.glob("*/*")), process)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "ray").exists()
    told = []
    prepare(ratings, tmp_path / "ray", mapper=ray_map, progress=told.append, **options)
    assert told[0].startswith("going on")
    assert content(tmp_path / "ray") == content(tmp_path / "one")
    assert not work.exists()


def test_a_stopped_job_leaves_nothing_and_no_task_that_still_writes(tmp_path, ratings, monkeypatch):
    monkeypatch.setattr(engine, "WHOLE_BYTES", 0)
    monkeypatch.setattr(engine, "PARTITION_BYTES", 100_000)

    def stopped(function, items):
        def some():
            for number, item in enumerate(items):
                if number == 3:
                    raise KeyboardInterrupt
                yield item

        yield from ray_map(function, some())

    with pytest.raises(KeyboardInterrupt):
        prepare(ratings, tmp_path / "new" / "out", block_bytes=20_000, mapper=stopped)
    for _ in range(10):
        assert list(tmp_path.iterdir()) == []
        time.sleep(0.1)


def test_results_come_in_order_and_a_long_task_holds_up_no_other(tmp_path):
    def first_waits_for_last(number):
        if number == 19:
            (tmp_path / "last").touch()
        while number == 0 and not (tmp_path / "last").exists():
            time.sleep(0.01)
        return number * number

    assert list(ray_map(first_waits_for_last, iter(range(20)))) == [number * number for number in range(20)]


def test_errors_come_as_they_are():
    def refuse(number):
        raise DataError(f"row {number}")

    with pytest.raises(DataError, match=r"^row 3$"):
        list(ray_map(refuse, [3]))
