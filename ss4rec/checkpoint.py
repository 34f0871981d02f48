"""Checkpoints: safetensors and readable JSON, checksummed, written whole or not at all. No pickle.

A run's `checkpoints/` folder holds one folder per checkpoint, named by its global step:

    step-00000190/
        model.safetensors       the weights to serve (the moving average, where one is kept)
        training.safetensors    what only training needs: optimizer moments, raw weights beside an average
        state.json              epoch, step, early stopping, validation metrics, fingerprints
        checksums.json          sha256 of the three; written last

Which checkpoint is the best and which the last is derived from `state.json`, never stored: there is no index that can
disagree with the folders. Random state is not stored either: it is a function of (seed, step, rank), see
`ss4rec.train.loop`.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from ss4rec.errors import CheckpointError

FORMAT = 1
MODEL_FILE, TRAINING_FILE, STATE_FILE, SUMS_FILE = (
    "model.safetensors",
    "training.safetensors",
    "state.json",
    "checksums.json",
)


@dataclass(frozen=True)
class Checkpoint:
    """An intact checkpoint on disk."""

    path: Path
    state: dict[str, Any]

    @property
    def global_step(self) -> int:
        """Optimizer steps taken so far."""
        return int(self.state["global_step"])

    @property
    def score(self) -> float:
        """Validation NDCG@10 of these weights; -inf if they were saved between validations."""
        score = self.state.get("score")
        return float("-inf") if score is None else float(score)

    def model_tensors(self, device: str = "cpu") -> dict[str, Tensor]:
        """Return the weights to serve."""
        return load_file(self.path / MODEL_FILE, device=device)

    def training_tensors(self, device: str = "cpu") -> dict[str, Tensor]:
        """Return optimizer moments and raw weights."""
        return load_file(self.path / TRAINING_FILE, device=device)


def save(
    folder: Path, *, model: Mapping[str, Tensor], training: Mapping[str, Tensor], state: Mapping[str, Any]
) -> Path:
    """Write a checkpoint into `folder` (a run's `checkpoints/`) and return its path.

    The checkpoint appears by one rename after everything is on disk, so that a crash leaves only a folder
    whose name starts with a dot, which the next `save` removes.

    Raises:
        CheckpointError: if the disk has less than twice the checkpoint's size free.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for orphan in folder.glob(".writing-*"):
        shutil.rmtree(orphan, ignore_errors=True)
    _require_space(folder, 2 * sum(t.nbytes for group in (model, training) for t in group.values()))
    name = f"step-{state['global_step']:08d}"
    draft = folder / f".writing-{name}"
    draft.mkdir()
    save_file(_contiguous(model), draft / MODEL_FILE)
    save_file(_contiguous(training), draft / TRAINING_FILE)
    (draft / STATE_FILE).write_text(json.dumps({"format": FORMAT, **state}, indent=2, sort_keys=True) + "\n")
    sums = {file: _sha256(draft / file) for file in (MODEL_FILE, TRAINING_FILE, STATE_FILE)}
    (draft / SUMS_FILE).write_text(json.dumps(sums, indent=2) + "\n")
    for file in draft.iterdir():
        _flush(file)
    _flush(draft)
    final = folder / name
    if final.exists():  # the same step again after a resume: the new one replaces it
        shutil.rmtree(final)
    draft.rename(final)
    _flush(folder)
    return final


def read(path: Path) -> Checkpoint:
    """Open one checkpoint after comparing every checksum.

    Raises:
        CheckpointError: naming the file that is missing or differs.
    """
    try:
        sums = json.loads((path / SUMS_FILE).read_text())
        for file in (MODEL_FILE, TRAINING_FILE, STATE_FILE):
            found = _sha256(path / file)
            if found != sums[file]:
                raise CheckpointError(
                    f"checkpoint {path}: {file} has sha256 {found[:12]}, expected {sums[file][:12]}: it is damaged"
                )
        state = json.loads((path / STATE_FILE).read_text())
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"checkpoint {path} is incomplete or damaged: {error}") from None
    if state["format"] != FORMAT:
        raise CheckpointError(
            f"checkpoint {path} has format {state['format']} and this version reads {FORMAT}; use the other one"
        )
    return Checkpoint(path, state)


def intact(folder: Path) -> Iterator[Checkpoint | CheckpointError]:
    """Yield the checkpoints in `folder`, newest first; a damaged one is yielded as its error."""
    for path in sorted(folder.glob("step-*"), reverse=True):
        try:
            yield read(path)
        except CheckpointError as error:
            yield error


def last(folder: Path) -> tuple[Checkpoint | None, list[str]]:
    """Return the newest intact checkpoint (or None) and what was wrong with the newer ones."""
    problems: list[str] = []
    for found in intact(folder):
        if isinstance(found, Checkpoint):
            return found, problems
        problems.append(str(found))
    return None, problems


def best(folder: Path) -> Checkpoint:
    """Return the intact checkpoint with the highest validation score; the newest of equals.

    Raises:
        CheckpointError: if no checkpoint is intact.
    """
    candidates = [found for found in intact(folder) if isinstance(found, Checkpoint)]
    if not candidates:
        raise CheckpointError(f"no intact checkpoint in {folder}; train first, or check the path")
    return max(candidates, key=lambda checkpoint: (checkpoint.score, checkpoint.global_step))


def prune(folder: Path, keep_last: int) -> None:
    """Remove all checkpoints but the best one and the `keep_last` newest ones."""
    checkpoints = [found for found in intact(folder) if isinstance(found, Checkpoint)]
    kept = {checkpoint.path for checkpoint in checkpoints[:keep_last]}
    if checkpoints:
        kept.add(best(folder).path)
    for checkpoint in checkpoints:
        if checkpoint.path not in kept:
            shutil.rmtree(checkpoint.path)


def _contiguous(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _flush(path: Path) -> None:
    """Force a file or a folder's entries to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _require_space(folder: Path, needed_bytes: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed_bytes:
        raise CheckpointError(
            f"{folder} has {free / 2**20:.0f} MiB free and a checkpoint wants {needed_bytes / 2**20:.0f} MiB; "
            "free some space and start the same command again, it continues"
        )
