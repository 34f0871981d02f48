"""Ctrl-C and SIGTERM, once and twice: what is to be finished is finished, one line, exit 130.

A training that goes on where it was stopped is in tests/test_end_to_end.py.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from ss4rec.config import override
from ss4rec.errors import ConfigError
from ss4rec.presets import preset
from ss4rec.runs.folder import RunFolder
from ss4rec.runs.lease import Writer, hold
from ss4rec.train.notice import NOTICE_FILE, stop_in_order

ROOT = Path(__file__).parents[2]
VERB = """
import sys, time
import click
from ss4rec.cli import run
from ss4rec.interrupt import finish_first

@click.command()
@click.argument("finish_s", type=float)
def verb(finish_s):
    def finish():
        print("finishing", flush=True)
        time.sleep(finish_s)
        return "all is saved"
    if finish_s < 0:
        print("begun", flush=True)
        time.sleep(60)
    with finish_first(finish):
        print("begun", flush=True)
        time.sleep(60)

run(verb, sys.argv[1:])
"""


def start(*words, **options):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, *map(str, words)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def end(process):
    out, err = process.communicate(timeout=600)
    return process.returncode, out, err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_what_is_to_be_finished_is_finished(number):
    process = start("-c", VERB, "0.2")
    assert process.stdout.readline() == "begun\n"
    process.send_signal(number)
    assert end(process) == (130, "finishing\n", "\nall is saved\n")


def test_a_verb_with_nothing_to_finish_stops_where_it_is():
    process = start("-c", VERB, "--", "-1")
    assert process.stdout.readline() == "begun\n"
    process.send_signal(signal.SIGTERM)
    assert end(process) == (130, "", "\nstopped\n")


def test_the_second_signal_ends_at_once():
    process = start("-c", VERB, "50")
    assert process.stdout.readline() == "begun\n"
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "finishing\n"
    process.send_signal(signal.SIGINT)
    assert end(process) == (130, "", "ended at once\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_preparing_leaves_nothing_behind(number, tmp_path):
    rows = "".join(f"{row % 5000},{row % 700},{10**9 + row}\n" for row in range(400_000))
    (tmp_path / "rows.csv").write_text("user,item,time\n" + rows)
    process = start(
        "-m", "ss4rec.cli", "data", "prepare", "--source", "rows.csv", "--out", "new/out", cwd=tmp_path
    )
    while not [path for path in tmp_path.iterdir() if path.name != "rows.csv"]:
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(number)
    code, out, err = end(process)
    assert (code, out, err.split()) == (130, "", ["stopped"])
    assert [path.name for path in tmp_path.iterdir()] == ["rows.csv"]


@pytest.fixture
def run_dir(tmp_path):
    (tmp_path / "run/checkpoints/step-00000004").mkdir(parents=True)
    return tmp_path / "run"


def test_a_stop_waits_for_the_checkpoint_of_this_moment(run_dir, capsys):
    with hold(run_dir) as attempt:
        assert stop_in_order([run_dir]) == "stopped before the first step"
        Writer(run_dir, attempt)

        def worker():
            while not (run_dir / NOTICE_FILE).exists():
                time.sleep(0.01)
            (run_dir / "checkpoints/step-00000007").mkdir()
            (run_dir / "checkpoints/step-00000004").rmdir()

        thread = threading.Thread(target=worker)
        thread.start()
        assert stop_in_order([run_dir]) == "stopped; the same command continues at step 7"
        thread.join()
    assert "writing a checkpoint of this step; Ctrl-C again ends at once" in capsys.readouterr().err


def test_a_stop_says_so_if_no_checkpoint_comes(run_dir):
    now = [0.0]

    def sleep(seconds):
        now[0] += seconds

    with hold(run_dir) as attempt:
        Writer(run_dir, attempt)
        said = stop_in_order([run_dir], wait_s=20, clock=lambda: now[0], sleep=sleep)
    assert said == "stopped; the same command continues at step 4 (no newer checkpoint came within 20 s)"
    assert now[0] == pytest.approx(20, abs=0.2)


def test_more_epochs_continue_a_run_that_has_ended(prepared, tmp_path):
    """Nothing else may change; fewer epochs are another run."""
    import torch

    from ss4rec.train.worker import train_alone

    config = override(preset("debug"), {"train.epochs": 1, "tracking.wandb": "disabled"})
    first = train_alone(config, prepared, tmp_path / "run", torch.device("cpu"))
    longer = override(config, {"train.epochs": 3})
    second = train_alone(longer, prepared, tmp_path / "run", torch.device("cpu"))
    assert (first.epochs, second.epochs) == (1, 3)
    assert second.global_step == 3 * first.global_step
    folder = RunFolder(tmp_path / "run")
    assert folder.config().train.epochs == 3
    assert [row["epoch"] for row in folder.metrics() if row["kind"] == "epoch"] == [1, 2, 3]
    for changes in ({"train.epochs": 2}, {"train.epochs": 4, "optim.lr": 0.1}):
        with pytest.raises(ConfigError, match="another configuration"):
            train_alone(override(longer, changes), prepared, tmp_path / "run", torch.device("cpu"))
    third = train_alone(
        override(longer, {"train.epochs": 4}), prepared, tmp_path / "run", torch.device("cpu")
    )
    assert third.epochs == 4
