"""What workers print: noise of good runs is dropped, a real error is shown whole."""

import pytest

from ss4rec.cluster import worker_lines

GONE = """Exception ignored in atexit callback: <function _start_and_connect_service.<locals>.teardown_atexit at 0x7f>
Traceback (most recent call last):
  File "/x/site-packages/wandb/sdk/lib/service/service_connection.py", line 79, in teardown_atexit
    conn.teardown(hooks.exit_code)
           ^^^^^^^^^^
^^^^^^^^^
  File "/x/asyncio/streams.py", line 166, in _drain_helper
    raise ConnectionResetError('Connection lost')
ConnectionResetError: Connection lost"""
REAL = """Traceback (most recent call last):
  File "/x/site-packages/wandb/sdk/wandb_run.py", line 1, in log
    ^^^^
ValueError: no such metric"""


@pytest.fixture
def take(monkeypatch):
    """Return how lines of a worker are taken."""
    taken = []
    monkeypatch.setattr(worker_lines.ray_private, "route_worker_lines", taken.append)
    worker_lines.show_worker_lines()
    return lambda text: taken[0]({"lines": text.splitlines(), "is_err": True, "ip": "a", "pid": 1})


def test_the_end_of_a_trial_that_wandb_notices_is_not_shown(take):
    assert take(GONE) is None


@pytest.mark.parametrize("text", [REAL, GONE.replace("/wandb/", "/ours/"), "MemoryError: x"])
def test_a_real_error_is_shown_whole(take, text):
    assert take(text)["lines"] == text.splitlines()


def test_the_next_line_is_shown_again(take):
    assert take(GONE + "\nwarning: the disk is full")["lines"] == ["warning: the disk is full"]


NOISY = (
    "core_worker.cc:2465 Actor with class name: 'PreemptionWatcher' has constructor arguments in the object store",
    "Actor with class name: 'MapWorker(_Ranker)' and ID: 'a' has constructor arguments in the object store and",
    "WARNING: 4 PYTHON worker processes have been started on node: 1 with address: 10.0.0.1.",
    "Failed to query Ray Train Controller actor state. State API may be temporarily unavailable.",
    "WebSocket closed",
)
"""What good runs showed to a newcomer."""


@pytest.mark.parametrize("line", NOISY)
def test_a_line_of_good_runs_is_not_shown(take, line):
    """Seen to fail: with its pattern taken out of `NOISE`."""
    assert take(line) is None
    assert take(f"{line}\nRuntimeError: CUDA error")["lines"] == ["RuntimeError: CUDA error"]
