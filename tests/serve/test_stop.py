"""Ctrl-C in a server: while it serves, while its model is loaded, and while torch is imported: exit code 130."""

import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import pytest

pytest.importorskip("uvicorn", reason="ss4rec[serve] is not installed")

from ss4rec.interrupt import EXIT_CODE, interruptible
from ss4rec.serve import alone
from ss4rec.serve.haproxy import _free_ports
from ss4rec.serve.settings import ServeSettings

ROOT = Path(__file__).parents[2]
VERB = """
import signal, sys, threading, time, types
import click
from ss4rec.cli import run
from ss4rec.serve.gentle import gently

def work():
    time.sleep(1)
    print("the work came to its end", flush=True)

@click.command()
@click.argument("where")
def verb(where):
    threading.Timer(.3, lambda: signal.raise_signal(signal.SIGINT)).start()
    if where == "gently":
        gently(work)
    torch = types.ModuleType("torch")
    torch.__spec__ = types.SimpleNamespace(_initializing=True)
    sys.modules["torch"] = torch
    try:
        time.sleep(9)
    finally:
        print("an exception came into the import of torch", flush=True)

run(verb)
"""


def stopped(where):
    """Return exit code, output and last words of a verb that gets SIGINT while it is there."""
    words = [sys.executable, "-c", VERB, where]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stdout, done.stderr.strip()


def test_what_loads_gently_comes_to_its_end():
    """Seen to fail: with the thread joined, which Python 3.11 then leaves behind."""
    assert stopped("gently") == (EXIT_CODE, "the work came to its end\n", "stopped")


def test_nothing_is_raised_into_the_import_of_torch():
    """It is an abort there. Seen to fail: with the exception raised."""
    assert stopped("import") == (EXIT_CODE, "", "stopped")


def test_a_server_that_serves(service, monkeypatch):
    """Seen to fail: with `uvicorn.run`, which swallows the interruption: exit code 0."""
    closed = []

    class Follower:
        def close(self):
            closed.append("follower")

    monkeypatch.setattr(alone, "open_service", lambda settings: (service, Follower()))
    monkeypatch.setattr(service, "close", lambda: closed.append("service"))
    port = _free_ports(1)[0]

    def interrupt():
        for _ in range(200):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1).close()
                break
            except OSError:
                time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt), interruptible():
        alone.serve_alone(ServeSettings(run="there"), "127.0.0.1", port)
    assert closed == ["follower", "service"]
