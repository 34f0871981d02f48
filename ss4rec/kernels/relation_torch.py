"""The causal convolution and the relation-aware scan in plain torch, made for the caches of a CPU.

The state of one token is E x N numbers (16 KB as published), 128 times its inputs, so the scan is bound by how often
a state crosses the memory bus. Hence: groups of a few sequences are walked through one after another, in chunks of a
few steps whose decays, states and gradients stay in the cache; states are kept at chunk boundaries only and computed
again in the backward pass; what has no recurrence in it is one operation on a whole chunk. Layout `[rows, N, E]`: the
long dimension innermost. benchmarks/NOTES.md has the formulations that lost.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ss4rec.kernels.inputs import SelectiveInputs
from ss4rec.model.segments import Segments, StepOrder

GROUP_SEQUENCES = 16
"""Sequences that are scanned together: enough for an operation to outlast its own dispatch."""
CHUNK_ROWS = 128
"""Tokens of a chunk, if a step has no more: three buffers of 128 x 16 KB fit the cache."""
RANKING_BYTES, RANKING_ROWS = 1 << 19, 16
"""Without gradients: bytes of a chunk's states, and its fewest tokens; a third faster with states of 32 KB. Bits are
the same, for no number of one token depends on who is in its chunk."""


def causal_conv(values_TE: Tensor, weight_EK: Tensor, bias_E: Tensor, segments: Segments) -> Tensor:
    """Compute `ss4rec.kernels.naive.causal_conv`: one shifted product a tap."""
    return F.silu(_Taps.apply(values_TE, weight_EK, bias_E, segments))  # type: ignore[no-untyped-call]  # torch leaves it so


class _Taps(torch.autograd.Function):
    """bias + Σ_age weight_age · value_(k - age), in rows with `taps - 1` rows of zeros before each sequence."""

    @staticmethod
    def forward(ctx: Any, values_TE: Tensor, weight_EK: Tensor, bias_E: Tensor, segments: Segments) -> Tensor:
        """Return the weighted sums, `[T, E]`."""
        taps = weight_EK.shape[1]
        starts_T = (segments.positions_T == 0).cumsum(0) * (taps - 1)
        places_T = starts_T + torch.arange(segments.num_tokens, device=starts_T.device)
        kind = torch.promote_types(values_TE.dtype, weight_EK.dtype)
        spread_RE = _spread(values_TE.to(kind), places_T, segments, taps)
        weight_KE = weight_EK.T.to(kind).contiguous()
        out_RE = torch.addcmul(bias_E.to(kind), spread_RE, weight_KE[-1])
        for age in range(1, taps):
            out_RE[age:].addcmul_(spread_RE[:-age], weight_KE[taps - 1 - age])
        ctx.save_for_backward(spread_RE, weight_KE, places_T)
        ctx.segments, ctx.kinds = segments, (values_TE.dtype, weight_EK.dtype, bias_E.dtype)
        return out_RE.index_select(0, places_T)

    @staticmethod
    def backward(ctx: Any, grad_TE: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of values `[T, E]`, weights `[E, K]` and bias `[E]`."""
        spread_RE, weight_KE, places_T = ctx.saved_tensors
        taps = len(weight_KE)
        grad_RE = _spread(grad_TE, places_T, ctx.segments, taps)
        flow_RE = grad_RE * weight_KE[-1]
        grad_weight_KE = torch.empty_like(weight_KE)
        grad_weight_KE[-1] = (grad_RE * spread_RE).sum(0)
        for age in range(1, taps):
            flow_RE[:-age].addcmul_(grad_RE[age:], weight_KE[taps - 1 - age])
            grad_weight_KE[taps - 1 - age] = (grad_RE[age:] * spread_RE[:-age]).sum(0)
        values_kind, weight_kind, bias_kind = ctx.kinds
        grad_bias_E = grad_TE.sum(0).to(bias_kind)
        grad_values_TE = flow_RE.index_select(0, places_T).to(values_kind)
        return grad_values_TE, grad_weight_KE.T.to(weight_kind), grad_bias_E, None


def _spread(values_TE: Tensor, places_T: Tensor, segments: Segments, taps: int) -> Tensor:
    """Put rows at their places among rows of zeros."""
    rows = segments.num_tokens + (taps - 1) * segments.num_sequences
    return values_TE.new_zeros(rows, values_TE.shape[1]).index_copy_(0, places_T, values_TE)


def selective_scan(inputs: SelectiveInputs, segments: Segments) -> Tensor:
    """Compute `ss4rec.kernels.naive.selective_scan` in the type of `A_EN` (float32 or float64)."""
    return _gated(inputs, lambda *recurrence: _Scan.apply(*recurrence, segments))  # type: ignore[no-untyped-call]  # torch leaves it so


def selective_scan_left(inputs: SelectiveInputs, segments: Segments) -> tuple[Tensor, Tensor]:
    """Return what `selective_scan` does, and the state after each sequence, `[S, E, N]`; without gradients."""
    rate_NE = _rate(inputs.A_EN)
    left_SNE = rate_NE.new_empty(segments.num_sequences, *rate_NE.shape)
    with torch.no_grad():
        out_TE = _gated(
            inputs, lambda drive, dt, _, B, C: _walk(drive, dt, rate_NE, B, C, segments, left_SNE=left_SNE)
        )
    return out_TE, left_SNE.transpose(1, 2).contiguous()


def _gated(inputs: SelectiveInputs, recurrence: Callable[..., Tensor]) -> Tensor:
    """Return the output of a recurrence of drive, dt, A, B and C, with skip and gate."""
    u_TE, delta_TE, A_EN, B_TN, C_TN, D_E, z_TE, delta_bias_E = inputs
    kind = A_EN.dtype
    u_TE = u_TE.to(kind)
    dt_TE = F.softplus(delta_TE.to(kind) + delta_bias_E)
    y_TE = recurrence(dt_TE * u_TE, dt_TE, A_EN, B_TN.to(kind), C_TN.to(kind))
    return torch.addcmul(y_TE, D_E, u_TE) * F.silu(z_TE.to(kind))


def _rate(A_EN: Tensor) -> Tensor:
    """Return decay rates for exp2, `[N, E]`: it takes half of the time of exp."""
    return (A_EN.T * math.log2(math.e)).contiguous()


class _Chunk(NamedTuple):
    """Consecutive steps of a group."""

    rows: slice
    """Its rows in the group's time-major order."""
    active: tuple[int, ...]
    """Sequences that run at each of its steps."""


def _sizes(like_NE: Tensor, gradients: bool) -> tuple[int, int]:
    """Return the sequences of a group and the tokens of a chunk."""
    if gradients:
        return GROUP_SEQUENCES, CHUNK_ROWS
    rows = min(max(RANKING_BYTES // like_NE.nbytes, RANKING_ROWS), CHUNK_ROWS)
    return min(rows // 4, GROUP_SEQUENCES), rows


def _chunks(layout: StepOrder, chunk_rows: int) -> Iterator[_Chunk]:
    """Cut a group into chunks of about `chunk_rows` rows."""
    steps = max(1, chunk_rows // layout.active[0])
    for first in range(0, len(layout.active), steps):
        active = layout.active[first : first + steps]
        start = layout.starts[first]
        yield _Chunk(slice(start, start + sum(active)), active)


class _Buffers:
    """Scratch memory for the chunks of one pass; a chunk uses the first rows of each buffer."""

    def __init__(self, like_NE: Tensor, segments: Segments, count: int) -> None:
        rows = min(segments.num_tokens, max(CHUNK_ROWS, GROUP_SEQUENCES))
        self.all = [like_NE.new_empty(rows, *like_NE.shape) for _ in range(count)]

    def first(self, rows: int) -> list[Tensor]:
        """Return views of the first `rows` rows."""
        return [buffer[:rows] for buffer in self.all]


class _Scan(torch.autograd.Function):
    """y_k = C_k·h_k with h_k = e^(dt_k A) h_(k-1) + drive_k B_k, drive = dt·u."""

    @staticmethod
    def forward(
        ctx: Any,
        drive_TE: Tensor,
        dt_TE: Tensor,
        A_EN: Tensor,
        B_TN: Tensor,
        C_TN: Tensor,
        segments: Segments,
    ) -> Tensor:
        """Return y, `[T, E]`."""
        rate_NE = _rate(A_EN)
        boundaries: list[Tensor] | None = [] if any(ctx.needs_input_grad) else None
        y_TE = _walk(drive_TE, dt_TE, rate_NE, B_TN, C_TN, segments, boundaries)
        ctx.save_for_backward(drive_TE, dt_TE, rate_NE, B_TN, C_TN, *(boundaries or ()))
        ctx.segments = segments
        return y_TE

    @staticmethod
    def backward(ctx: Any, grad_TE: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of drive and dt `[T, E]`, A `[E, N]`, B and C `[T, N]`."""
        drive_TE, dt_TE, rate_NE, B_TN, C_TN, *boundaries = ctx.saved_tensors
        inputs = (drive_TE, dt_TE, B_TN, C_TN)
        grads = tuple(torch.empty_like(values) for values in inputs)
        grad_A_NE = torch.zeros_like(rate_NE)
        A_NE = rate_NE * math.log(2)
        buffers = _Buffers(rate_NE, ctx.segments, 3)
        groups = ctx.segments.time_major_groups(GROUP_SEQUENCES)
        for layout in reversed(groups):
            drive, dt, B, C, grad_y = (
                values.index_select(0, layout.order_T) for values in (*inputs, grad_TE)
            )
            group_grads = [torch.empty_like(values) for values in (drive, dt, B, C)]
            flow = None
            for rows, active in reversed(list(_chunks(layout, CHUNK_ROWS))):
                decay, state, grad = buffers.first(rows.stop - rows.start)
                carry = boundaries.pop()
                _states(decay, state, carry, active, drive[rows], dt[rows], B[rows], rate_NE)
                grad_drive, grad_dt, grad_B, grad_C = (values[rows] for values in group_grads)
                torch.bmm(grad_y[rows, None, :], state.transpose(1, 2), out=grad_C[:, None, :])
                torch.mul(C[rows, :, None], grad_y[rows, None, :], out=grad)
                flow = _adjoint(decay, state, grad, carry, active, flow)
                torch.bmm(drive[rows, None, :], grad.transpose(1, 2), out=grad_B[:, None, :])
                torch.bmm(B[rows, None, :], grad, out=grad_drive[:, None, :])
                # `decay` now holds the gradient of dt·A.
                torch.sum(torch.mul(decay, A_NE, out=grad), 1, out=grad_dt)
                grad_A_NE += decay.mul_(dt[rows, None, :]).sum(0)
            for whole, part in zip(grads, group_grads, strict=True):
                whole.index_copy_(0, layout.order_T, part)
        grad_drive_TE, grad_dt_TE, grad_B_TN, grad_C_TN = grads
        return grad_drive_TE, grad_dt_TE, grad_A_NE.T, grad_B_TN, grad_C_TN, None


def _walk(
    drive_TE: Tensor,
    dt_TE: Tensor,
    rate_NE: Tensor,
    B_TN: Tensor,
    C_TN: Tensor,
    segments: Segments,
    boundaries: list[Tensor] | None = None,
    left_SNE: Tensor | None = None,
) -> Tensor:
    """Return C_k·h_k of every token.

    Args:
        drive_TE: dt·u.
        dt_TE: steps.
        rate_NE: see `_rate`.
        B_TN: input weights.
        C_TN: output weights.
        segments: where sequences start.
        boundaries: gets the states before each chunk, for the way back.
        left_SNE: gets the state after each sequence.
    """
    y_TE = torch.empty_like(drive_TE)
    buffers = _Buffers(rate_NE, segments, 2)
    sequences, chunk_rows = _sizes(rate_NE, boundaries is not None)
    for layout in segments.time_major_groups(sequences):
        drive, dt, B, C = (values.index_select(0, layout.order_T) for values in (drive_TE, dt_TE, B_TN, C_TN))
        y = torch.empty_like(drive)
        carry = rate_NE.new_zeros(layout.active[0], *rate_NE.shape)
        whose = torch.searchsorted(segments.last_S, layout.order_T[: layout.active[0]])
        for rows, active in _chunks(layout, chunk_rows):
            if boundaries is not None:
                boundaries.append(carry)
            decay, state = buffers.first(rows.stop - rows.start)
            _states(decay, state, carry, active, drive[rows], dt[rows], B[rows], rate_NE)
            torch.bmm(C[rows, None, :], state, out=y[rows, None, :])
            if left_SNE is not None:
                _keep_left(left_SNE, state, active, whose)
            carry = state[-active[-1] :].clone()
        y_TE.index_copy_(0, layout.order_T, y)
    return y_TE


def _keep_left(left_SNE: Tensor, state_RNE: Tensor, active: tuple[int, ...], whose: Tensor) -> None:
    """Copy the states of those of a group's sequences, longest first, that end in a chunk or go on behind it."""
    row = 0
    for count, following in zip(active, (*active[1:], 0), strict=True):
        if following < count:
            left_SNE[whose[following:count]] = state_RNE[row + following : row + count]
        row += count


def _states(
    decay_RNE: Tensor,
    state_RNE: Tensor,
    carry_SNE: Tensor,
    active: tuple[int, ...],
    drive_RE: Tensor,
    dt_RE: Tensor,
    B_RN: Tensor,
    rate_NE: Tensor,
) -> None:
    """Fill a chunk's decays 2^(dt·rate) and states; `carry_SNE` are the states before its first step."""
    torch.mul(dt_RE[:, None, :], rate_NE, out=decay_RNE).exp2_()
    torch.mul(drive_RE[:, None, :], B_RN[:, :, None], out=state_RNE)
    before = carry_SNE
    for count, decay, state in zip(active, decay_RNE.split(active), state_RNE.split(active), strict=True):
        state.addcmul_(decay, before if before.shape[0] == count else before[:count])
        before = state


def _adjoint(
    decay_RNE: Tensor,
    state_RNE: Tensor,
    grad_RNE: Tensor,
    carry_SNE: Tensor,
    active: tuple[int, ...],
    flow_SNE: Tensor | None,
) -> Tensor:
    """Carry gradients of states back through a chunk and put those of dt·A = log(decay) in place of the decays.

    `grad_RNE` holds what each state gets from its own output and then its whole gradient g. `flow_SNE` is what comes
    from the chunk behind, decay·g of its first step; returns the same for the chunk before.
    """
    decays, grads = decay_RNE.split(active), grad_RNE.split(active)
    befores = (carry_SNE, *state_RNE.split(active)[:-1])
    if flow_SNE is not None:
        grads[-1][: flow_SNE.shape[0]] += flow_SNE
    for step in range(len(active) - 1, 0, -1):
        torch.mul(decays[step], grads[step], out=decays[step])
        grads[step - 1][: active[step]] += decays[step]
        decays[step].mul_(befores[step][: active[step]])
    flow_SNE = decays[0].mul_(grads[0]).clone()
    decays[0].mul_(befores[0][: active[0]])
    return flow_SNE
