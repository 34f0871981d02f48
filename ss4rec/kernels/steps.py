"""One event of each user: the scans of `ss4rec.kernels.naive` as a step from state to state, in plain torch.

All arithmetic is real and all shapes follow from the arguments, so the steps can be exported (`torch.export`, ONNX).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ss4rec.kernels.inputs import SelectiveInputs, TimeSystem
from ss4rec.model.segments import Segments

CHUNK_TOKENS = 128
"""Tokens whose decays are in memory at one time: 4 MB with 256 channels of 32 states."""


class TimeDecay(NamedTuple):
    """What a step's gaps make of the system, whatever the state is: complex factors as pairs, `[B, P]` each."""

    left_re_BP: Tensor
    """Of the state, e^(Λs)."""
    left_im_BP: Tensor
    taken_re_BP: Tensor
    """Of the input, (e^(Λs) - 1)/Λ."""
    taken_im_BP: Tensor


def time_decay(gaps_B: Tensor, system: TimeSystem) -> TimeDecay:
    """Return the factors of a step for each user's gap in seconds.

    e^(Λs) - 1 is written so that nothing is subtracted from one: with Λs = a + ib its real part is
    expm1(a) cos b - 2 sin²(b/2).
    """
    lambda_re_P, lambda_im_P, steps_BP = *system[:2], system.steps(gaps_B)
    angle_BP = lambda_im_P * steps_BP
    cos_BP, shrink_BP = torch.cos(angle_BP), torch.expm1(lambda_re_P * steps_BP)
    left_re_BP, left_im_BP = (shrink_BP + 1) * cos_BP, (shrink_BP + 1) * torch.sin(angle_BP)
    less_one_BP = shrink_BP * cos_BP - 2 * torch.sin(angle_BP / 2).square()
    # Division by Λ is multiplication by its conjugate over |Λ|².
    size_P = lambda_re_P.square() + lambda_im_P.square()
    re_P, im_P = lambda_re_P / size_P, -lambda_im_P / size_P
    return TimeDecay(
        left_re_BP,
        left_im_BP,
        re_P * less_one_BP - im_P * left_im_BP,
        re_P * left_im_BP + im_P * less_one_BP,
    )


def turning(re_XP: Tensor, im_XP: Tensor) -> tuple[Tensor, Tensor]:
    """Return what `turned` multiplies by, for complex factors: `[..., 2P]` each."""
    return torch.cat([re_XP, re_XP], dim=-1), torch.cat([-im_XP, im_XP], dim=-1)


def turned(values_X2P: Tensor, by: tuple[Tensor, Tensor], added_X2P: Tensor | None = None) -> Tensor:
    """Return complex values, real parts then imaginary parts, times complex factors (`turning`), plus something."""
    re_X2P, im_X2P = by
    crossed_X2P = values_X2P.roll(values_X2P.shape[-1] // 2, -1)
    own_X2P = values_X2P * re_X2P if added_X2P is None else torch.addcmul(added_X2P, values_X2P, re_X2P)
    return torch.addcmul(own_X2P, crossed_X2P, im_X2P)


def time_step(drive_B2P: Tensor, gaps_B: Tensor, system: TimeSystem, state_B2P: Tensor) -> Tensor:
    """Take one step of `naive.time_scan` for each user; returns the new state `[B, 2P]`.

    Arguments are those of the scan, with one event for each of B users.
    """
    decay = time_decay(gaps_B, system)
    left_B2P = turned(state_B2P, turning(*decay[:2]))
    return turned(drive_B2P.to(left_B2P.dtype), turning(*decay[2:]), left_B2P)


def relation_step(inputs: SelectiveInputs, state_BEN: Tensor) -> tuple[Tensor, Tensor]:
    """Take one step of `naive.selective_scan`; returns the output `[B, E]` and the new state `[B, E, N]`.

    What has a number for each of the many states is computed in their type, all else in that of the decay rates.
    """
    u_BE, delta_BE, A_EN, B_BN, C_BN, D_E, z_BE, delta_bias_E = inputs
    kind, held = A_EN.dtype, state_BEN.dtype
    u_BE, dt_BE = u_BE.to(kind), F.softplus(delta_BE.to(kind) + delta_bias_E)
    # `unsqueeze`, since an index with None is three nodes of a recorded graph.
    drive_BEN = (dt_BE * u_BE).to(held).unsqueeze(2) * B_BN.to(held).unsqueeze(1)
    decay_BEN = torch.exp(dt_BE.to(held).unsqueeze(2) * A_EN.to(held))
    state_BEN = torch.addcmul(drive_BEN, decay_BEN, state_BEN)
    y_BE = (state_BEN @ C_BN.to(held).unsqueeze(2)).squeeze(2).to(kind)
    return torch.addcmul(y_BE, D_E, u_BE) * F.silu(z_BE.to(kind)), state_BEN


def conv_past(values_TE: Tensor, taps: int, segments: Segments) -> Tensor:
    """Return the last inputs of the convolution in each sequence, 0 where there was none, `[S, taps - 1, E]`."""
    age_J = torch.arange(taps - 2, -1, -1, device=values_TE.device)
    token_SJ = segments.last_S[:, None] - age_J
    inside_SJ = token_SJ >= segments.first_S[:, None]
    return values_TE[token_SJ.clamp_min(0)] * inside_SJ[:, :, None]


def relation_state(
    u_TE: Tensor,
    delta_TE: Tensor,
    A_EN: Tensor,
    B_TN: Tensor,
    delta_bias_E: Tensor,
    segments: Segments,
) -> Tensor:
    """Return the state of `relation_step` after each sequence, `[S, E, N]`, without walking through it.

    h_last = Σ_k e^(A Σ_(j>k) dt_j) dt_k B_k u_k: no exponent is above 0, so nothing overflows however long it is. The
    sums of steps are taken in float64, since they are differences of running totals.
    """
    kind = A_EN.dtype
    dt_TE = F.softplus(delta_TE.to(kind) + delta_bias_E)
    drive_TE, B_TN = dt_TE * u_TE.to(kind), B_TN.to(kind)
    total_TE = dt_TE.double().cumsum(0)
    states = []
    for first, stop in segments.host_offsets_S1.unfold(0, 2, 1).tolist():
        state_EN = torch.zeros_like(A_EN)
        for begin in range(first, stop, CHUNK_TOKENS):
            part = slice(begin, min(begin + CHUNK_TOKENS, stop))
            left_CE = (total_TE[stop - 1] - total_TE[part]).to(kind)
            decay_CEN = torch.exp(left_CE[:, :, None] * A_EN)
            state_EN = state_EN + torch.einsum("cen,ce,cn->en", decay_CEN, drive_TE[part], B_TN[part])
        states.append(state_EN)
    return torch.stack(states)
