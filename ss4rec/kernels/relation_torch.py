"""The causal convolution and the relation-aware scan in plain torch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ss4rec.model.segments import Segments


def causal_conv(values_TE: Tensor, weight_EK: Tensor, bias_E: Tensor, segments: Segments) -> Tensor:
    """Compute `ss4rec.kernels.naive.causal_conv`: one shifted product a tap, masked at sequence starts."""
    taps = weight_EK.shape[1]
    out_TE = torch.addcmul(bias_E, values_TE, weight_EK[:, -1])
    for age in range(1, min(taps, segments.max_len)):
        inside_T1 = (segments.positions_T[age:] >= age)[:, None]
        older_TE = values_TE[:-age] * inside_T1 * weight_EK[:, taps - 1 - age]
        out_TE = out_TE + F.pad(older_TE, (0, 0, age, 0))
    return F.silu(out_TE)


def selective_scan(
    u_TE: Tensor,
    delta_TE: Tensor,
    A_EN: Tensor,
    B_TN: Tensor,
    C_TN: Tensor,
    D_E: Tensor,
    z_TE: Tensor,
    delta_bias_E: Tensor,
    segments: Segments,
) -> Tensor:
    """Compute `ss4rec.kernels.naive.selective_scan`."""
    layout = segments.time_major
    dtype = A_EN.dtype
    dt_TE = F.softplus(delta_TE.to(dtype) + delta_bias_E)
    steps_u = (dt_TE * u_TE)[layout.order_T].split(layout.active)
    steps_dt = dt_TE[layout.order_T].split(layout.active)
    steps_B = B_TN.to(dtype)[layout.order_T].split(layout.active)
    steps_C = C_TN.to(dtype)[layout.order_T].split(layout.active)
    state = A_EN.new_zeros(layout.active[0], *A_EN.shape)
    rows = []
    for active, drive, dt, B, C in zip(layout.active, steps_u, steps_dt, steps_B, steps_C, strict=True):
        state = torch.exp(dt[:, :, None] * A_EN) * state[:active] + drive[:, :, None] * B[:, None, :]
        rows.append(torch.einsum("sen,sn->se", state, C))
    y_TE = torch.cat(rows)[layout.inverse_T]
    return (y_TE + D_E * u_TE) * F.silu(z_TE.to(dtype))
