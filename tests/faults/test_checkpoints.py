"""Torn checkpoints, missing folders, other versions, full disks, two writers: rows 9 to 13 of docs/reliability.md."""

import errno
import json
import os
import shutil
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from ss4rec.cluster import storage_check
from ss4rec.errors import CheckpointError, DataError, LeaseError, ResourceError
from ss4rec.runs import checkpoint, record
from ss4rec.runs.lease import LEASE_FILE, Writer, hold
from ss4rec.runs.load import load_model
from ss4rec.train import worker
from tests.faults.small import KilledError, equal, last_checkpoint, small, train


@pytest.fixture(scope="module")
def whole(prepared, tmp_path_factory):
    """A finished run that keeps several checkpoints."""
    run = tmp_path_factory.mktemp("whole") / "run"
    train(prepared, run, several())
    return run


@pytest.fixture
def run(whole, tmp_path):
    """A copy of it that a test may damage."""
    return Path(shutil.copytree(whole, tmp_path / "run"))


def several():
    return small(**{"train.keep_checkpoints": 3})


def newest(run):
    return max((run / "checkpoints").glob("step-*"))


def damage(path: Path, how: str) -> None:
    raw = bytearray(path.read_bytes())
    if how == "truncate":
        path.write_bytes(raw[: len(raw) // 2])
    elif how == "flip":
        raw[len(raw) // 3] ^= 4
        path.write_bytes(raw)
    else:
        path.write_bytes(b"")


@pytest.mark.parametrize("how", ["truncate", "flip", "empty"])
@pytest.mark.parametrize("file", ["model.safetensors", "training.safetensors", "state.json"])
def test_damaged_checkpoint(prepared, run, whole, capsys, file, how):
    """Row 9: the damaged one is named, the one before it is used, and the end is the same to the bit.

    Seen to fail: with the comparison of checksums in `checkpoint.read` left out.
    """
    bad = newest(run)
    damage(bad / file, how)
    train(prepared, run, several())
    told = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("warning"))
    assert bad.name in told
    assert last_checkpoint(run).path.name == bad.name  # trained again
    assert equal(run, whole)


def test_damaged_best_checkpoint_is_named_when_it_is_loaded(run):
    """Row 9: serving falls back to the best of the others, and says so.

    Seen to fail: with the warning in `checkpoint.best` left out.
    """
    damage(checkpoint.best(run / "checkpoints").path / "model.safetensors", "flip")
    with pytest.warns(UserWarning, match="damaged; the best of the others is used"):
        load_model(run)


def test_every_checkpoint_damaged(prepared, run):
    """Row 9: nothing good is left: an error that names all, and no silent start from nothing.

    Seen to fail: with the CheckpointError in `newest_checkpoint` left out, training starts anew.
    """
    names = sorted(path.name for path in (run / "checkpoints").glob("step-*"))
    for name in names:
        damage(run / "checkpoints" / name / "state.json", "truncate")
    with pytest.raises(CheckpointError, match="so it cannot continue") as error:
        train(prepared, run, several())
    assert all(name in str(error.value) for name in names)


@pytest.mark.parametrize("moment", ["save_file", "sha256_of", "flush", "rename"])
def test_killed_while_saving(prepared, tmp_path, whole, monkeypatch, moment):
    """Row 9: a kill at any moment of a save leaves the checkpoint before it; the rest is swept.

    Seen to fail: with the draft written under its final name.
    """
    run, calls = tmp_path / "run", []

    def dying(honest):
        def call(*arguments, **options):
            calls.append(moment)
            if len(calls) == 9:
                raise KilledError
            return honest(*arguments, **options)

        return call

    with monkeypatch.context() as patch:
        if moment == "rename":
            patch.setattr(checkpoint, "_appear", dying(checkpoint._appear))
        else:
            patch.setattr(checkpoint, moment, dying(getattr(checkpoint, moment)))
        with pytest.raises(KilledError):
            train(prepared, run, several())
    drafts = list((run / "checkpoints").glob(".*"))
    assert drafts
    train(prepared, run, several())
    assert equal(run, whole)
    assert not list((run / "checkpoints").glob(".*"))


def test_killed_between_the_two_renames_of_a_replacement(run, whole):
    """Row 9: a checkpoint that was moved aside for a better one of its step is put back.

    Seen to fail: with the second loop of `checkpoint.sweep` left out.
    """
    final = newest(run)
    final.rename(final.with_name(f".aside-{final.name}"))
    checkpoint.sweep(run / "checkpoints")
    assert equal(run, whole)


def test_checkpoint_folder_missing(prepared, run, whole, capsys):
    """Row 10: a run whose checkpoints are gone says so and starts anew; Ray's own snapshot is never believed.

    Seen to fail: with the warning in `newest_checkpoint` left out.
    """
    shutil.rmtree(run / "checkpoints")
    (run / ".ray").mkdir()
    (run / ".ray/checkpoint_manager_snapshot.json").write_text('{"torn')
    (run / "metrics.jsonl").open("a").write('{"kind": "ep')
    train(prepared, run, several())
    assert "has no checkpoint; training starts anew" in capsys.readouterr().out
    assert equal(run, whole)


def test_other_versions_are_named(prepared, run, capsys, monkeypatch):
    """Row 11: the record of the run names the versions it was begun with; others are a warning.

    Seen to fail: with `_say_versions` left out.
    """
    monkeypatch.setattr(record, "installed_versions", lambda: {"torch": "9.9", "ray": "9.9"})
    train(prepared, run, several())
    assert "begun with other versions" in capsys.readouterr().out


@pytest.mark.parametrize("path", ["/proc/nothing/here", "file/under"])
def test_storage_that_cannot_be_written(tmp_path, path):
    """Row 12: refused before anything starts, with the path (on every node: tests/cluster/test_storage_check.py).

    Seen to fail: with the except in `storage_check._marker` left out.
    """
    (tmp_path / "file").touch()
    with pytest.raises(ResourceError, match=r"cannot be written.*--storage"):
        storage_check.check_storage(str(tmp_path / path))


def test_disk_too_small_for_the_run_and_for_a_save(prepared, tmp_path, monkeypatch):
    """Row 13: space is looked at before the run and before each save, and the old checkpoint stays.

    Seen to fail: with `_require_space` left out of `save`.
    """
    train(prepared, tmp_path / "run", small(**{"train.epochs": 1}))
    before = last_checkpoint(tmp_path / "run").path
    full = type("Usage", (), {"free": 1000})()
    monkeypatch.setattr(shutil, "disk_usage", lambda path: full)
    with pytest.raises(ResourceError, match="MiB free"):
        storage_check.check_storage(str(tmp_path))
    with pytest.raises(CheckpointError, match=r"free some space and start the same command again"):
        checkpoint.save(
            before.parent, model={"x": torch.zeros(999)}, training={}, state={"global_step": 9, "score": None}
        )
    assert checkpoint.read(before)


@pytest.mark.parametrize("failures", [1, 2, 99])
def test_disk_full_while_saving(prepared, tmp_path, monkeypatch, failures):
    """Row 13: the save is tried again; if storage goes on refusing, one sentence, and the old checkpoint is good.

    Seen to fail: with SAVE_ATTEMPTS = 1 (one refusal then ends the run).
    """
    monkeypatch.setattr(checkpoint, "PAUSE_S", 0.0)
    run, calls = tmp_path / "run", []
    honest = checkpoint.save_file

    def full(*arguments):
        calls.append(1)
        if 6 < len(calls) <= 6 + failures:
            raise OSError(errno.ENOSPC, "No space left on device")
        honest(*arguments)

    monkeypatch.setattr(checkpoint, "save_file", full)
    if failures < checkpoint.SAVE_ATTEMPTS:
        train(prepared, run, small(**{"train.epochs": 1}))
        return
    with pytest.raises(CheckpointError, match=r"3 attempts.*No space left.*it continues"):
        train(prepared, run, small(**{"train.epochs": 1}))
    assert last_checkpoint(run).global_step == 3
    assert not list((run / "checkpoints").glob(".*"))


def test_second_writer_is_refused(prepared, run, monkeypatch):
    """Two writers: the second is refused while the first lives, and admitted when it has ended.

    Seen to fail: with `_wait_for_death` left out of `hold`.
    """
    device = torch.device("cpu")
    with hold(run), pytest.raises(LeaseError, match=r"is being written by attempt \w+ on .*two writers"):
        worker.train_alone(several(), prepared, run, device)
    worker.train_alone(several(), prepared, run, device)
    assert not (run / LEASE_FILE).exists()


HOLD = """
import sys, time
from pathlib import Path
from ss4rec.runs.lease import hold
with hold(Path(sys.argv[1])) as attempt:
    print(attempt, flush=True)
    sys.stdin.read()
"""


def test_lease_of_a_killed_process_is_free_at_once(tmp_path):
    """Two writers: a process that was killed leaves its lease behind, and nobody has to wait for it.

    Seen to fail: with the start time of the process left out of the comparison and its number taken again.
    """
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    process.stdout.readline()
    with pytest.raises(LeaseError, match=f"process {process.pid} runs"), hold(tmp_path):
        pass
    process.kill()
    process.wait()
    assert (tmp_path / LEASE_FILE).exists()
    with hold(tmp_path):
        # A number that came again: this very process, but born at another time.
        lease = json.loads((tmp_path / LEASE_FILE).read_text())
        (tmp_path / LEASE_FILE).write_text(json.dumps(lease | {"born": 1}))
        with hold(tmp_path) as attempt:
            assert attempt


@pytest.mark.parametrize("alive", [True, False])
def test_lease_of_another_machine(tmp_path, alive):
    """Two writers: on another machine only a beating lease counts.

    Seen to fail: with the comparison of time stamps left out, the living one is overrun.
    """
    path = tmp_path / LEASE_FILE
    path.write_text(json.dumps({"attempt": "a", "machine": "elsewhere/1", "pid": 1, "born": 1, "writer": ""}))

    def told(line):
        assert "elsewhere" in line
        if alive:
            os.utime(path, ns=(time.time_ns(), path.stat().st_mtime_ns + 1))

    def take():
        with hold(tmp_path, expires_s=0.5, say=told):
            return json.loads(path.read_text())["attempt"]

    if alive:
        with pytest.raises(LeaseError, match="it was alive"):
            take()
    else:
        assert take() != "a"


def test_worker_that_was_given_up_for_lost_cannot_write(prepared, run, tmp_path):
    """Two writers: the worker of an earlier group or attempt is stopped before its checkpoint appears.

    Seen to fail: with `allowed()` left out of `checkpoint.save`.
    """
    with hold(tmp_path / "new") as attempt:
        lost = Writer(tmp_path / "new", attempt)
        lost.check()
        Writer(tmp_path / "new", attempt)  # the group that replaced it
        state = {"global_step": 1, "score": None}
        with pytest.raises(LeaseError, match="given up for lost"):
            checkpoint.save(
                tmp_path / "new", model={"x": torch.zeros(1)}, training={}, state=state, allowed=lost.check
            )
    assert not list((tmp_path / "new").glob("step-*"))
    with pytest.raises(LeaseError, match="held by nobody"):
        lost.check()


def rewrite(path: Path, **changes):
    """Change a checkpoint as a stranger would, checksums included."""
    state = json.loads((path / "state.json").read_text()) | changes.get("state", {})
    (path / "state.json").write_text(json.dumps(state))
    for file in ("model.safetensors", "training.safetensors"):
        tensors = load_file(path / file) | changes.get(file.split(".")[0], {})
        save_file({name: tensor for name, tensor in tensors.items() if tensor is not None}, path / file)
    names = ("model.safetensors", "training.safetensors", "state.json")
    (path / "checksums.json").write_text(
        json.dumps({name: checkpoint.sha256_of(path / name) for name in names})
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"state": {"global_step": 10**9}}, "belongs to another run"),
        ({"state": {"sums": "many"}}, "state.json: sums"),
        ({"state": {"stopping": None}}, "state.json: stopping"),
        (
            {"training": {"optimizer.0.exp_avg": torch.zeros(3)}},
            r"optimizer.0.exp_avg is torch.float32 \(3,\)",
        ),
        ({"training": {"optimizer.1.step": None}}, "optimizer.1.step is missing"),
        ({"model": {"embedding.weight": torch.full((120, 16), torch.nan)}}, "not finite"),
        ({"model": {"embedding.weight": torch.zeros(7, 16)}}, "does not fit"),
        ({"model": {"extra": torch.zeros(1)}}, "does not fit"),
    ],
)
def test_checkpoint_of_a_stranger(prepared, run, change, message):
    """No code and no trust from data: checksums that fit, content that does not.

    Seen to fail: with `LoopState.of` or `optimizer_entries` replaced by the plain dictionary.
    """
    rewrite(newest(run), **change)
    with pytest.raises(CheckpointError, match=message):
        train(prepared, run, several())


@pytest.mark.parametrize(
    "change", [{"num_items": 10**15}, {"num_items": 500}, {"num_items": -1}, {"num_items": "many"}]
)
def test_absurd_shapes_take_no_memory(run, change):
    """A record of 10^15 items is refused before a model of that size is made.

    Seen to fail: with `_require_size` left out of `load_model` torch asks for 64 PB.
    """
    record = json.loads((run / "record.json").read_text()) | change
    (run / "record.json").write_text(json.dumps(record))
    with pytest.raises(DataError if record["num_items"] in (-1, "many") else CheckpointError):
        load_model(run)


@pytest.mark.parametrize(
    "field", [("dim", 10**12), ("blocks", 10**9), ("relation_states", 10**9), ("expand", 10**9)]
)
def test_absurd_configuration_takes_no_memory(run, field):
    """The same for a configuration that the weights do not back.

    Seen to fail: as above.
    """
    config = json.loads((run / "config.json").read_text())
    config["model"][field[0]] = field[1]
    (run / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"mixed up|does not fit"):
        load_model(run)


def test_nothing_is_warned_about_an_honest_run(run):
    """The guards are silent where nothing is wrong."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_model(run)
