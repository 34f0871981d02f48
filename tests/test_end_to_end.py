"""The main jobs as a user runs them: a real head, `ray job submit`, two CPU workers, a sweep, and a user's error.

`make test` runs this file of all those with Ray.
"""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
RAY = str(Path(sys.executable).parent / "ray")
PORT, DASHBOARD = 26379, 28265
pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def head(tmp_path_factory):
    """A head on loopback with four logical CPUs, stopped by its own pid."""
    environment = os.environ | {"RAY_AUTH_MODE": "token", "HOME": str(tmp_path_factory.mktemp("home"))}
    subprocess.run([RAY, "get-auth-token", "--generate"], env=environment, check=True, capture_output=True)
    command = [
        RAY,
        "start",
        "--head",
        "--block",
        "--num-cpus=4",
        "--node-ip-address=127.0.0.1",
        f"--port={PORT}",
    ]
    command += ["--include-dashboard=true", "--dashboard-host=127.0.0.1", f"--dashboard-port={DASHBOARD}"]
    command += [
        "--dashboard-agent-listen-port=28366",
        "--ray-client-server-port=20001",
        "--disable-usage-stats",
    ]
    command += [f"--temp-dir=/tmp/ss4rec-{os.getpid()}"]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 90
    while not _answers():
        assert process.poll() is None, "ray start ended"
        assert time.monotonic() < deadline, "the dashboard does not answer"
        time.sleep(0.5)  # a server's start can only be polled
    yield environment | {"RAY_ADDRESS": f"http://127.0.0.1:{DASHBOARD}"}
    process.send_signal(signal.SIGTERM)
    process.wait(timeout=60)


def _answers() -> bool:
    try:
        urllib.request.urlopen(f"http://127.0.0.1:{DASHBOARD}/api/version", timeout=2)
    except urllib.error.HTTPError:
        return True  # 401: it asks for the token
    except OSError:
        return False
    return True


def submit(environment, *arguments):
    command = [
        RAY,
        "job",
        "submit",
        "--working-dir",
        str(ROOT),
        "--",
        sys.executable,
        "-m",
        *map(str, arguments),
    ]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=420)


@pytest.mark.timeout(900)
def test_train_as_a_job_with_two_workers_then_evaluate(head, prepared, tmp_path):
    data = ("--data", prepared, "--storage", tmp_path, "--name", "job")
    options = ("--preset", "debug", "--workers", "2", "--set", "train.epochs=1")
    answer = submit(head, "ray_jobs.train", *data, *options)
    assert answer.returncode == 0, answer.stdout[-3000:] + answer.stderr[-2000:]
    run = tmp_path / "job"
    result, record = (json.loads((run / name).read_text()) for name in ("result.json", "record.json"))
    assert record["workers"] == 2
    assert record["backends"]["relation"] == "reference"
    assert (
        result["test"]["model"]["num_users"] == json.loads((prepared / "manifest.json").read_text())["users"]
    )
    answer = submit(head, "ray_jobs.evaluate", "--run", run, "--data", prepared, "--json")
    assert answer.returncode == 0, answer.stdout[-3000:]
    printed = next(json.loads(line) for line in answer.stdout.splitlines() if line.startswith("{"))
    assert printed["model"] == result["test"]["model"]


@pytest.mark.timeout(900)
def test_a_sweep_as_a_job_names_its_best_trial(head, prepared, tmp_path):
    space = tmp_path / "space.py"
    space.write_text(
        "from optuna.distributions import FloatDistribution\n"
        "from tuning.space import SearchSpace\n\n"
        "FIXED = {'train.epochs': 1, 'tracking.wandb': 'disabled'}\n"
        "LR = FloatDistribution(1e-3, 1e-2, log=True)\n"
        "SPACE = SearchSpace(base='debug', fixed=FIXED, parameters={'optim.lr': LR})\n"
    )
    options = (
        "--data",
        prepared,
        "--space",
        space,
        "--storage",
        tmp_path,
        "--name",
        "sweep",
        "--trials",
        "2",
    )
    answer = submit(head, "ray_jobs.tune", *options, "--json")
    assert answer.returncode == 0, answer.stdout[-3000:] + answer.stderr[-2000:]
    summary = json.loads((tmp_path / "sweep" / "sweep.json").read_text())
    assert summary["trials"]["complete"] == 2
    best = json.loads((tmp_path / "sweep" / "best.json").read_text())
    assert 1e-3 <= best["config"]["optim"]["lr"] <= 1e-2


def test_a_users_error_ends_the_job_with_one_sentence(head, tmp_path):
    answer = submit(head, "ray_jobs.train", "--data", tmp_path / "nothing", "--preset", "debug")
    assert answer.returncode != 0
    assert "error: no data folder" in answer.stdout
    assert "exit code 2" in answer.stdout
    assert "Traceback" not in answer.stdout
