"""A small training that every fault test uses: seconds of work, the real loop, checkpoints after every step."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

from ss4rec.config import RunConfig, override
from ss4rec.data.batches.source import LocalSource
from ss4rec.data.prepared.folder import PreparedFolder
from ss4rec.presets import preset
from ss4rec.runs import checkpoint
from ss4rec.runs.folder import RunFolder
from ss4rec.train.group import Workers
from ss4rec.train.hooks import Hooks
from ss4rec.train.loop import TrainLoop
from ss4rec.train.outcome import Outcome
from ss4rec.train.tracking import tracked
from ss4rec.train.worker import build_loop


class KilledError(BaseException):
    """Stands for a kill: no `except Exception` on the way may catch it."""


def small(**changes: Any) -> RunConfig:
    """Return the configuration; `changes` are dotted fields."""
    fields = {
        "tracking.wandb": "disabled",
        "data.source": "local",
        "train.epochs": 3,
        "train.patience": 0,
        "train.checkpoint_every_s": 0,
        "resources.timeout_s": 60,
        "resources.threads_per_worker": 1,
    }
    return override(preset("debug"), fields | changes)


def train(
    prepared: Path,
    run: Path,
    config: RunConfig,
    *,
    rank: int = 0,
    world: int = 1,
    device: str = "cpu",
    attempt: str | None = None,
    **hooks: Any,
) -> Outcome:
    """Train in this process, as one of `world` workers if a process group is there."""
    RunFolder(run).start(config, PreparedFolder.open(prepared))
    source = LocalSource(
        prepared,
        config.data,
        batch_size=config.train.batch_size,
        seed=config.train.seed,
        rank=rank,
        world=world,
    )
    workers = Workers(rank, world, torch.device(device))
    with tracked(RunFolder(run), config) if rank == 0 else nullcontext():
        return build_loop(
            config, run, workers=workers, source=source, attempt=attempt, hooks=Hooks(**hooks)
        ).run()


def last_checkpoint(run: Path) -> checkpoint.Checkpoint:
    """Return a run's newest checkpoint."""
    found, problems = checkpoint.last(RunFolder(run).checkpoints)
    assert found is not None, problems
    return found


def equal(left: Path, right: Path) -> bool:
    """Return whether the newest checkpoints of two runs hold the same bits, for serving and for training."""
    pairs = [(last_checkpoint(left), last_checkpoint(right))]
    tensors = [
        (a.model_tensors() | a.training_tensors(), b.model_tensors() | b.training_tensors()) for a, b in pairs
    ]
    return all(a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a) for a, b in tensors)


def stop_before(monkeypatch: Any, step: int) -> None:
    """Make training in this process die before global step `step`, once."""
    honest = TrainLoop._train_step
    died: list[int] = []

    def faulty(self: TrainLoop, batch: Any) -> None:
        if self.global_step == step and not died:
            died.append(step)
            raise KilledError
        honest(self, batch)

    monkeypatch.setattr(TrainLoop, "_train_step", faulty)
