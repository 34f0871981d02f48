"""The step from state to state as a recorded graph: most of the time of a single user's step is Python's.

`torch.jit.trace` records what `step_states` does for one batch. Nothing in it depends on a value or on the number of
users, so the graph is right for any batch; tests compare it with the scans. torch names `torch.export` as the
successor, whose programs run at half of this speed without a compiler on the machine.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ss4rec.model.inputs import Context
from ss4rec.model.ss4rec import SequenceModel
from ss4rec.model.state import StateLayout, read_out, step_states

Step = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
"""Rows, items, gaps in seconds, hours, ratings, profiles -> new rows and what left the blocks."""
EXAMPLE_USERS = 3


class StateStep(nn.Module):
    """`step_states` with tensors alone as arguments, for tracing and export.

    Args:
        model: the model.
        keep: whether new rows are made; without, those that come back have no columns.
        leave: whether what left the blocks is made; without, what comes back has no columns. New rows need nothing of
            the last block behind its states, and a step's time is that of reading weights.
        exact: have the blocks work in float64, whatever the model's type; states stay in theirs. Where a norm meets
            values that are nearly equal, a block enlarges the rounding of float32 a thousandfold, and a state is to be
            as good as encoding the whole history. It costs a tenth to a third of the time of a step on a CPU.
    """

    def __init__(
        self, model: SequenceModel, *, exact: bool = False, keep: bool = True, leave: bool = True
    ) -> None:
        super().__init__()
        self.model = model
        copies = [copy.deepcopy(member.blocks).double() for member in model.members if exact]
        self.blocks = nn.ModuleList(copies) if exact else None
        self.keep, self.leave = keep, leave

    def forward(
        self,
        rows_BX: Tensor,
        items_B: Tensor,
        gaps_B: Tensor,
        hours_B: Tensor,
        ratings_B: Tensor,
        profiles_BF: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Return new rows and what left the blocks; arguments as in `step_states` and `Context`."""
        context = Context(hours_B, ratings_B, profiles_BF)
        new_BX, outputs_BD = step_states(self.model, rows_BX, items_B, gaps_B, context, blocks=self.blocks)
        nothing_B0 = rows_BX[:, :0]
        return new_BX if self.keep else nothing_B0, outputs_BD if self.leave else nothing_B0


class Question(nn.Module):
    """From rows of a model that waits for the next moment to the scores of all items, with tensors alone as arguments.

    Args:
        model: the model.
        items_VD: its item rows.
    """

    def __init__(self, model: SequenceModel, items_VD: Tensor) -> None:
        super().__init__()
        self.step = StateStep(model, keep=False)
        self.register_buffer("items_VD", items_VD)

    items_VD: Tensor

    def forward(self, elapsed_B: Tensor, *step: Tensor) -> Tensor:
        """Return scores `[B, V]` without what repeats add; `elapsed_B` as in `read_out`, the rest as in `StateStep`."""
        _, outputs_BD = self.step(*step)
        hidden_BD = read_out(self.step.model, outputs_BD, elapsed_B)
        return hidden_BD.to(self.items_VD.dtype) @ self.items_VD.T


def example_step(model: SequenceModel, users: int = EXAMPLE_USERS) -> tuple[Tensor, ...]:
    """Return arguments of `StateStep` that say nothing."""
    width, device = StateLayout.of(model.config).width, model.device
    kind = next(model.parameters()).dtype
    return (
        torch.zeros(users, width, dtype=kind, device=device),
        torch.ones(users, dtype=torch.int64, device=device),
        torch.ones(users, device=device),
        torch.full((users,), 400_000, device=device),
        torch.ones(users, device=device),
        torch.zeros(users, 1, dtype=torch.int64, device=device),
    )


def traced_step(step: StateStep) -> Step:
    """Record the step of a model whose weights will not change any more."""
    recorded: Step = _traced(step, example_step(step.model))
    return recorded


def traced_question(question: Question) -> Callable[..., Tensor]:
    """Record the questions to a model whose weights will not change any more."""
    example = example_step(question.step.model)
    recorded: Callable[..., Tensor] = _traced(question, (torch.ones_like(example[2]), *example))
    return recorded


def _traced(module: nn.Module, example: tuple[Tensor, ...]) -> Callable[..., Any]:
    with warnings.catch_warnings(), torch.no_grad():
        # Of torch's future, and that the number of rows is compared with that of items: either way is right.
        warnings.simplefilter("ignore")
        graph = torch.jit.freeze(torch.jit.trace(module.eval(), example, check_trace=False))
        for _ in range(3):  # its first calls look for what can be made faster
            graph(*example)
    recorded: Callable[..., Any] = graph
    return recorded
