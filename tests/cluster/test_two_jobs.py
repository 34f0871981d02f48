"""Two trainings on a head with two CPUs: each needs one for its worker and one for its data, and both finish.

Each took a CPU for its worker once, and both waited for ever for the one that their data need.
"""

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.progress import started
from tests.ray_head import begun

ROOT = Path(__file__).parents[2]
RAY = str(Path(sys.executable).parent / "ray")
PORT = 26495
pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]


@pytest.fixture
def environment(tmp_path):
    with tempfile.TemporaryDirectory(prefix="ss4rec-two-", dir="/tmp") as folder:
        clean = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
        clean |= {"RAY_TMPDIR": folder, "PYTHONPATH": str(ROOT), "RAY_AUTH_MODE": "disabled"}
        command = [
            RAY,
            "start",
            "--head",
            "--block",
            f"--port={PORT}",
            "--num-cpus=2",
            "--disable-usage-stats",
        ]
        command += [
            "--node-ip-address=127.0.0.1",
            "--include-dashboard=false",
            "--object-store-memory=100000000",
        ]
        head = started(lambda: begun(command, clean, tmp_path / "head.log"))
        yield clean
        head.send_signal(signal.SIGTERM)
        head.wait()


def test_both_finish(environment, prepared, tmp_path):
    def train(name):
        words = ["train", "--data", prepared, "--storage", tmp_path, "--name", name, "--preset", "debug"]
        words += ["--address", f"127.0.0.1:{PORT}", "--set", "train.epochs=1"]
        words += ["--set", "tracking.wandb=disabled", "--set", "evaluation.at_end=false"]
        return subprocess.Popen(
            [sys.executable, "-m", "ss4rec.cli", *map(str, words)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    jobs = [train("one"), train("two")]
    told = [job.communicate()[0] for job in jobs]
    assert [job.returncode for job in jobs] == [0, 0], "\n".join(told)
    assert all("training ended: all 1 epochs done" in text for text in told)
    assert all("1 of 2 CPUs reserved with them for Ray Data" in text for text in told)
