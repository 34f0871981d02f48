"""The SS-block: time-aware SSM, relation-aware SSM and, if asked for, a gated feed-forward layer."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ss4rec.config import ModelConfig
from ss4rec.kernels import RelationBackend, TimeBackend
from ss4rec.model.relation_ssm import RelationSSM
from ss4rec.model.segments import Segments
from ss4rec.model.time_ssm import TimeSSM


class FeedForward(nn.Module):
    """SwiGLU (arXiv 2002.05202): W_out (SiLU(W_gate x) ⊙ W_up x), no biases."""

    def __init__(self, dim: int, hidden: int, init_std: float) -> None:
        super().__init__()
        self.gate_up = nn.Linear(dim, 2 * hidden, bias=False)
        self.down = nn.Linear(hidden, dim, bias=False)
        nn.init.normal_(self.gate_up.weight, std=init_std)
        nn.init.normal_(self.down.weight, std=init_std)

    def forward(self, values_TD: Tensor) -> Tensor:
        """Return `[T, D]` for inputs `[T, D]`."""
        gate_TF, up_TF = self.gate_up(values_TD).chunk(2, dim=1)
        return self.down(F.silu(gate_TF) * up_TF)


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
        self.dropout = nn.Dropout(config.dropout)
        self.layer_dropout = config.layer_dropout
        self.pre_norm = config.norm == "pre"

    def forward(
        self,
        values_TD: Tensor,
        gaps_T: Tensor,
        segments: Segments,
        time_backend: TimeBackend,
        relation_backend: RelationBackend,
    ) -> Tensor:
        """Return `[T, D]` for inputs `[T, D]` and gaps in seconds."""
        values_TD = self._layer(0, values_TD, lambda x: self.time(x, gaps_T, segments, time_backend))
        values_TD = self._layer(1, values_TD, lambda x: self.relation(x, segments, relation_backend))
        if self.feed_forward is not None:
            values_TD = self._layer(2, values_TD, self.feed_forward)
        return values_TD

    def _layer(self, index: int, values_TD: Tensor, layer: Callable[[Tensor], Tensor]) -> Tensor:
        """Add layer number `index` to the residual stream."""
        norm = self.norms[index % len(self.norms)]
        if self.pre_norm:
            return values_TD + self._drop(layer(norm(values_TD)))
        return norm(values_TD + self._drop(layer(values_TD)))

    def _drop(self, values_TD: Tensor) -> Tensor:
        """Drop single values, and whole events' values; what is left grows so that the mean stays."""
        values_TD = self.dropout(values_TD)
        if self.layer_dropout and self.training:
            kept_T1 = torch.rand_like(values_TD[:, :1]) >= self.layer_dropout
            values_TD = values_TD * kept_T1 / (1.0 - self.layer_dropout)
        return values_TD
