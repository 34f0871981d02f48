"""Checkpoints: whole or not at all, damage is named, the best and the last are derived."""

import json

import pytest
import torch

from ss4rec.errors import CheckpointError
from ss4rec.runs import checkpoint


def write(folder, step, score=None):
    tensors = {"weight": torch.full((4,), float(step))}
    return checkpoint.save(
        folder,
        model=tensors,
        training={"moment": tensors["weight"] * 2},
        state={"global_step": step, "score": score},
    )


def test_round_trip(tmp_path):
    saved = checkpoint.read(write(tmp_path, 7, 0.5))
    assert (saved.global_step, saved.score) == (7, 0.5)
    assert torch.equal(saved.model_tensors()["weight"], torch.full((4,), 7.0))
    assert torch.equal(saved.training_tensors()["moment"], torch.full((4,), 14.0))


def test_all_files_may_be_read_by_the_same_people(tmp_path):
    """safetensors makes its files with mode 0600, whatever the umask says."""
    folder = write(tmp_path, 1)
    assert len({path.stat().st_mode for path in folder.iterdir()}) == 1


@pytest.mark.parametrize(
    "file", ["model.safetensors", "training.safetensors", "state.json", "checksums.json"]
)
@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
def test_damage_is_named_and_the_one_before_is_used(tmp_path, file, damage):
    good, bad = write(tmp_path, 1, 0.1), write(tmp_path, 2, 0.9)
    path = bad / file
    raw = bytearray(path.read_bytes())
    if damage == "flip":
        raw[len(raw) // 2] ^= 1
        path.write_bytes(raw)
    elif damage == "truncate":
        path.write_bytes(raw[: len(raw) // 2])
    else:
        path.unlink()
    found, problems = checkpoint.last(tmp_path)
    assert found.path == good
    assert len(problems) == 1
    assert bad.name in problems[0]
    with pytest.warns(UserWarning, match=rf"{bad.name}.*is used: {good.name}"):
        assert checkpoint.best(tmp_path).path == good


def test_a_crash_while_writing_leaves_no_checkpoint_and_is_swept(tmp_path, monkeypatch):
    write(tmp_path, 1)
    monkeypatch.setattr(checkpoint, "flush", lambda path: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path, 2)
    monkeypatch.undo()
    assert (tmp_path / ".writing-step-00000002").exists()
    assert checkpoint.last(tmp_path)[0].global_step == 1
    write(tmp_path, 3)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-00000001", "step-00000003"]


def test_prune_keeps_the_best_and_the_last(tmp_path):
    for step, score in [(1, 0.2), (2, 0.9), (3, 0.4), (4, None)]:
        write(tmp_path, step, score)
    checkpoint.prune(tmp_path, keep_last=1)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-00000002", "step-00000004"]
    assert checkpoint.best(tmp_path).global_step == 2


def test_too_little_space_is_refused_before_writing(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 10})())
    with pytest.raises(CheckpointError, match="free some space"):
        write(tmp_path, 1)
    assert list(tmp_path.iterdir()) == []


def test_other_format_is_refused(tmp_path):
    path = write(tmp_path, 1)
    state = json.loads((path / "state.json").read_text()) | {"format": 99}
    (path / "state.json").write_text(json.dumps(state))
    sums = json.loads((path / "checksums.json").read_text()) | {
        "state.json": checkpoint.sha256_of(path / "state.json")
    }
    (path / "checksums.json").write_text(json.dumps(sums))
    with pytest.raises(CheckpointError, match="format 99"):
        checkpoint.read(path)
