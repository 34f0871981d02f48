"""The SS-block: time-aware SSM, relation-aware SSM and, if asked for, a gated feed-forward layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ss4rec.config import ModelConfig
from ss4rec.kernels import LayerBackend, RelationBackend, TimeBackend
from ss4rec.kernels.layer_torch import drop
from ss4rec.model.relation_ssm import RelationSSM
from ss4rec.model.segments import Segments
from ss4rec.model.time_ssm import TimeSSM

HORIZON_CODES = 64
"""Half octaves of seconds."""


class FeedForward(nn.Module):
    """SwiGLU (arXiv 2002.05202): W_out (SiLU(W_gate x) ⊙ W_up x), no biases."""

    def __init__(self, dim: int, hidden: int, init_std: float) -> None:
        super().__init__()
        self.gate_up = nn.Linear(dim, 2 * hidden, bias=False)
        self.down = nn.Linear(hidden, dim, bias=False)
        nn.init.normal_(self.gate_up.weight, std=init_std)
        nn.init.normal_(self.down.weight, std=init_std)

    def forward(self, values_TD: Tensor, backend: LayerBackend) -> Tensor:
        """Return `[T, D]` for inputs `[T, D]`."""
        down_TD: Tensor = self.down(backend.swiglu(self.gate_up(values_TD)))
        return down_TD


class Horizon(nn.Module):
    """A layer behind the blocks that knows how long ago the last event was, or that nobody knows.

    It comes last, so that what is drawn for one event in training is not seen by later ones, and so that asking again
    later needs no new pass over the history. The vector of each half octave of seconds is zero at the start.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.zeros(1 + HORIZON_CODES, config.dim))
        self.feed_forward = FeedForward(config.dim, 2 * config.dim, config.init_std)
        self.norm = nn.LayerNorm(config.dim, eps=config.norm_eps)
        self.dropout = config.dropout

    def forward(self, values_TD: Tensor, elapsed_T: Tensor | None, backend: LayerBackend) -> Tensor:
        """Return `[T, D]` for hidden states `[T, D]` and seconds, negative for unknown."""
        if elapsed_T is None:
            elapsed_T = values_TD.new_full(values_TD.shape[:1], -1.0, dtype=torch.float32)
        code_T = 1 + (2 * torch.log2(1 + elapsed_T.clamp_min(0))).long().clamp_max(HORIZON_CODES - 1)
        code_T = torch.where(elapsed_T < 0, 0, code_T)
        chosen_TC = F.one_hot(code_T, 1 + HORIZON_CODES).to(values_TD.dtype)
        values_TD = values_TD + chosen_TC @ self.table.to(values_TD.dtype)
        dropout = self.dropout if self.training else 0.0
        layer_TD = self.feed_forward(values_TD, backend)
        norm = self.norm
        return backend.residual_norm(values_TD, layer_TD, norm.weight, norm.bias, norm.eps, dropout, 0.0)


class BlockState(NamedTuple):
    """What a block remembers of B users."""

    time_B2P: Tensor
    """States of the time-aware SSM, real parts then imaginary parts."""
    past_BJE: Tensor
    """Last K - 1 inputs of the convolution, oldest first; 0 where there was none."""
    relation_BEN: Tensor
    """States of the relation-aware SSM."""


class BlockAhead(NamedTuple):
    """What of a step depends on the state and the gap alone, for B users (`ss4rec.model.state.look_ahead`)."""

    left_B2P: Tensor
    """What the gap has left of the time-aware states."""
    taken: tuple[Tensor, Tensor]
    """What the gap makes of the time-aware SSM's inputs (`ss4rec.kernels.steps.turned`)."""
    window_BE: Tensor
    """What the convolution says of the inputs before."""
    past_BJE: Tensor
    """As in `BlockState`."""
    relation_BEN: Tensor
    """As in `BlockState`."""


Layer = Callable[[Tensor], Tensor]


class SSBlock(nn.Module):
    """Residual layers with layer norm after each sum (published) or before each layer.

    The published block has one norm for all its layers; `shared_norm=False` gives each its own.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.time = TimeSSM(config)
        self.relation = RelationSSM(config)
        hidden = round(config.feed_forward * config.dim)
        self.feed_forward = FeedForward(config.dim, hidden, config.init_std) if hidden else None
        layers = 3 if hidden else 2
        norms = [
            nn.LayerNorm(config.dim, eps=config.norm_eps) for _ in range(1 if config.shared_norm else layers)
        ]
        self.norms = nn.ModuleList(norms)
        self.dropouts = (config.dropout, config.layer_dropout)
        self.pre_norm = config.norm == "pre"

    def forward(
        self,
        values_TD: Tensor,
        gaps_T: Tensor,
        segments: Segments,
        time_backend: TimeBackend,
        relation_backend: RelationBackend,
        layer_backend: LayerBackend,
    ) -> Tensor:
        """Return `[T, D]` for inputs `[T, D]` and gaps in seconds."""
        return self.through(
            values_TD,
            lambda x: self.time(x, gaps_T, segments, time_backend),
            lambda x: self.relation(x, segments, relation_backend),
            layer_backend,
        )

    def encode(
        self,
        values_TD: Tensor,
        gaps_T: Tensor,
        segments: Segments,
        time_backend: TimeBackend,
        relation_backend: RelationBackend,
        layer_backend: LayerBackend,
    ) -> tuple[Tensor, BlockState]:
        """Return what `forward` does, and the state after each sequence."""
        states: list[Tensor] = []

        def time(x_TD: Tensor) -> Tensor:
            out_TD, states_T2P = self.time.encode(x_TD, gaps_T, segments, time_backend)
            states.append(states_T2P[segments.last_S])
            return out_TD

        def relation(x_TD: Tensor) -> Tensor:
            out_TD, *left = self.relation.encode(x_TD, segments, relation_backend)
            states.extend(left)
            return out_TD

        values_TD = self.through(values_TD, time, relation, layer_backend)
        return values_TD, BlockState(*states)

    def step(
        self, values_BD: Tensor, ahead: BlockAhead, layer_backend: LayerBackend
    ) -> tuple[Tensor, BlockState]:
        """Take one event of each user; returns `[B, D]` and the new state."""
        states: list[Tensor] = []

        def time(x_BD: Tensor) -> Tensor:
            out_BD, *new = self.time.step(x_BD, ahead.left_B2P, ahead.taken)
            states.extend(new)
            return out_BD

        def relation(x_BD: Tensor) -> Tensor:
            out_BD, past_BE, state_BEN = self.relation.step(x_BD, ahead.window_BE, ahead.relation_BEN)
            states.extend(
                (torch.cat([ahead.past_BJE, past_BE[:, None].to(ahead.past_BJE)], 1)[:, 1:], state_BEN)
            )
            return out_BD

        values_BD = self.through(values_BD, time, relation, layer_backend)
        return values_BD, BlockState(*states)

    def through(self, values_TD: Tensor, time: Layer, relation: Layer, layer_backend: LayerBackend) -> Tensor:
        """Send values through the layers, each of which is added to the residual stream."""
        layers = [time, relation]
        if (feed_forward := self.feed_forward) is not None:
            layers.append(lambda x: feed_forward(x, layer_backend))
        for index, layer in enumerate(layers):
            values_TD = self._add(index, values_TD, layer, layer_backend)
        return values_TD

    def _add(self, index: int, values_TD: Tensor, layer: Layer, backend: LayerBackend) -> Tensor:
        """Add layer number `index` to the residual stream."""
        norm = self.norms[index % len(self.norms)]
        dropouts = self.dropouts if self.training else (0.0, 0.0)
        if self.pre_norm:
            return values_TD + drop(layer(norm(values_TD)), *dropouts)
        return backend.residual_norm(values_TD, layer(values_TD), norm.weight, norm.bias, norm.eps, *dropouts)
