"""A training as a checkpoint, and back: which tensors go in, which checkpoint continues, what it must agree with.

State that comes from a file is checked on the way in: a file that was tampered with is one sentence.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict, FiniteFloat, NonNegativeInt, PositiveInt, ValidationError
from torch import Tensor, nn

from ss4rec.errors import CheckpointError
from ss4rec.runs import checkpoint
from ss4rec.runs.checkpoint import Checkpoint
from ss4rec.runs.folder import RunFolder
from ss4rec.runs.load import load_tensors, load_weights
from ss4rec.train.item_rows import ITEM_TABLE, LAST
from ss4rec.train.saver import HostCopy, Saver
from ss4rec.train.step import TrainStep


class StoppingState(BaseModel):
    """`EarlyStopping.state()`; unknown keys (its settings) are the configuration's business."""

    model_config = ConfigDict(frozen=True)

    best: FiniteFloat | None
    best_epoch: int
    waited: NonNegativeInt


class LoopState(BaseModel):
    """Position and running figures of a training loop."""

    model_config = ConfigDict(frozen=True)

    epoch: NonNegativeInt
    step: NonNegativeInt
    global_step: NonNegativeInt
    stopping: StoppingState
    bad_steps: NonNegativeInt
    elapsed_s: FiniteFloat
    sums: tuple[FiniteFloat, FiniteFloat]
    """Loss and targets of the epoch so far."""
    planned_steps: PositiveInt | None = None
    """Steps of the whole training, where the time has decided them."""
    returns: NonNegativeInt = 0
    """Times that training went back with half of the rate."""

    @classmethod
    def of(cls, saved: Checkpoint, *, epochs: int, steps_per_epoch: int) -> LoopState:
        """Read the state of a checkpoint.

        Raises:
            CheckpointError: if a field is missing or lies outside of the run.
        """
        try:
            state = cls.model_validate(saved.state)
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(str(part) for part in first["loc"])
            raise CheckpointError(f"checkpoint {saved.path}: state.json: {field}: {first['msg']}") from None
        place = state.epoch * steps_per_epoch + state.step
        if state.step >= steps_per_epoch or state.epoch > epochs or place != state.global_step:
            raise CheckpointError(
                f"checkpoint {saved.path} stands at epoch {state.epoch}, step {state.step} (step {state.global_step} "
                f"of all), and this run has {epochs} epochs of {steps_per_epoch} steps: it belongs to another run"
            )
        return state


def best_checkpoint(folder: RunFolder) -> Path | None:
    """Return the best intact checkpoint's path, None for a run without any."""
    try:
        return checkpoint.best(folder.checkpoints).path
    except CheckpointError:
        return None


def newest_checkpoint(folder: RunFolder, say: Callable[[str], None]) -> Path | CheckpointError | None:
    """Return the newest intact checkpoint's path, None for a run without any, or why none can be used.

    Only for the one process that writes this run.
    """
    if folder.checkpoints.is_dir():
        checkpoint.sweep(folder.checkpoints)
    found, problems = checkpoint.last(folder.checkpoints)
    if found is not None:
        for problem in problems:
            say(f"warning: {problem}; using the one before it, {found.path.name}")
        return found.path
    if problems:
        return CheckpointError(
            "no checkpoint of this run is intact, so it cannot continue:\n  "
            + "\n  ".join(problems)
            + f"\nPut a good copy back, or remove {folder.checkpoints} to start anew"
        )
    if rows := folder.metrics():
        say(
            f"warning: {folder.path.name} was at step {rows[-1]['global_step']} and has no checkpoint; "
            "training starts anew"
        )
    folder.rewind_metrics(-1)
    return None


def require_same_run(saved: Checkpoint, identity: Mapping[str, str], earlier: Sequence[str] = ()) -> None:
    """Compare the facts that a checkpoint carries with this run's.

    Args:
        saved: the checkpoint.
        identity: this run's facts by name.
        earlier: fingerprints that this run had before its epochs were raised.

    Raises:
        CheckpointError: naming the first fact that differs.
    """
    for name, expected in identity.items():
        allowed = (expected, *earlier) if name == "fingerprint" else (expected,)
        if saved.state.get(name) not in allowed:
            raise CheckpointError(
                f"checkpoint {saved.path} has {name} {saved.state.get(name)}, this run has {expected}; "
                "choose another --name or repeat the first run's options"
            )


def save(
    saver: Saver,
    folder: Path,
    train_step: TrainStep,
    state: Mapping[str, object],
    keep: int,
    may_write: Callable[[], None],
) -> None:
    """Copy a training to the host and begin to write it as a checkpoint, once the one before is whole.

    Args:
        saver: writes it, and raises what goes wrong when it is asked.
        folder: the run's `checkpoints/`.
        train_step: holds weights, optimizer and moving average.
        state: plain data of the loop.
        keep: checkpoints that are kept, see `checkpoint.prune`.
        may_write: see `checkpoint.save`.

    Raises:
        CheckpointError, LeaseError: what went wrong with the one before.
    """
    saver.wait()
    model, training = snapshot(train_step, saver.copy)

    def write() -> None:
        saver.copy.ready()
        checkpoint.save(folder, model=model, training=training, state=state, allowed=may_write)
        checkpoint.prune(folder, keep)

    saver.start(write)


def snapshot(train_step: TrainStep, copy: HostCopy) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Copy a training to the host: the weights to serve, and all that training needs besides.

    Args:
        train_step: holds weights, optimizer and moving average.
        copy: makes the copies; they are whole once `copy.ready` has returned.
    """
    model, average = train_step.model, train_step.average
    moments = {
        f"optimizer.{index}.{name}": tensor
        for index, entry in train_step.optimizer.state_dict()["state"].items()
        for name, tensor in entry.items()
    }
    training = copy(moments, "")
    if average:
        training |= copy({f"raw.{name}": tensor for name, tensor in model.state_dict().items()}, "")
        average.swap()
    live = model.state_dict()
    if rows := train_step.rows:
        training |= copy(rows.state_tensors(), "")
        live |= {} if rows.settled else {ITEM_TABLE: rows.settled_table()}
    weights = copy(live, "model.")
    if average:
        average.swap()
    return weights, training


def restore(saved: Checkpoint, train_step: TrainStep, state: LoopState) -> None:
    """Put a checkpoint's weights, optimizer, guard and sums into `train_step`.

    Raises:
        CheckpointError: if tensors are missing, do not fit, or are not finite.
    """
    tensors = saved.training_tensors()
    if LAST in tensors and train_step.rows is None:
        raise CheckpointError(
            f"checkpoint {saved.path} was written between two looks at the whole item table, and this run trains "
            "all of it at each step; set optim.item_updates=touched"
        )
    begins = state.global_step == 0 and not any(name.startswith("optimizer.") for name in tensors)
    # The first weights of a warm start with a fresh optimizer.
    entries = {} if begins else optimizer_entries(saved, tensors, train_step.optimizer)
    load_weights(train_step.model, saved)
    if train_step.average:
        train_step.average.swap()  # the file's weights are the average
        raw = {name.removeprefix("raw."): t for name, t in tensors.items() if name.startswith("raw.")}
        load_tensors(train_step.model, raw, saved.path)
    train_step.optimizer.load_state_dict({**train_step.optimizer.state_dict(), "state": entries})
    if train_step.rows:
        train_step.rows.load(tensors, saved.path)
    train_step.forget_graphs()
    train_step.guard.count.fill_(state.bad_steps)
    train_step.sums.copy_(torch.tensor(state.sums, dtype=torch.float64))


def optimizer_entries(
    saved: Checkpoint, tensors: Mapping[str, Tensor], optimizer: torch.optim.Optimizer
) -> dict[int, dict[str, Tensor]]:
    """Return the optimizer's state by parameter from tensors named `optimizer.INDEX.KEY`.

    Raises:
        CheckpointError: if one is missing or has another shape than its parameter.
    """
    parameters: list[nn.Parameter] = [p for group in optimizer.param_groups for p in group["params"]]
    entries: dict[int, dict[str, Tensor]] = {}
    for index, parameter in enumerate(parameters):
        for key, shape in (("step", ()), ("exp_avg", parameter.shape), ("exp_avg_sq", parameter.shape)):
            name = f"optimizer.{index}.{key}"
            found = tensors.get(name)
            if found is None or tuple(found.shape) != tuple(shape) or not found.is_floating_point():
                what = "is missing" if found is None else f"is {found.dtype} {tuple(found.shape)}"
                raise CheckpointError(
                    f"checkpoint {saved.path}: {name} {what}, expected floats {tuple(shape)}; it is another model's"
                )
            if not bool(torch.isfinite(found).all()):
                raise CheckpointError(
                    f"checkpoint {saved.path}: {name} is not finite; use an earlier checkpoint"
                )
            entries.setdefault(index, {})[key] = found
    return entries
