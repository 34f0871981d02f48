"""NaN, infinity and explosion; a peer that hangs; a notice before the end: rows 7, 16 and 17 of docs/reliability.md."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ss4rec.errors import NonFiniteError
from ss4rec.runs.folder import RunFolder
from ss4rec.train.loop import TrainLoop
from ss4rec.train.notice import NOTICE_FILE, NoticeFile, forget
from tests.faults.small import KilledError, equal, last_checkpoint, small, stop_before, train
from tests.group import run_pair

WORDS = {"nan": float("nan"), "inf": float("inf")}


def poison(patch, step, *, rank=0, word="nan", where="loss"):
    """Make a worker's loss or gradients at one global step not finite; returns a list that gets the loop."""
    honest = TrainLoop._train_step
    loops = []

    def faulty(self, batch):
        loops[:] = [self]
        if self.global_step == step and self.workers.rank == rank:
            module, forward = self.objective, self.objective.forward

            def once(*arguments):
                module.forward = forward
                loss = forward(*arguments)
                if where == "loss":
                    return loss * WORDS[word]
                parameter = next(self.model.parameters())
                parameter.register_hook(lambda gradient: gradient * WORDS[word])
                return loss

            module.forward = once
        honest(self, batch)

    patch.setattr(TrainLoop, "_train_step", faulty)
    return loops


@pytest.mark.parametrize("word", ["nan", "inf"])
@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_stops_before_the_update(prepared, tmp_path, monkeypatch, word, where):
    """Row 16: stops before the update, names epoch, step and users; the last checkpoint is the one before.

    Seen to fail: with `found_inf` left out of `FiniteGuard.step` the live weights are NaN; with
    `_check_finite` left out training goes on.
    """
    loops = poison(monkeypatch, 7, word=word, where=where)
    with pytest.raises(
        NonFiniteError, match=r"global step 7 \(epoch 2, step 2, first users \[\d+.*--skip-bad-steps"
    ):
        train(prepared, tmp_path / "run", small())
    saved = last_checkpoint(tmp_path / "run")
    assert saved.global_step == 7
    live = loops[0].model.state_dict()
    assert all(torch.equal(tensor, live[name]) for name, tensor in saved.model_tensors().items())


def test_skips_only_when_asked_and_counts(prepared, tmp_path, monkeypatch):
    """Row 16: N bad steps are left out, counted and reported as such; one more stops.

    Seen to fail: with the bad step's NaN added to the epoch's loss (metrics.jsonl then holds NaN).
    """
    poison(monkeypatch, 7)
    train(prepared, tmp_path / "run", small(**{"train.skip_bad_steps": 1}))
    rows = [row for row in RunFolder(tmp_path / "run").metrics() if row["kind"] == "epoch"]
    assert [row["bad_steps"] for row in rows] == [0, 1, 1]
    assert all(row["train_loss"] > 0 for row in rows)
    assert "NaN" not in (tmp_path / "run/metrics.jsonl").read_text()


def test_count_of_skipped_steps_survives_a_restart(prepared, tmp_path, monkeypatch):
    """Row 16: a restart is no new budget.

    Seen to fail: with `guard.count` left out of `resume.restore`.
    """
    config = small(**{"train.skip_bad_steps": 1})
    with monkeypatch.context() as patch:
        poison(patch, 2)
        stop_before(patch, 6)
        with pytest.raises(KilledError):
            train(prepared, tmp_path / "run", config)
    poison(monkeypatch, 8)
    with pytest.raises(NonFiniteError, match="global step 8"):
        train(prepared, tmp_path / "run", config)


def _pair(rank, prepared, run, out):
    with pytest.MonkeyPatch.context() as patch:
        poison(patch, 4, rank=1)
        try:
            train(prepared, run, small(), rank=rank, world=2)
        except NonFiniteError as error:
            (out / str(rank)).write_text(str(error))


@pytest.mark.timeout(900)
def test_all_workers_stop_together(prepared, tmp_path):
    """Row 16: NaN on worker 1 alone stops both at the same step, and both name worker 1's users.

    Seen to fail: with `gather` left out of `_blame` (worker 0 then blames its own users).
    """
    run_pair(_pair, tmp_path / "rendezvous", prepared, tmp_path / "run", tmp_path)
    told = [(tmp_path / str(rank)).read_text() for rank in range(2)]
    assert told[0] == told[1]
    assert "global step 4 (epoch 1, step 4, worker 1: first users [" in told[0]
    assert "worker 0" not in told[0]
    assert last_checkpoint(tmp_path / "run").global_step == 4


def test_the_leader_alone_does_not_raise_between_two_looks(prepared, tmp_path, monkeypatch):
    """Row 16: on a GPU workers look at the guard every 64 steps; a save in between does not raise, or the
    others would wait for ever, and does not write.

    Seen to fail: with `_check_finite` in `_save`.
    """
    monkeypatch.setattr("ss4rec.train.loop._LOOK_EVERY", 10**9)
    poison(monkeypatch, 2)
    looks = []
    honest = TrainLoop._check_finite
    monkeypatch.setattr(
        TrainLoop, "_check_finite", lambda self: honest(self) if self.step == 5 else looks.append(self.step)
    )
    with pytest.raises(NonFiniteError, match="global step 2"):
        train(prepared, tmp_path / "run", small())
    assert looks == [1, 2, 3, 4]
    assert last_checkpoint(tmp_path / "run").global_step == 2


def test_exploding_gradients(prepared, tmp_path):
    """Row 16: a learning rate that explodes ends in one sentence, not in a model of NaN.

    Seen to fail: with `found_inf` left out of `FiniteGuard.step`: the sentence comes, the weights are gone.
    """
    with pytest.raises(NonFiniteError, match=r"Lower optim.lr \(now 1e\+20\)"):
        train(prepared, tmp_path / "run", small(**{"optim.lr": 1e20, "optim.clip_norm": 0.0}))
    assert all(torch.isfinite(t).all() for t in last_checkpoint(tmp_path / "run").model_tensors().values())


HANGING = """
import sys, threading, torch
from datetime import timedelta
from pathlib import Path
from ss4rec.train.loop import TrainLoop
from tests.faults.small import small, train
rank, prepared, run, rendezvous = int(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4]
torch.set_num_threads(1)
torch.distributed.init_process_group(
    "gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=2, timeout=timedelta(seconds=4)
)
honest = TrainLoop._train_step
def hang_here(self, batch):
    if rank == 1 and self.global_step == 3:
        threading.Event().wait()
    honest(self, batch)
TrainLoop._train_step = hang_here
train(prepared, run, small(**{"resources.timeout_s": 4}), rank=rank, world=2)
"""


@pytest.mark.timeout(900)
def test_hanging_peer(prepared, tmp_path):
    """Row 17: a peer that hangs ends the wait at the time-out, as an error that is retried; its stacks are
    written down.

    Seen to fail: with the Watchdog left out no stack names the place where worker 1 stands.
    """
    command = [sys.executable, "-c", HANGING]
    rest = [str(prepared), str(tmp_path / "run"), str(tmp_path / "rendezvous")]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    errors = [(tmp_path / f"{rank}.err").open("w+") for rank in range(2)]
    processes = [
        subprocess.Popen([*command, str(rank), *rest], env=environment, stderr=errors[rank])
        for rank in range(2)
    ]
    assert processes[0].wait(timeout=600) != 0
    text = (tmp_path / "0.err").read_text()
    assert "RuntimeError" in text
    assert "NonFiniteError" not in text
    while "hang_here" not in (tmp_path / "1.err").read_text():
        with pytest.raises(subprocess.TimeoutExpired):  # it hangs on
            processes[1].wait(timeout=0.2)
    processes[1].kill()
    processes[1].wait()
    for file in errors:
        file.close()
    assert last_checkpoint(tmp_path / "run").global_step == 3


def test_notice_writes_a_checkpoint_at_once(prepared, tmp_path, monkeypatch, capsys):
    """Row 7: a machine that is about to go leaves a checkpoint of this very step, and the run continues from there.

    Seen to fail: with `notice` left out of `_save_is_due`: nothing was written when the machine went.
    """
    config = small(**{"train.checkpoint_every_s": 1e9, "train.epochs": 1})
    steps = []

    def notice():
        steps.append(1)
        return "the machine goes in 30 s" if len(steps) >= 3 else ""

    with monkeypatch.context() as patch:
        stop_before(patch, 4)
        with pytest.raises(KilledError):
            train(prepared, tmp_path / "run", config, notice=notice)
    assert "notice: the machine goes in 30 s; writing a checkpoint of step 3" in capsys.readouterr().out
    assert last_checkpoint(tmp_path / "run").global_step == 3
    train(prepared, tmp_path / "run", config)
    train(prepared, tmp_path / "whole", config)
    assert equal(tmp_path / "run", tmp_path / "whole")


def test_notice_comes_as_a_file(tmp_path):
    """Row 7: a scheduler that Ray does not know of writes RUN/notice; a look every half second, forgotten afterwards.

    Seen to fail: with every call a look; with `forget` left out.
    """
    run, now = tmp_path / "run", [0.0]
    notice = NoticeFile(run, clock=lambda: now[0])
    assert notice() == ""
    run.mkdir()
    (run / NOTICE_FILE).write_text("Slurm's time\nis nearly up\n")
    assert notice() == ""
    now[0] = 2.0
    assert notice() == "Slurm's time is nearly up"
    now[0] = 4.0
    (run / NOTICE_FILE).write_bytes(b"")
    assert str(run / NOTICE_FILE) in notice()
    forget(run)
    now[0] = 6.0
    assert notice() == ""


def test_metrics_hold_no_nan(tmp_path):
    """Row 16: figures that are not finite are null in metrics.jsonl, which every reader of JSON knows.

    Seen to fail: with the plain row written.
    """
    folder = RunFolder(tmp_path)
    folder.append_metrics({"global_step": 1, "loss": float("nan"), "grad_norm": float("inf")})
    assert json.loads((tmp_path / "metrics.jsonl").read_text()) == {
        "global_step": 1,
        "loss": None,
        "grad_norm": None,
    }
