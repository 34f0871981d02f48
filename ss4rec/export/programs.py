"""What is exported: the encoder of a history, the step of an event, and the scores, with tensors alone in and out."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ss4rec.kernels import LayerBackend, resolve_layer_backend
from ss4rec.kernels.prefix import complex_prefix, prefix
from ss4rec.kernels.steps import time_step
from ss4rec.model.block import BlockState, SSBlock
from ss4rec.model.inputs import Context
from ss4rec.model.relation_ssm import RelationSSM
from ss4rec.model.ss4rec import SequenceModel
from ss4rec.model.state import StateLayout, read_out
from ss4rec.model.time_ssm import TimeSSM


class HistoryEncoder(nn.Module):
    """`encode_states` of one history, by doubling (`ss4rec.kernels.prefix`).

    Args:
        model: the model.
        most_events: longest history; the program gets a round more each time this doubles.
    """

    def __init__(self, model: SequenceModel, most_events: int) -> None:
        super().__init__()
        self.model = model
        self.rounds = math.ceil(math.log2(most_events))
        self._layer = resolve_layer_backend("reference", "cpu")

    def forward(
        self, items_T: Tensor, gaps_T: Tensor, hours_T: Tensor, ratings_T: Tensor, profiles_TF: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the row `[1, X]` and what left the blocks, `[1, M D]`; arguments as in `SequenceModel.encode`."""
        states, outputs = [], []
        context = Context(hours_T, ratings_T, profiles_TF)
        for member in self.model.members:
            values_TD = member.event_input(items_T, gaps_T, context)
            for block in member.blocks:
                assert isinstance(block, SSBlock)
                values_TD, state = _through_block(block, values_TD, gaps_T, self.rounds, self._layer)
                states.append(state)
            outputs.append(values_TD[-1:])
        return StateLayout.join(states), torch.cat(outputs, dim=1)


class Scores(nn.Module):
    """The scores of all items for what left the blocks; rows of items are kept as they are now."""

    def __init__(self, model: SequenceModel) -> None:
        super().__init__()
        self.model = model
        with torch.no_grad():
            self.register_buffer("items_VD", model.item_matrix().detach().clone())

    items_VD: Tensor

    def forward(self, outputs_BD: Tensor, elapsed_B: Tensor) -> Tensor:
        """Return `[B, V]`, column 0 is padding; `elapsed_B` as in `read_out`.

        What the model adds to the scores of items that were seen (`repeats`) is not in them.
        """
        hidden_BD = read_out(self.model, outputs_BD, elapsed_B)
        return hidden_BD.to(self.items_VD.dtype) @ self.items_VD.T


def _through_block(
    block: SSBlock, values_TD: Tensor, gaps_T: Tensor, rounds: int, layer: LayerBackend
) -> tuple[Tensor, BlockState]:
    """Return what a block makes of one history, and its state after it."""
    states: list[Tensor] = []

    def time(x_TD: Tensor) -> Tensor:
        states_T2P = _time_states(block.time, x_TD, gaps_T, rounds)
        states.append(states_T2P[-1:])
        return block.time.output(states_T2P, x_TD)

    def relation(x_TD: Tensor) -> Tensor:
        out_TD, past_1JE, state_1EN = _relation(block.relation, x_TD, rounds)
        states.extend((past_1JE, state_1EN))
        return out_TD

    values_TD = block.through(values_TD, time, relation, layer)
    return values_TD, BlockState(*states)


def _time_states(layer: TimeSSM, values_TD: Tensor, gaps_T: Tensor, rounds: int) -> Tensor:
    """Return the states after every event: from single steps, which are linear in the state."""
    drive_T2P = F.linear(values_TD, layer.input_2PD)
    nothing_T2P = torch.zeros_like(drive_T2P)
    one_T2P = torch.cat(
        [torch.ones_like(part) for part in drive_T2P.chunk(2, 1)[:1]] + [nothing_T2P.chunk(2, 1)[1]], 1
    )
    added_T2P = time_step(drive_T2P, gaps_T, layer.system(), nothing_T2P)
    decay_T2P = time_step(nothing_T2P, gaps_T, layer.system(), one_T2P)
    return complex_prefix(decay_T2P, added_T2P, rounds)


def _relation(layer: RelationSSM, values_TD: Tensor, rounds: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the layer's output and both states after the last event."""
    past_TE, z_TE = layer.in_proj(values_TD).chunk(2, dim=1)
    taps = layer.conv_weight.shape[1]
    padded_JE = F.pad(past_TE, (0, 0, taps - 1, 0))
    windows = [padded_JE[age : age + past_TE.shape[0]] * layer.conv_weight[:, age] for age in range(taps)]
    u_TE = F.silu(torch.stack(windows).sum(0) + layer.conv_bias)
    delta_TE, B_TN, C_TN = layer.select(u_TE)
    dt_TE = F.softplus(delta_TE + layer.dt_bias)
    decay_TEN = torch.exp(dt_TE[:, :, None] * layer.decay())
    h_TEN = prefix(decay_TEN, (dt_TE * u_TE)[:, :, None] * B_TN[:, None, :], rounds)
    y_TE = ((h_TEN @ C_TN[:, :, None]).squeeze(2) + layer.skip * u_TE) * F.silu(z_TE)
    return layer.out_proj(y_TE), padded_JE[None, padded_JE.shape[0] - (taps - 1) :], h_TEN[-1:]
