"""What a checkpoint says about the loop, checked on the way in: a file that was tampered with is one sentence."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from pydantic import BaseModel, ConfigDict, FiniteFloat, NonNegativeInt, ValidationError
from torch import Tensor, nn

from ss4rec.errors import CheckpointError
from ss4rec.runs.checkpoint import Checkpoint


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
