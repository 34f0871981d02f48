"""The relation-aware SSM: a Mamba-1 layer whose step depends on the items alone."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ss4rec.config import ModelConfig
from ss4rec.kernels import RelationBackend
from ss4rec.kernels.inputs import SelectiveInputs
from ss4rec.kernels.steps import conv_past, relation_step
from ss4rec.model.init import log_uniform
from ss4rec.model.segments import Segments

DIM_PER_STEP_RANK = 16
"""Mamba's rule for the rank of the step projection: ceil(dim / 16)."""
MAMBA_STEPS = (0.001, 0.1)
"""Range of Mamba's own initial steps (`dt_init="mamba"`)."""


class RelationSSM(nn.Module):
    """Mamba-1 (arXiv 2312.00752, section 3.4): projection, causal convolution, selective scan, gate, projection."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        inner, states = config.expand * config.dim, config.relation_states
        self.sizes = [math.ceil(config.dim / DIM_PER_STEP_RANK), states, states]
        self.in_proj = _linear(config.dim, 2 * inner, config.init_std)
        # torch's own initialisation of a depthwise convolution, which RecBole's initialiser leaves alone.
        bound = 1 / math.sqrt(config.conv_width)
        self.conv_weight = nn.Parameter(torch.empty(inner, config.conv_width).uniform_(-bound, bound))
        self.conv_bias = nn.Parameter(torch.empty(inner).uniform_(-bound, bound))
        self.x_proj = _linear(inner, sum(self.sizes), config.init_std)
        self.dt_proj = _linear(self.sizes[0], inner, config.init_std)
        self.dt_bias = nn.Parameter(torch.zeros(inner))
        if config.dt_init == "mamba":
            step_E = log_uniform(inner, *MAMBA_STEPS).exp()
            self.dt_bias = nn.Parameter(torch.log(torch.expm1(step_E)))  # the inverse of softplus
        self.A_log = nn.Parameter(torch.log(torch.arange(1.0, states + 1)).repeat(inner, 1))
        self.skip = nn.Parameter(torch.ones(inner))
        self.out_proj = _linear(inner, config.dim, config.init_std)

    def forward(self, values_TD: Tensor, segments: Segments, backend: RelationBackend) -> Tensor:
        """Return `[T, D]` for inputs `[T, D]`."""
        past_TE, z_TE = self.in_proj(values_TD).chunk(2, dim=1)
        u_TE = backend.causal_conv(past_TE, self.conv_weight, self.conv_bias, segments)
        projected_TD: Tensor = self.out_proj(backend.selective_scan(self.inputs(u_TE, z_TE), segments))
        return projected_TD

    def encode(
        self, values_TD: Tensor, segments: Segments, backend: RelationBackend
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return what `forward` does, and what is left of each sequence: inputs of the convolution `[S, K-1, E]`,
        states `[S, E, N]`."""
        past_TE, z_TE = self.in_proj(values_TD).chunk(2, dim=1)
        u_TE = backend.causal_conv(past_TE, self.conv_weight, self.conv_bias, segments)
        y_TE, left_SEN = backend.selective_scan_left(self.inputs(u_TE, z_TE), segments)
        return self.out_proj(y_TE), conv_past(past_TE, self.conv_weight.shape[1], segments), left_SEN

    def inputs(self, u_TE: Tensor, z_TE: Tensor) -> SelectiveInputs:
        """Return what the scan is given: inputs after the convolution and gates, and what is made of the former."""
        delta_TE, B_TN, C_TN = self.select(u_TE)
        return SelectiveInputs(u_TE, delta_TE, self.decay(), B_TN, C_TN, self.skip, z_TE, self.dt_bias)

    def step(self, values_BD: Tensor, window_BE: Tensor, state_BEN: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Take one event of each user; returns `[B, D]`, the input of the convolution, and the new states.

        Args:
            values_BD: inputs.
            window_BE: what the convolution says of the inputs before.
            state_BEN: the states before.
        """
        past_BE, z_BE = self.in_proj(values_BD).chunk(2, dim=1)
        u_BE = F.silu(torch.addcmul(window_BE, past_BE, self.conv_weight[:, -1]))
        y_BE, state_BEN = relation_step(self.inputs(u_BE, z_BE), state_BEN)
        return self.out_proj(y_BE), past_BE, state_BEN

    def select(self, u_TE: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return steps before bias and softplus, input and output weights of each token."""
        rank_TR, B_TN, C_TN = self.x_proj(u_TE).split(self.sizes, dim=1)
        return self.dt_proj(rank_TR), B_TN, C_TN

    def decay(self) -> Tensor:
        """Return the decay rates `[E, N]`, all below 0."""
        return -torch.exp(self.A_log)


def _linear(inputs: int, outputs: int, deviation: float) -> nn.Linear:
    """Return a linear map without bias, drawn from N(0, deviation)."""
    linear = nn.Linear(inputs, outputs, bias=False)
    nn.init.normal_(linear.weight, std=deviation)
    return linear
