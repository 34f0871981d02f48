"""Checkpoints that are written beside the steps: nothing waits, nothing is lost, nothing is hidden."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from ss4rec.errors import CheckpointError
from ss4rec.runs import checkpoint
from ss4rec.train.loop import TrainLoop
from ss4rec.train.saver import HostCopy, Saver
from tests.faults.small import equal, last_checkpoint, small, train

BESIDE = {"train.checkpoint_every_s": 1e-9, "train.keep_checkpoints": 2}
"""A checkpoint after each step, as with 0, but none that is waited for."""

DRIVER = """
import os, signal, sys, time
from pathlib import Path
import tests.conftest
from ss4rec.runs import checkpoint
from ss4rec.train.loop import TrainLoop
from tests.faults.small import small, train
honest, step, calls, steps = checkpoint.save_file, TrainLoop._train_step, [], []

def half(tensors, path):
    calls.append(path)
    honest(tensors, path)
    if len(calls) == 9:  # the model of the fifth checkpoint
        path.write_bytes(path.read_bytes()[:100])
        while len(steps) < 6:  # training goes on meanwhile
            time.sleep(0.01)
        time.sleep(0.5)
        if len(steps) > 6:  # one checkpoint is written at a time
            os._exit(3)
        os.kill(os.getpid(), signal.SIGKILL)

def counted(self, batch):
    step(self, batch)
    steps.append(self.global_step)

checkpoint.save_file, TrainLoop._train_step = half, counted
train(Path(sys.argv[1]), Path(sys.argv[2]), small(**{"train.checkpoint_every_s": 1e-9, "train.keep_checkpoints": 2}))
"""


def test_killed_while_a_checkpoint_is_written_beside_a_step(prepared, tmp_path):
    """The half checkpoint is swept away, training continues from the one before, and ends with the same bits.

    Seen to fail: with `saver.wait()` left out of `resume.save` steps go on and two threads write at the same time.
    """
    run = tmp_path / "run"
    command = [sys.executable, "-c", DRIVER, str(prepared), str(run)]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    killed = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert killed.returncode == -9, killed.stderr[-2000:]
    assert list((run / "checkpoints").glob(".writing-*"))
    assert last_checkpoint(run).global_step == 4
    train(prepared, run, small(**BESIDE))
    train(prepared, tmp_path / "whole", small(**BESIDE))
    assert equal(run, tmp_path / "whole")
    assert not list((run / "checkpoints").glob(".*"))


def test_steps_go_on_while_a_checkpoint_is_written(prepared, tmp_path, monkeypatch):
    """Seen to fail: with a wait after every save the step below never comes."""
    written, done = [], threading.Event()
    honest_save, honest_step = checkpoint.save, TrainLoop._train_step

    def slow(folder, **parts):
        step = parts["state"]["global_step"]
        if step == 2:
            assert done.wait(600), "no step was taken while this checkpoint was written"
        written.append(step)
        return honest_save(folder, **parts)

    def counted(self, batch):
        honest_step(self, batch)
        if self.global_step == 3:
            done.set()

    monkeypatch.setattr(checkpoint, "save", slow)
    monkeypatch.setattr(TrainLoop, "_train_step", counted)
    outcome = train(prepared, tmp_path / "run", small(**BESIDE))
    monkeypatch.undo()
    assert written == sorted(written)
    assert last_checkpoint(tmp_path / "run").global_step == outcome.global_step
    train(prepared, tmp_path / "plain", small())
    assert equal(tmp_path / "run", tmp_path / "plain")


def test_a_disk_that_fills_up_beside_the_steps_ends_training(prepared, tmp_path, monkeypatch):
    """Seen to fail: with `look` and `wait` that do not raise, training goes on without checkpoints."""
    monkeypatch.setattr(checkpoint, "PAUSE_S", 0.0)
    honest, calls = checkpoint.save_file, []

    def full(*arguments):
        calls.append(1)
        if len(calls) > 6:
            raise OSError(28, "No space left on device")
        honest(*arguments)

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(CheckpointError, match=r"3 attempts.*No space left.*it continues"):
        train(prepared, tmp_path / "run", small(**BESIDE))
    assert last_checkpoint(tmp_path / "run").global_step == 3


def test_copies_are_kept_and_are_no_views():
    """Seen to fail: with `kept = tensor` the next step changes what is being written."""
    copy, weight = HostCopy(), torch.ones(3, 2).T
    first = copy({"w": weight}, "model.")["w"]
    weight += 1
    assert torch.equal(first, torch.ones(2, 3))
    assert first.is_contiguous()
    again = copy({"w": weight}, "model.")["w"]
    assert again.data_ptr() == first.data_ptr()
    assert copy({"w": torch.ones(5)}, "model.")["w"].shape == (5,)
    assert copy({"w": torch.zeros(5)}, "raw.")["w"].sum() == 0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_copy_from_a_card_is_of_the_step_that_asked(monkeypatch):
    """Steps that are queued behind the copy do not change it.

    Seen to fail: not yet; no card was there.
    """
    copy, weight = HostCopy(), torch.zeros(1 << 24, device="cuda")
    copies = copy({"w": weight}, "model.")
    for _ in range(20):
        weight += 1
    copy.ready()
    assert copies["w"].is_pinned()
    assert not copies["w"].any()
    monkeypatch.setattr("ss4rec.train.saver.MOST_LOCKED", 0)
    assert not HostCopy()({"w": weight}, "model.")["w"].is_pinned()


def test_an_error_is_raised_once_where_it_is_asked_for():
    saver, gate, said = Saver(), threading.Event(), []

    def work():
        gate.wait()
        raise CheckpointError("full")

    saver.start(work)
    saver.look()  # still at work
    gate.set()
    with pytest.raises(CheckpointError, match="full"):
        saver.wait()
    saver.look()
    saver.start(work)
    saver.finish(said.append)
    assert said == ["warning: full"]
