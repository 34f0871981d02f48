"""`ss4rec recommend` on a Ray of its own: the driver is killed, then everything; the same command ends with the same
bytes."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from ss4rec.recommendations.job import recommend_run
from ss4rec.recommendations.options import RecommendOptions
from tests.recommend.conftest import content

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]


def start(*words):
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "RAY_AUTH_MODE": "disabled"}
    command = [sys.executable, "-m", "ss4rec.cli", *map(str, words)]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def killed_after(job, records, number, everything):
    """Kill a job, or it and all that it started, once there are more than `number` files; return how many there are."""
    while (found := len(list(records.glob("part-*")))) <= number:
        assert job.poll() is None, job.stdout.read()
        time.sleep(0.002)
    processes = psutil.Process(job.pid).children(recursive=True) if everything else []
    for process in (*processes, job):
        try:
            os.kill(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    job.wait()
    psutil.wait_procs(processes, timeout=30)
    return found


def test_the_driver_and_then_a_whole_ray_are_killed(run, sharded, tmp_path):
    out, records = tmp_path / "out", tmp_path / ".out.work" / "records"
    command = [
        "recommend",
        "--run",
        run,
        "--data",
        sharded.path,
        "--out",
        out,
        "--k",
        5,
        "--address",
        "local",
    ]
    number = 0
    for everything in (False, True):
        number = killed_after(start(*command), records, number, everything)
        assert 0 < number < 50
        assert not out.exists()
    last = start(*command)
    told, _ = last.communicate(timeout=300)
    assert last.returncode == 0, told
    assert "going on with" in told
    recommend_run(run, tmp_path / "right", sharded, RecommendOptions(k=5))
    assert content(out) == content(tmp_path / "right")
