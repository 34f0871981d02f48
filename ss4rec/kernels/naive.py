"""The scans token by token, as the equations are written: the specification of all other implementations.

Slow on purpose. Every step is a plain torch expression, so autograd gives the gradients that hand-written ones are
checked against (in float64). Signatures are those of every backend.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ss4rec.kernels.inputs import SelectiveInputs, TimeSystem
from ss4rec.model.segments import Segments


def time_scan(drive_T2P: Tensor, gaps_T: Tensor, system: TimeSystem, segments: Segments) -> Tensor:
    """Run the diagonal complex SSM x_k = e^(Λs_k) x_(k-1) + (e^(Λs_k) - 1)/Λ · drive_k (S5, arXiv 2208.04933, eq. 6).

    Args:
        drive_T2P: B̃u, real parts then imaginary parts.
        gaps_T: seconds, at least 0.
        system: Λ and the steps s.
        segments: where sequences start; the state is 0 there.

    Returns:
        The states, `[T, 2P]`, real parts then imaginary parts.
    """
    lambda_re_P, lambda_im_P, log_step_P, gap_weight_P, gap_bias_P = system
    num_states = lambda_re_P.numel()
    lambda_P = torch.complex(lambda_re_P, lambda_im_P)
    drive_TP = torch.complex(drive_T2P[:, :num_states], drive_T2P[:, num_states:])
    states = []
    for first, last in segments.host_offsets_S1.unfold(0, 2, 1).tolist():
        state_P = torch.zeros_like(lambda_P)
        for k in range(first, last):
            gap = gaps_T[k]
            if gap_weight_P is not None and gap_bias_P is not None:
                gap = F.softplus(gap_weight_P * torch.log1p(gap) + gap_bias_P)
            decay_P = torch.exp(lambda_P * gap * torch.exp(log_step_P))
            state_P = decay_P * state_P + (decay_P - 1) / lambda_P * drive_TP[k]
            states.append(state_P)
    states_TP = torch.stack(states)
    return torch.cat([states_TP.real, states_TP.imag], dim=1)


def causal_conv(values_TE: Tensor, weight_EK: Tensor, bias_E: Tensor, segments: Segments) -> Tensor:
    """Return SiLU of the depthwise convolution with a sequence's last K values; the last tap meets the newest."""
    taps = weight_EK.shape[1]
    rows = []
    for first, last in segments.host_offsets_S1.unfold(0, 2, 1).tolist():
        for k in range(first, last):
            row_E = bias_E
            for age in range(min(taps, k - first + 1)):
                row_E = row_E + weight_EK[:, taps - 1 - age] * values_TE[k - age]
            rows.append(F.silu(row_E))
    return torch.stack(rows)


def selective_scan(inputs: SelectiveInputs, segments: Segments) -> Tensor:
    """Run the selective SSM (Mamba, arXiv 2312.00752, section 3): dt = softplus(delta + bias),
    h_k = e^(dt_k A) h_(k-1) + dt_k B_k u_k, y_k = (C_k·h_k + D u_k) · SiLU(z_k).

    The state is 0 where a sequence starts. Returns y, `[T, E]`.
    """
    u_TE, delta_TE, A_EN, B_TN, C_TN, D_E, z_TE, delta_bias_E = inputs
    dt_TE = F.softplus(delta_TE + delta_bias_E)
    rows = []
    for first, last in segments.host_offsets_S1.unfold(0, 2, 1).tolist():
        state_EN = torch.zeros_like(A_EN)
        for k in range(first, last):
            drive_EN = (dt_TE[k] * u_TE[k])[:, None] * B_TN[k][None, :]
            state_EN = torch.exp(dt_TE[k][:, None] * A_EN) * state_EN + drive_EN
            rows.append(state_EN @ C_TN[k])
    return (torch.stack(rows) + D_E * u_TE) * F.silu(z_TE)
