"""What a model remembers of a user: a row of numbers of fixed length, written by a scan or by single steps.

A row holds, for each member and block, the states of the time-aware SSM, the last inputs of the convolution and the
states of the relation-aware SSM. `encode_states` makes rows from whole histories, `step_states` takes one more event of
each user; both end in the same numbers, up to rounding.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ss4rec.config import ModelConfig
from ss4rec.kernels import LayerBackend
from ss4rec.model.block import BlockState, SSBlock
from ss4rec.model.inputs import Context
from ss4rec.model.segments import Segments
from ss4rec.model.ss4rec import SequenceModel, SS4Rec


@dataclass(frozen=True)
class StateLayout:
    """Where each part of a row lies."""

    members: int
    blocks: int
    time: int
    """Numbers of a block's time-aware state, 2P."""
    past: tuple[int, int]
    """Shape of a block's convolution inputs, (K - 1, E)."""
    relation: tuple[int, int]
    """Shape of a block's relation-aware state, (E, N)."""

    @classmethod
    def of(cls, config: ModelConfig) -> StateLayout:
        """Return the layout of models of this shape."""
        inner = config.expand * config.dim
        past, relation = (config.conv_width - 1, inner), (inner, config.relation_states)
        return cls(config.members, config.blocks, 2 * config.time_states, past, relation)

    @property
    def width(self) -> int:
        """Numbers in a row, X."""
        return self.members * self.blocks * sum(self._sizes)

    @property
    def _sizes(self) -> tuple[int, int, int]:
        return self.time, self.past[0] * self.past[1], self.relation[0] * self.relation[1]

    def split(self, rows_BX: Tensor) -> Iterator[BlockState]:
        """Yield the state of each block, member after member, as views of the rows."""
        parts = rows_BX.split([*self._sizes] * (self.members * self.blocks), dim=1)
        for time, past, relation in zip(parts[::3], parts[1::3], parts[2::3], strict=True):
            yield BlockState(time, past.unflatten(1, self.past), relation.unflatten(1, self.relation))

    def by_kind(self, rows_BX: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return all time-aware states, inputs of convolutions and relation-aware states, `[B, ...]` each."""
        parts = rows_BX.split([*self._sizes] * (self.members * self.blocks), dim=1)
        return torch.cat(parts[::3], 1), torch.cat(parts[1::3], 1), torch.cat(parts[2::3], 1)

    def from_kinds(self, *kinds: Tensor) -> Tensor:
        """Return the rows that `by_kind` took apart; more numbers than there are in a row are left out."""
        blocks = self.members * self.blocks
        parts = (
            kind[:, : blocks * size].chunk(blocks, dim=1)
            for kind, size in zip(kinds, self._sizes, strict=True)
            if size
        )
        return torch.cat([part for block in zip(*parts, strict=True) for part in block], dim=1)

    @staticmethod
    def join(states: list[BlockState]) -> Tensor:
        """Return the rows of these states, in the order of `split`."""
        return torch.cat([part.flatten(1) for state in states for part in state], dim=1)


def encode_states(
    model: SequenceModel, items_T: Tensor, gaps_T: Tensor, segments: Segments, context: Context | None = None
) -> tuple[Tensor, Tensor]:
    """Return what a model remembers after each sequence.

    Args:
        model: the model, in evaluation mode.
        items_T: as in `SequenceModel.encode`, like the other arguments.
        gaps_T: seconds.
        segments: where sequences start.
        context: what else is known of each event.

    Returns:
        Rows `[S, X]`, and what left the blocks after the last event, members beside one another, `[S, M D]`.
    """
    states, outputs = [], []
    for member in model.members:
        values_TD, kernels = member.event_input(items_T, gaps_T, context), member.kernels
        for block in member.blocks:
            assert isinstance(block, SSBlock)
            values_TD, state = block.encode(values_TD, gaps_T, segments, *kernels)
            states.append(state)
        outputs.append(values_TD[segments.last_S])
    return StateLayout.join(states), torch.cat(outputs, dim=1)


def step_states(
    model: SequenceModel,
    rows_BX: Tensor,
    items_B: Tensor,
    gaps_B: Tensor,
    context: Context | None = None,
    layer_kernel: LayerBackend | None = None,
    blocks: nn.ModuleList | None = None,
) -> tuple[Tensor, Tensor]:
    """Take one more event of each user; returns new rows and what left the blocks, as `encode_states` does.

    Args:
        model: the model, in evaluation mode.
        rows_BX: what it remembers; zeros before the first event.
        items_B: the event's item.
        gaps_B: its gap in seconds, float32.
        context: what else is known of it.
        layer_kernel: what surrounds layers; None: as configured for the model's device.
        blocks: the blocks of each member, in another type than the model's; None: its own.
    """
    old, new, outputs = StateLayout.of(model.config).split(rows_BX), [], []
    for member, own in zip(model.members, blocks or [m.blocks for m in model.members], strict=True):
        values_BD = member.event_input(items_B, gaps_B, context)
        values_BD = values_BD if blocks is None else values_BD.to(next(own.parameters()).dtype)
        kernel = layer_kernel or member.kernels[2]
        for block in own.children():
            assert isinstance(block, SSBlock)
            values_BD, state = block.step(values_BD, gaps_B, next(old), kernel)
            new.append(BlockState(*(part.to(rows_BX.dtype) for part in state)))
        outputs.append(values_BD.to(rows_BX.dtype))
    return StateLayout.join(new), torch.cat(outputs, dim=1)


def read_out(model: SequenceModel, outputs_BD: Tensor, elapsed_B: Tensor | None = None) -> Tensor:
    """Return hidden states as `SequenceModel.encode` gives them, for what left the blocks.

    Args:
        model: the model.
        outputs_BD: members beside one another, `[B, M D]`.
        elapsed_B: seconds since each user's last event, negative where nobody knows; see `Context.elapsed_T`.
    """
    members: list[SS4Rec] = list(model.members)
    parts = outputs_BD.chunk(len(members), dim=1)
    hidden = [member.read_out(part, elapsed_B) for member, part in zip(members, parts, strict=True)]
    return torch.cat(hidden, dim=1) / len(members) if len(members) > 1 else hidden[0]
