"""The driver, and with it the head, is killed and the same command given again: row 6 of docs/reliability.md."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ss4rec.lease import LEASE_FILE
from tests.faults.small import equal, last_checkpoint, small, train

pytestmark = [pytest.mark.ray, pytest.mark.timeout(580)]

DRIVER = """
import sys
from pathlib import Path
import tests.conftest
from ss4rec.train import ray_backend, run
from tests.faults.inject import Fault, with_faults
from tests.faults.small import small
data, run_dir, flags = map(Path, sys.argv[1:])
ray_backend._work = with_faults(ray_backend._work, [Fault("gate", 0, 7)], flags)
config = small(**{"evaluation.at_end": False})
print(run.train(config, data, run_dir, address="local")["training"])
"""


def start(prepared, run, flags):
    """Start a driver with a Ray of its own, in a process group of its own."""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", DRIVER, str(prepared), str(run), str(flags)]
    return subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def test_same_command_continues_after_the_driver_was_killed(prepared, tmp_path):
    """Row 6: SIGKILL of the driver in the middle of an epoch; its Ray goes with it. The same command again ends
    with the bits of a run that nothing stopped, without waiting for the dead one's lease.

    Would fail with the comparison of process and start time left out of `_wait_for_death`, where the second command is
    refused; not run without it (tests/faults/test_checkpoints.py shows that guard).
    """
    run, flags = tmp_path / "run", tmp_path / "flags"
    flags.mkdir()
    first = start(prepared, run, flags)
    while not (flags / "gate-0-7").exists():  # the worker stands before step 7
        assert first.poll() is None, first.stdout.read()
        time.sleep(0.1)  # a file of another process
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    assert last_checkpoint(run).global_step == 7
    assert (run / LEASE_FILE).exists()
    second = start(prepared, run, flags)
    told, _ = second.communicate(timeout=400)
    assert second.returncode == 0, told[-3000:]
    assert "continuing run at epoch 2, step 2" in told
    train(prepared, tmp_path / "whole", small(**{"evaluation.at_end": False}))
    assert equal(run, tmp_path / "whole")
    assert not (run / LEASE_FILE).exists()
