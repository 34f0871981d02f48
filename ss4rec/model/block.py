"""The SS-block: time-aware SSM, relation-aware SSM and, if asked for, a gated feed-forward layer."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from ss4rec.config import ModelConfig
from ss4rec.kernels import LayerBackend, RelationBackend, TimeBackend
from ss4rec.kernels.layer_torch import drop
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

    def forward(self, values_TD: Tensor, backend: LayerBackend) -> Tensor:
        """Return `[T, D]` for inputs `[T, D]`."""
        down_TD: Tensor = self.down(backend.swiglu(self.gate_up(values_TD)))
        return down_TD


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
        layers: list[Callable[[Tensor], Tensor]] = [
            lambda x: self.time(x, gaps_T, segments, time_backend),
            lambda x: self.relation(x, segments, relation_backend),
        ]
        if (feed_forward := self.feed_forward) is not None:
            layers.append(lambda x: feed_forward(x, layer_backend))
        for index, layer in enumerate(layers):
            values_TD = self._add(index, values_TD, layer, layer_backend)
        return values_TD

    def _add(
        self, index: int, values_TD: Tensor, layer: Callable[[Tensor], Tensor], backend: LayerBackend
    ) -> Tensor:
        """Add layer number `index` to the residual stream."""
        norm = self.norms[index % len(self.norms)]
        dropouts = self.dropouts if self.training else (0.0, 0.0)
        if self.pre_norm:
            return values_TD + drop(layer(norm(values_TD)), *dropouts)
        return backend.residual_norm(values_TD, layer(values_TD), norm.weight, norm.bias, norm.eps, *dropouts)
