"""Same seed, exact resume anywhere, other numbers of workers: rows 1, 2 and 8 of docs/reliability.md."""

import numpy as np
import pytest
import torch

from ss4rec.data.batches.source import LocalSource
from ss4rec.runs.folder import RunFolder
from tests.faults.small import KilledError, equal, last_checkpoint, small, stop_before, train
from tests.group import run_pair

EVERYTHING = {"optim.ema": 0.9, "optim.clip_norm": 0.5, "optim.schedule": "cosine", "optim.warmup_steps": 3}


@pytest.fixture(scope="module")
def whole(prepared, tmp_path_factory):
    """A run that nothing stopped, with its steps an epoch."""
    run = tmp_path_factory.mktemp("whole") / "run"
    outcome = train(prepared, run, small(**EVERYTHING))
    return run, outcome.global_step // 3


def test_same_seed_twice(prepared, tmp_path, whole):
    """Row 1: the same bits.

    Seen to fail: with `seed_step` left out of `train_worker` (first weights then depend on what was drawn before).
    """
    torch.rand(5)  # a process that has drawn before
    train(prepared, tmp_path / "run", small(**EVERYTHING))
    assert equal(tmp_path / "run", whole[0])


@pytest.mark.parametrize("where", ["first", "middle", "boundary", "second", "last"])
def test_stop_anywhere_and_continue(prepared, tmp_path, monkeypatch, whole, where):
    """Row 2: stopped before any step and continued, every bit of weights, moments and averages is the same.

    Seen to fail: with `seed_step` left out of the training step; with the optimizer's state left out of `_restore`;
    with the raw weights beside the average left out; with the running loss restored in float32.
    """
    run, steps = whole
    at = {"first": 0, "middle": steps + 2, "boundary": 2 * steps, "second": 1, "last": 3 * steps - 1}[where]
    stop_before(monkeypatch, at)
    with pytest.raises(KilledError):
        train(prepared, tmp_path / "run", small(**EVERYTHING))
    train(prepared, tmp_path / "run", small(**EVERYTHING))
    assert equal(tmp_path / "run", run)
    timeless = [
        [
            {**row, "elapsed_s": 0, "events_per_s": 0}
            for row in RunFolder(path).metrics()
            if row["kind"] == "epoch"
        ]
        for path in (tmp_path / "run", run)
    ]
    assert timeless[0] == timeless[1]


def test_patience_and_best_so_far_survive(prepared, tmp_path, monkeypatch):
    """Row 2: the count of validations without a better score is in the checkpoint.

    Seen to fail: with a fresh EarlyStopping in `_restore` the run goes on for longer.
    """
    changes = {"train.epochs": 12, "train.patience": 3, "optim.lr": 1e-9}
    outcome = train(prepared, tmp_path / "whole", small(**changes))
    steps = outcome.global_step // outcome.epochs
    stop_before(monkeypatch, 3 * steps)
    with pytest.raises(KilledError):
        train(prepared, tmp_path / "cut", small(**changes))
    again = train(prepared, tmp_path / "cut", small(**changes))
    assert (again.epochs, again.best_epoch, again.best_score) == (
        outcome.epochs,
        outcome.best_epoch,
        outcome.best_score,
    )


@pytest.mark.parametrize("world", [2, 3])
def test_workers_share_the_order_of_one(prepared, world):
    """Row 8: whatever the number of workers, a step trains on the same windows, so batch and schedule stay fixed.

    Seen to fail: with `rank` among the words that seed the permutation.
    """
    config = small()

    def users(rank, world):
        source = LocalSource(
            prepared, config.data, batch_size=config.train.batch_size, seed=1, rank=rank, world=world
        )
        return [batch.users_S.tolist() for _, _, batch in source.train_batches(0, 0, 2)]

    alone, shares = users(0, 1), [users(rank, world) for rank in range(world)]
    for step, batch in enumerate(alone):
        assert sorted(batch) == sorted(np.concatenate([share[step] for share in shares]).tolist())


def _two(rank, prepared, run, stop):
    with pytest.MonkeyPatch.context() as patch:
        stop_before(patch, stop)
        with pytest.raises(KilledError):
            train(prepared, run, elastic(), rank=rank, world=2)


def elastic():
    # No dropout: its random numbers are each worker's own. Clipping, since Adam hides a gradient's scale.
    return small(
        **{"model.dropout": 0.0, "optim.clip_norm": 1.0, "optim.schedule": "cosine", "train.epochs": 2}
    )


@pytest.mark.timeout(900)
def test_continue_with_fewer_workers(prepared, tmp_path):
    """Row 8: begun on one worker, continued on two, ended on one; within rounding of a run on one.

    Seen to fail: with a loss that is the mean of each worker's mean (each then counts the same).
    """
    train(prepared, tmp_path / "whole", elastic())
    with pytest.MonkeyPatch.context() as patch:
        stop_before(patch, 2)
        with pytest.raises(KilledError):
            train(prepared, tmp_path / "run", elastic())
    run_pair(_two, tmp_path / "rendezvous", prepared, tmp_path / "run", 7)
    assert last_checkpoint(tmp_path / "run").global_step == 7
    train(prepared, tmp_path / "run", elastic())
    one, other = (last_checkpoint(tmp_path / name) for name in ("whole", "run"))
    assert one.global_step == other.global_step
    for name, weights in one.model_tensors().items():
        torch.testing.assert_close(other.model_tensors()[name], weights, rtol=1e-3, atol=2e-5, msg=name)
