"""The time-aware SSM: S5 with a step of its own for every event."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ss4rec.config import ModelConfig
from ss4rec.kernels import TimeBackend
from ss4rec.kernels.inputs import TimeSystem
from ss4rec.kernels.steps import turned
from ss4rec.model.init import hippo_normal_eigen, lecun_normal, log_uniform
from ss4rec.model.segments import Segments


class TimeSSM(nn.Module):
    """y_k = Re(C̃ x_k) + D ⊙ u_k over the diagonal complex system x' = Λx + B̃u, held for the gap of event k.

    Complex parameters are stored as real pairs. Re Λ = -exp(log_decay) is below 0 whatever the optimizer does: the
    published model lets it cross zero, and a gap of weeks then overflows. B̃u is one matrix product whose rows are
    scaled by the event's (e^(Λs) - 1)/Λ, the same as the paper's B̄_k u_k without a matrix B̄_k for every event.

    With `gap_map="log"` the step is softplus(w · log1p(gap) + b) · exp(log_step), w = 1 and b = 0 at the start: gaps
    of 0, a minute, a day and a year become .69, 4.1, 11.4 and 17.3 units, so with steps from .001 to .1 a unit and
    Re Λ = -1/2 a state keeps between 42 % (fast states) and 99 % (slow ones) over a year and learns from there.
    """

    gap_weight: nn.Parameter | None
    gap_bias: nn.Parameter | None

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        dim, states = config.dim, config.time_states
        eigenvalues_P, vectors_PP = hippo_normal_eigen(states)
        input_PD = vectors_PP.mH @ lecun_normal(states, dim, fan_in=states).to(torch.complex128)
        pair_DP2 = lecun_normal(dim, states, 2, fan_in=dim * states)
        output_DP = torch.view_as_complex(pair_DP2) @ vectors_PP
        self.log_decay = nn.Parameter(torch.log(-eigenvalues_P.real).float())
        self.frequency = nn.Parameter(eigenvalues_P.imag.float())
        self.input_2PD = nn.Parameter(torch.cat([input_PD.real, input_PD.imag]).float())
        self.output_D2P = nn.Parameter(torch.cat([output_DP.real, -output_DP.imag], dim=1).float())
        self.skip = nn.Parameter(torch.rand(dim))
        self.log_step = nn.Parameter(log_uniform(states, config.time_step_min, config.time_step_max))
        log_gaps = config.gap_map == "log"
        self.gap_weight = nn.Parameter(torch.ones(states)) if log_gaps else None
        self.gap_bias = nn.Parameter(torch.zeros(states)) if log_gaps else None

    def forward(self, values_TD: Tensor, gaps_T: Tensor, segments: Segments, backend: TimeBackend) -> Tensor:
        """Return `[T, D]` for inputs `[T, D]` and gaps in seconds."""
        return self.encode(values_TD, gaps_T, segments, backend)[0]

    def encode(
        self, values_TD: Tensor, gaps_T: Tensor, segments: Segments, backend: TimeBackend
    ) -> tuple[Tensor, Tensor]:
        """Return what `forward` does, and the states after every event, `[T, 2P]`."""
        states_T2P = backend.time_scan(F.linear(values_TD, self.input_2PD), gaps_T, self.system(), segments)
        return self.output(states_T2P, values_TD), states_T2P

    def step(
        self, values_BD: Tensor, left_B2P: Tensor, taken: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Take one event of each user; returns `[B, D]` and the new states.

        Args:
            values_BD: inputs.
            left_B2P: what the gap has left of the states.
            taken: what the gap makes of inputs, as `turned` takes it.
        """
        state_B2P = turned(F.linear(values_BD, self.input_2PD), taken, left_B2P)
        return self.output(state_B2P, values_BD), state_B2P

    def system(self) -> TimeSystem:
        """Return Λ and what makes steps of gaps."""
        return TimeSystem(
            -torch.exp(self.log_decay), self.frequency, self.log_step, self.gap_weight, self.gap_bias
        )

    def output(self, states_T2P: Tensor, values_TD: Tensor) -> Tensor:
        """Return what the layer says in these states, `[T, D]`."""
        return F.linear(states_T2P, self.output_D2P) + self.skip * values_TD
