"""What the scans are given: one signature for every backend."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class TimeSystem(NamedTuple):
    """The diagonal complex system of the time-aware scan, and how long its steps are."""

    lambda_re_P: Tensor
    """Real part of Λ, below 0."""
    lambda_im_P: Tensor
    """Imaginary part of Λ."""
    log_step_P: Tensor
    """A step is s = gap · exp(log_step), with the gap in seconds."""
    gap_weight_P: Tensor | None = None
    """With `gap_bias_P`, s = softplus(weight · log1p(gap) + bias) · exp(log_step) instead."""
    gap_bias_P: Tensor | None = None
    """See `gap_weight_P`."""

    @classmethod
    def joined(cls, systems: Sequence[TimeSystem]) -> TimeSystem:
        """Return systems beside one another, with all their P as one."""
        weights = [system.gap_weight_P for system in systems if system.gap_weight_P is not None]
        biases = [system.gap_bias_P for system in systems if system.gap_bias_P is not None]
        return cls(
            torch.cat([system.lambda_re_P for system in systems]),
            torch.cat([system.lambda_im_P for system in systems]),
            torch.cat([system.log_step_P for system in systems]),
            torch.cat(weights) if weights else None,
            torch.cat(biases) if biases else None,
        )

    def steps(self, gaps_X: Tensor) -> Tensor:
        """Return the steps `[X, P]` of gaps in seconds, in the type of Λ."""
        steps_XP = gaps_X.to(self.lambda_re_P.dtype)[:, None]
        if self.gap_weight_P is not None and self.gap_bias_P is not None:
            steps_XP = F.softplus(self.gap_weight_P * torch.log1p(steps_XP) + self.gap_bias_P)
        return steps_XP * torch.exp(self.log_step_P)


class SelectiveInputs(NamedTuple):
    """Inputs of the selective scan, for T tokens or, where it takes one step, for the event of each of B users."""

    u_TE: Tensor
    """Input after the convolution."""
    delta_TE: Tensor
    """Step before softplus and bias."""
    A_EN: Tensor
    """Decay rates, below 0."""
    B_TN: Tensor
    """Input weights of each token."""
    C_TN: Tensor
    """Output weights of each token."""
    D_E: Tensor
    """Skip weights."""
    z_TE: Tensor
    """Gate."""
    delta_bias_E: Tensor
    """Bias of delta."""
