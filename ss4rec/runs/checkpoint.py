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

import json
import math
import shutil
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from ss4rec.errors import CheckpointError
from ss4rec.io.atomic import flush, sha256_of
from ss4rec.io.untrusted import read_json

FORMAT = 1
MODEL_FILE, TRAINING_FILE, STATE_FILE, SUMS_FILE = (
    "model.safetensors",
    "training.safetensors",
    "state.json",
    "checksums.json",
)
SAVE_ATTEMPTS, PAUSE_S = 3, 2.0
"""A save that storage refuses is tried so often, with this pause, before training stops."""
_DRAFT, _ASIDE = ".writing-", ".aside-"


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

    @property
    def model_sha256(self) -> str:
        """SHA-256 of the file of the weights to serve, which says what model this is."""
        return str(read_json(self.path / SUMS_FILE)[MODEL_FILE])

    def model_tensors(self, device: str = "cpu") -> dict[str, Tensor]:
        """Return the weights to serve.

        Raises:
            CheckpointError: if the file is no safetensors; also below.
        """
        return _load(self.path / MODEL_FILE, device)

    def model_shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the weights to serve without reading them."""
        try:
            with safe_open(self.path / MODEL_FILE, framework="pt") as file:
                return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{self.path / MODEL_FILE} is no safetensors file: {error}") from None

    def training_tensors(self, device: str = "cpu") -> dict[str, Tensor]:
        """Return optimizer moments and raw weights."""
        return _load(self.path / TRAINING_FILE, device)


def save(
    folder: Path,
    *,
    model: Mapping[str, Tensor],
    training: Mapping[str, Tensor],
    state: Mapping[str, Any],
    allowed: Callable[[], None] = lambda: None,
) -> Path:
    """Write a checkpoint into `folder` (a run's `checkpoints/`) and return its path.

    The checkpoint appears by one rename after everything is on disk, so that a crash leaves only a folder
    whose name starts with a dot, which the next `save` removes. What storage refuses is tried again
    SAVE_ATTEMPTS times; older checkpoints stay as they are until the new one is whole.

    Args:
        folder: where checkpoints are.
        model: the weights to serve.
        training: what else training needs.
        state: plain data with `global_step` and `score`.
        allowed: called right before the checkpoint appears; raises if another process writes this run now.

    Raises:
        CheckpointError: if the disk has less than twice the checkpoint's size free, or refuses every attempt.
    """
    name = f"step-{state['global_step']:08d}"
    draft = folder / f"{_DRAFT}{name}"
    needed_bytes = 2 * sum(t.nbytes for group in (model, training) for t in group.values())
    for attempt in range(1, SAVE_ATTEMPTS + 1):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            sweep(folder)
            _require_space(folder, needed_bytes)
            _write_draft(draft, model, training, {"format": FORMAT, **state})
            allowed()
            return _appear(draft, folder / name)
        except (OSError, SafetensorError) as error:
            shutil.rmtree(draft, ignore_errors=True)
            if attempt == SAVE_ATTEMPTS:
                raise CheckpointError(
                    f"{folder / name} could not be written in {SAVE_ATTEMPTS} attempts: {error}; the checkpoint before "
                    "it is good. Free some space or repair the storage and start the same command again, it continues"
                ) from None
        time.sleep(PAUSE_S)
    raise AssertionError("the last attempt returns or raises")


def sweep(folder: Path) -> None:
    """Remove drafts that a crash left, and put back a checkpoint that was moved aside for one that never came.

    Only for the one process that writes this run: a draft may be another's that is being written.
    """
    for orphan in folder.glob(f"{_DRAFT}*"):
        shutil.rmtree(orphan, ignore_errors=True)
    for aside in folder.glob(f"{_ASIDE}*"):
        final = folder / aside.name.removeprefix(_ASIDE)
        if final.exists():
            shutil.rmtree(aside, ignore_errors=True)
        else:
            aside.rename(final)


def _write_draft(
    draft: Path, model: Mapping[str, Tensor], training: Mapping[str, Tensor], state: Mapping[str, Any]
) -> None:
    """Write all files of a checkpoint and force them to disk."""
    draft.mkdir()
    save_file(_contiguous(model), draft / MODEL_FILE)
    save_file(_contiguous(training), draft / TRAINING_FILE)
    (draft / STATE_FILE).write_text(json.dumps(state, indent=2, sort_keys=True, allow_nan=False) + "\n")
    sums = {file: sha256_of(draft / file) for file in (MODEL_FILE, TRAINING_FILE, STATE_FILE)}
    (draft / SUMS_FILE).write_text(json.dumps(sums, indent=2) + "\n")
    for file in draft.iterdir():
        with suppress(
            OSError
        ):  # safetensors lets nobody else read its files; mounts without modes stay as they are
            shutil.copymode(draft / SUMS_FILE, file)
        flush(file)
    flush(draft)


def _appear(draft: Path, final: Path) -> Path:
    """Rename a draft to its final name; one of that name (damaged, or it would have been resumed) is replaced."""
    aside = final.with_name(f"{_ASIDE}{final.name}")
    if final.exists():
        final.rename(aside)
    draft.rename(final)
    flush(final.parent)
    shutil.rmtree(aside, ignore_errors=True)
    return final


def read(path: Path) -> Checkpoint:
    """Open one checkpoint after comparing every checksum.

    Raises:
        CheckpointError: naming the file that is missing or differs.
    """
    try:
        sums = read_json(path / SUMS_FILE)
        for file in (MODEL_FILE, TRAINING_FILE, STATE_FILE):
            found = sha256_of(path / file)
            if found != sums[file]:
                raise CheckpointError(
                    f"checkpoint {path}: {file} has sha256 {found[:12]}, expected {sums[file][:12]}: it is damaged"
                )
        state = _checked(read_json(path / STATE_FILE))
    except (OSError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise CheckpointError(f"checkpoint {path} is incomplete or damaged: {error}") from None
    if state["format"] != FORMAT:
        raise CheckpointError(
            f"checkpoint {path} has format {state['format']} and this version reads {FORMAT}; use the other one"
        )
    return Checkpoint(path, state)


def _checked(state: Any) -> dict[str, Any]:
    """Return `state` if it has what every checkpoint needs.

    Raises:
        TypeError, KeyError, ValueError: if not.
    """
    if not isinstance(state, dict):
        raise TypeError(f"{STATE_FILE} holds a {type(state).__name__}, not an object")
    step, score = state["global_step"], state["score"]
    if not isinstance(step, int) or step < 0:
        raise ValueError(f"global_step is {step!r}")
    if score is not None and not math.isfinite(score):
        raise ValueError(f"score is {score!r}")
    return {"format": None, **state}


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

    A damaged one, which may have been better, is named in a warning.

    Raises:
        CheckpointError: if no checkpoint is intact.
    """
    everything = list(intact(folder))
    damaged = [str(found) for found in everything if isinstance(found, CheckpointError)]
    candidates = [found for found in everything if isinstance(found, Checkpoint)]
    if not candidates:
        raise CheckpointError(
            f"no intact checkpoint in {folder}; train first, or check the path"
            + "".join(f"\n  {problem}" for problem in damaged)
        )
    chosen = max(candidates, key=_merit)
    for problem in damaged:
        warnings.warn(f"{problem}; the best of the others is used: {chosen.path.name}", stacklevel=2)
    return chosen


def _merit(checkpoint: Checkpoint) -> tuple[float, int]:
    return checkpoint.score, checkpoint.global_step


def prune(folder: Path, keep_last: int) -> None:
    """Remove all checkpoints but the best one and the `keep_last` newest others; damaged ones if a newer is whole.

    Of the others, so that there is one to go back to also where the best is the newest.
    """
    everything = list(intact(folder))
    checkpoints = [found for found in everything if isinstance(found, Checkpoint)]
    if not checkpoints:
        return
    winner = max(checkpoints, key=_merit)
    others = [found for found in checkpoints if found is not winner]
    kept = {found.path.name for found in (winner, *others[:keep_last])}
    newest = checkpoints[0].path.name
    for path in list(folder.glob("step-*")):
        if path.name not in kept and path.name < newest:
            # Renamed first: a crash half-way must not leave half a checkpoint under a good name.
            draft = path.rename(folder / f"{_DRAFT}{path.name}")
            shutil.rmtree(draft)


def _load(path: Path, device: str) -> dict[str, Tensor]:
    try:
        return load_file(path, device=device)
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} is no safetensors file that can be read: {error}") from None


def _contiguous(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def _require_space(folder: Path, needed_bytes: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed_bytes:
        raise CheckpointError(
            f"{folder} has {free / 2**20:.0f} MiB free and a checkpoint wants {needed_bytes / 2**20:.0f} MiB; "
            "free some space and start the same command again, it continues"
        )
