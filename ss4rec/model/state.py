"""What a model remembers of a user: a row of numbers of fixed length, written by a scan or by single steps.

A row holds, for each member and block, the states of the time-aware SSM, the last inputs of the convolution and the
states of the relation-aware SSM. `encode_states` makes rows from whole histories, `step_states` takes one more event of
each user; both end in the same numbers, up to rounding.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from ss4rec.config import ModelConfig
from ss4rec.kernels import LayerBackend
from ss4rec.kernels.inputs import TimeSystem
from ss4rec.kernels.steps import time_decay, turned, turning
from ss4rec.model.block import BlockAhead, BlockState, SSBlock
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

    def split(self, rows_BX: Tensor) -> BlockState:
        """Return the states of all blocks, member after member, as views of the rows: `[B, blocks, ...]` each."""
        rows_BLX = rows_BX.unflatten(1, (self.members * self.blocks, sum(self._sizes)))
        time, past, relation = rows_BLX.split(self._sizes, dim=2)
        return BlockState(time, past.unflatten(2, self.past), relation.unflatten(2, self.relation))

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
    layout = StateLayout.of(model.config)
    own = blocks or [member.blocks for member in model.members]
    ahead = look_ahead(
        [cast(SSBlock, block) for some in own for block in some.children()], rows_BX, gaps_B, layout
    )
    new, outputs = [], []
    for member, some in zip(model.members, own, strict=True):
        values_BD = member.event_input(items_B, gaps_B, context)
        values_BD = values_BD if blocks is None else values_BD.to(next(some.parameters()).dtype)
        kernel = layer_kernel or member.kernels[2]
        for block in some.children():
            assert isinstance(block, SSBlock)
            values_BD, state = block.step(values_BD, next(ahead), kernel)
            new.append(BlockState(*(part.to(rows_BX.dtype) for part in state)))
        outputs.append(values_BD.to(rows_BX.dtype))
    return layout.join(new), torch.cat(outputs, dim=1)


def look_ahead(
    blocks: list[SSBlock], rows_BX: Tensor, gaps_B: Tensor, layout: StateLayout
) -> Iterator[BlockAhead]:
    """Yield what of a step depends on rows and gaps alone: one computation for all blocks of all members."""
    count = len(blocks)
    states = layout.split(rows_BX)
    times, relations = [block.time for block in blocks], [block.relation for block in blocks]
    system = TimeSystem.joined([time.system() for time in times])
    re_BLP, im_BLP, *taken = (part.unflatten(1, (count, -1)) for part in time_decay(gaps_B, system))
    left_BL2P = turned(states.time_B2P, turning(re_BLP, im_BLP))
    weight_LJE = torch.stack([relation.conv_weight[:, :-1].T for relation in relations])
    bias_LE = torch.stack([relation.conv_bias for relation in relations])
    window_BLE = (states.past_BJE * weight_LJE).sum(2) + bias_LE
    re_BL2P, im_BL2P = turning(*taken)
    for parts in zip(
        *(part.unbind(1) for part in (left_BL2P, re_BL2P, im_BL2P, window_BLE, *states[1:])), strict=True
    ):
        left_B2P, re_B2P, im_B2P, *rest = parts
        yield BlockAhead(left_B2P, (re_B2P, im_B2P), *rest)


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
