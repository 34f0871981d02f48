"""The relation-aware path in Triton: causal convolution with SiLU, and Mamba's selective scan, forward and backward.

Both honour sequence boundaries (a program works inside one sequence), need no compile step at installation and use no
atomics, so results repeat bit by bit. The scan keeps `[N, channels]` states in float32 registers; the forward pass
stores them every `CHUNK` tokens, and the backward pass recomputes a chunk's states from there.
"""
# ruff: noqa: ANN001 - arguments of Triton functions are pointers and tensors of the kernel language.

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ss4rec.kernels.math_triton import exp2, exp2_again, sigmoid, softplus
from ss4rec.model.segments import Segments

LOG2_E = tl.constexpr(1.4426950408889634)
LN_2 = tl.constexpr(0.6931471805599453)
CHUNK = 8
"""Tokens between stored states; the backward pass holds so many states in registers."""
CHANNELS = 8
"""Channels of one program of the scan; 32 / CHANNELS threads share the states of one."""
CONV_TOKENS = 64
"""Tokens of one program of the convolution."""
CONV_CHANNELS = 32
"""Channels of one program of the convolution."""


def causal_conv(values_TE: Tensor, weight_EK: Tensor, bias_E: Tensor, segments: Segments) -> Tensor:
    """Compute `ss4rec.kernels.naive.causal_conv`; sums are float32, the result has `values`' type."""
    result_TE: Tensor = _CausalConv.apply(values_TE, weight_EK, bias_E, segments)
    return result_TE


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
    """Compute `ss4rec.kernels.naive.selective_scan`; state and sums are float32, the result has `u`'s type."""
    y_TE: Tensor = _SelectiveScan.apply(u_TE, delta_TE, A_EN, B_TN, C_TN, D_E, z_TE, delta_bias_E, segments)
    return y_TE


class _CausalConv(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values_TE: Tensor, weight_EK: Tensor, bias_E: Tensor, segments: Segments) -> Tensor:
        values_TE, weight_EK = values_TE.contiguous(), weight_EK.contiguous()
        result_TE = torch.empty_like(values_TE)
        channels, taps = weight_EK.shape
        _conv_forward_kernel[_conv_grid(channels, segments)](
            values_TE, weight_EK, bias_E, segments.offsets_S1, result_TE, channels,
            TAPS=taps, TOKENS=CONV_TOKENS, BLOCK_E=CONV_CHANNELS,
        )  # fmt: skip
        ctx.save_for_backward(values_TE, weight_EK, bias_E)
        ctx.segments = segments
        return result_TE

    @staticmethod
    def backward(ctx: Any, grad_TE: Tensor) -> tuple[Tensor | None, ...]:
        values_TE, weight_EK, bias_E = ctx.saved_tensors
        channels, taps = weight_EK.shape
        grid = _conv_grid(channels, ctx.segments)
        grad_values_TE = torch.empty_like(values_TE)
        # Programs behind the end of a short sequence write nothing, so the sums start at zero.
        partial_GKE = values_TE.new_zeros(grid[0] * grid[1], taps + 1, channels, dtype=torch.float32)
        _conv_backward_kernel[grid](
            values_TE, weight_EK, bias_E, ctx.segments.offsets_S1, grad_TE.contiguous(), grad_values_TE, partial_GKE,
            channels, TAPS=taps, TOKENS=CONV_TOKENS, BLOCK_E=CONV_CHANNELS,
        )  # fmt: skip
        sums_KE = partial_GKE.sum(0)
        return grad_values_TE, sums_KE[:taps].T.to(weight_EK.dtype), sums_KE[taps].to(bias_E.dtype), None


class _SelectiveScan(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
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
        inputs = [x.contiguous() for x in (u_TE, delta_TE, A_EN.T, B_TN, C_TN, D_E, z_TE, delta_bias_E)]
        num_tokens, channels = u_TE.shape
        num_states = A_EN.shape[1]
        y_TE = torch.empty_like(inputs[0])
        # A sequence of l tokens starting at t has its ceil(l / CHUNK) states from row t // CHUNK + s on.
        rows = num_tokens // CHUNK + segments.num_sequences
        checkpoints_RNE = u_TE.new_empty(rows, num_states, channels, dtype=torch.float32)
        _scan_forward_kernel[_scan_grid(channels, segments)](
            *inputs, segments.offsets_S1, y_TE, checkpoints_RNE, channels, **_scan_tile(num_states)
        )
        ctx.save_for_backward(*inputs, checkpoints_RNE)
        ctx.segments = segments
        return y_TE

    @staticmethod
    def backward(ctx: Any, grad_TE: Tensor) -> tuple[Tensor | None, ...]:
        *inputs, checkpoints_RNE = ctx.saved_tensors
        u_TE, delta_TE, A_NE, B_TN, C_TN, D_E, z_TE, delta_bias_E = inputs
        (num_tokens, channels), num_states = u_TE.shape, A_NE.shape[0]
        num_sequences = ctx.segments.num_sequences
        grid = _scan_grid(channels, ctx.segments)
        grad_u_TE, grad_delta_TE, grad_z_TE = (torch.empty_like(x) for x in (u_TE, delta_TE, z_TE))
        partial_B_GTN = B_TN.new_empty(grid[1], num_tokens, num_states)
        partial_C_GTN = C_TN.new_empty(grid[1], num_tokens, num_states)
        partial_A_SNE = A_NE.new_empty(num_sequences, num_states, channels, dtype=torch.float32)
        partial_S2E = A_NE.new_empty(num_sequences, 2, channels, dtype=torch.float32)
        _scan_backward_kernel[grid](
            *inputs, ctx.segments.offsets_S1, checkpoints_RNE, grad_TE.contiguous(),
            grad_u_TE, grad_delta_TE, grad_z_TE, partial_B_GTN, partial_C_GTN, partial_A_SNE, partial_S2E,
            num_tokens, channels, **_scan_tile(num_states),
        )  # fmt: skip
        sums_2E = partial_S2E.sum(0)
        return (
            grad_u_TE,
            grad_delta_TE,
            partial_A_SNE.sum(0).T.to(A_NE.dtype),
            partial_B_GTN.sum(0),
            partial_C_GTN.sum(0),
            sums_2E[0].to(D_E.dtype),
            grad_z_TE,
            sums_2E[1].to(delta_bias_E.dtype),
            None,
        )


def _conv_grid(channels: int, segments: Segments) -> tuple[int, int, int]:
    return (
        segments.num_sequences,
        triton.cdiv(segments.max_len, CONV_TOKENS),
        triton.cdiv(channels, CONV_CHANNELS),
    )


def _scan_grid(channels: int, segments: Segments) -> tuple[int, int]:
    return segments.num_sequences, triton.cdiv(channels, CHANNELS)


def _scan_tile(num_states: int) -> dict[str, int]:
    """Return the shape of a program of the scan: one warp, with 8 states a thread at N = 32."""
    block = triton.next_power_of_2(num_states)
    return {"N": num_states, "BLOCK_N": block, "BLOCK_E": CHANNELS, "CHUNK": CHUNK, "num_warps": 1}


@triton.jit
def _conv_before_silu(values_ptr, weight_ptr, bias, token, length, channel, E, TAPS: tl.constexpr):
    """Return the convolution at `token` (in its sequence); tokens outside 0 : length give the bias."""
    total = bias
    for age in tl.static_range(TAPS):
        tap = tl.load(weight_ptr + channel * TAPS + (TAPS - 1 - age), mask=channel < E, other=0.0).to(
            tl.float32
        )
        live = (token >= age) & (token < length) & (channel < E)
        total += tap * tl.load(values_ptr + (token - age) * E + channel, mask=live, other=0.0).to(tl.float32)
    return total


@triton.jit
def _conv_forward_kernel(
    values_ptr, weight_ptr, bias_ptr, offsets_ptr, result_ptr, E,
    TAPS: tl.constexpr, TOKENS: tl.constexpr, BLOCK_E: tl.constexpr,
):  # fmt: skip
    """Program (s, b, e): block b of sequence s, channel block e."""
    start = tl.load(offsets_ptr + tl.program_id(0)).to(tl.int64)
    length = (tl.load(offsets_ptr + tl.program_id(0) + 1) - start).to(tl.int32)
    if tl.program_id(1) * TOKENS >= length:
        return
    token = tl.program_id(1) * TOKENS + tl.arange(0, TOKENS)[:, None]
    channel = tl.program_id(2) * BLOCK_E + tl.arange(0, BLOCK_E)[None, :]
    bias = tl.load(bias_ptr + channel, mask=channel < E, other=0.0).to(tl.float32)
    total = _conv_before_silu(values_ptr + start * E, weight_ptr, bias, token, length, channel, E, TAPS)
    live = (token < length) & (channel < E)
    tl.store(result_ptr + start * E + token * E + channel, total * sigmoid(total), mask=live)


@triton.jit
def _conv_backward_kernel(
    values_ptr, weight_ptr, bias_ptr, offsets_ptr, grad_ptr, grad_values_ptr, partial_ptr, E,
    TAPS: tl.constexpr, TOKENS: tl.constexpr, BLOCK_E: tl.constexpr,
):  # fmt: skip
    """Program (s, b, e) as in the forward kernel: gradients of its values, and its part of the taps' and bias's sums.

    A value reaches the `TAPS` tokens from its own on; their pre-activations are computed again.
    """
    start = tl.load(offsets_ptr + tl.program_id(0)).to(tl.int64)
    length = (tl.load(offsets_ptr + tl.program_id(0) + 1) - start).to(tl.int32)
    if tl.program_id(1) * TOKENS >= length:
        return
    token = tl.program_id(1) * TOKENS + tl.arange(0, TOKENS)[:, None]
    channel = tl.program_id(2) * BLOCK_E + tl.arange(0, BLOCK_E)[None, :]
    values_ptr += start * E
    grad_ptr += start * E
    bias = tl.load(bias_ptr + channel, mask=channel < E, other=0.0).to(tl.float32)
    live = (token < length) & (channel < E)
    value = tl.load(values_ptr + token * E + channel, mask=live, other=0.0).to(tl.float32)
    block = tl.program_id(0).to(tl.int64) * tl.num_programs(1) + tl.program_id(1)
    column = tl.program_id(2) * BLOCK_E + tl.arange(0, BLOCK_E)
    partial_ptr += block * (TAPS + 1) * E + column
    grad_value = tl.zeros([TOKENS, BLOCK_E], tl.float32)
    for age in tl.static_range(TAPS):
        later = token + age
        total = _conv_before_silu(values_ptr, weight_ptr, bias, later, length, channel, E, TAPS)
        gate = sigmoid(total)
        reached = (later < length) & (channel < E)
        grad = tl.load(grad_ptr + later * E + channel, mask=reached, other=0.0).to(tl.float32)
        grad_total = grad * gate * (1.0 + total * (1.0 - gate))
        tap = tl.load(weight_ptr + channel * TAPS + (TAPS - 1 - age), mask=channel < E, other=0.0).to(
            tl.float32
        )
        grad_value += tap * grad_total
        tl.store(partial_ptr + (TAPS - 1 - age) * E, tl.sum(grad_total * value, 0), mask=column < E)
        if age == 0:
            tl.store(partial_ptr + TAPS * E, tl.sum(grad_total, 0), mask=column < E)
    tl.store(grad_values_ptr + start * E + token * E + channel, grad_value, mask=live)


@triton.jit
def _places(E, BLOCK_N: tl.constexpr, BLOCK_E: tl.constexpr):
    """Return state [1, BLOCK_N] and channel [BLOCK_E, 1] of the elements of a tile, and its places in `[N, E]`.

    The compiler gives a load the layout in which neighbours in memory are neighbours in a warp, and moves what it loads
    through shared memory where layouts meet. States in this order have no neighbours, so every tensor keeps one
    layout: channels side by side in a warp, states in its threads' registers.
    """
    lanes: tl.constexpr = 32 // BLOCK_E
    each: tl.constexpr = BLOCK_N // lanes if lanes < BLOCK_N else 1
    i = tl.arange(0, BLOCK_N)[None, :] + tl.zeros([BLOCK_E, BLOCK_N], tl.int32)
    n = (i % lanes) * each + i // lanes
    e = tl.max_contiguous(tl.program_id(1) * BLOCK_E + tl.arange(0, BLOCK_E), 1)[:, None]
    return n, e, n * E + e


@triton.jit
def _scan_forward_kernel(
    u_ptr, delta_ptr, A_ptr, B_ptr, C_ptr, D_ptr, z_ptr, bias_ptr, offsets_ptr, y_ptr, checkpoint_ptr, E,
    N: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_E: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """Program (s, e): sequence s, channel block e, token by token; the state before each chunk is stored."""
    start = tl.load(offsets_ptr + tl.program_id(0)).to(tl.int64)
    length = (tl.load(offsets_ptr + tl.program_id(0) + 1) - start).to(tl.int32)
    n, e, tile = _places(E, BLOCK_N, BLOCK_E)
    in_tile = (n < N) & (e < E)
    A = tl.load(A_ptr + tile, mask=in_tile, other=0.0).to(tl.float32) * LOG2_E
    D = tl.load(D_ptr + e, mask=e < E, other=0.0).to(tl.float32)
    bias = tl.load(bias_ptr + e, mask=e < E, other=0.0).to(tl.float32)
    u_ptr += start * E + e
    delta_ptr += start * E + e
    z_ptr += start * E + e
    y_ptr += start * E + e
    B_ptr += start * N + n
    C_ptr += start * N + n
    checkpoint_ptr += (start // CHUNK + tl.program_id(0)) * E * N + tile
    state = tl.zeros([BLOCK_E, BLOCK_N], tl.float32)
    for chunk in range(0, tl.cdiv(length, CHUNK)):
        tl.store(checkpoint_ptr, state, mask=in_tile)
        checkpoint_ptr += E * N
        inputs = ()
        for i in tl.static_range(CHUNK):
            k = chunk * CHUNK + i
            live = (e < E) & (k < length)
            live_n = (n < N) & (k < length)
            inputs = inputs + (
                (
                    tl.load(u_ptr + k * E, mask=live, other=0.0).to(tl.float32),
                    tl.load(delta_ptr + k * E, mask=live, other=0.0).to(tl.float32),
                    tl.load(z_ptr + k * E, mask=live, other=0.0).to(tl.float32),
                    tl.load(B_ptr + k * N, mask=live_n, other=0.0).to(tl.float32),
                    tl.load(C_ptr + k * N, mask=live_n, other=0.0).to(tl.float32),
                ),
            )
        for i in tl.static_range(CHUNK):
            k = chunk * CHUNK + i
            u, delta, z, B, C = inputs[i]
            dt = softplus(delta + bias)
            state = exp2(dt * A) * state + (dt * u) * B
            y = (tl.sum(state * C, 1)[:, None] + D * u) * z * sigmoid(z)
            tl.store(y_ptr + k * E, y, mask=(e < E) & (k < length))


@triton.jit
def _scan_backward_kernel(
    u_ptr, delta_ptr, A_ptr, B_ptr, C_ptr, D_ptr, z_ptr, bias_ptr, offsets_ptr, checkpoint_ptr, grad_ptr,
    grad_u_ptr, grad_delta_ptr, grad_z_ptr, partial_B_ptr, partial_C_ptr, partial_A_ptr, partial_ptr, T, E,
    N: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_E: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """Program (s, e) as in the forward kernel, chunks and tokens from last to first.

    Sums over channels (B, C) leave one part for each channel block, sums over tokens one for each sequence.
    """
    start = tl.load(offsets_ptr + tl.program_id(0)).to(tl.int64)
    length = (tl.load(offsets_ptr + tl.program_id(0) + 1) - start).to(tl.int32)
    n, e, tile = _places(E, BLOCK_N, BLOCK_E)
    in_tile = (n < N) & (e < E)
    A = tl.load(A_ptr + tile, mask=in_tile, other=0.0).to(tl.float32) * LOG2_E
    D = tl.load(D_ptr + e, mask=e < E, other=0.0).to(tl.float32)
    bias = tl.load(bias_ptr + e, mask=e < E, other=0.0).to(tl.float32)
    column = start * E + e
    row = start * N + n
    part = (tl.program_id(1).to(tl.int64) * T) * N + row
    checkpoint_ptr += (start // CHUNK + tl.program_id(0)) * E * N + tile

    grad_state = tl.zeros([BLOCK_E, BLOCK_N], tl.float32)
    sum_A = tl.zeros([BLOCK_E, BLOCK_N], tl.float32)
    sum_D = tl.zeros([BLOCK_E, 1], tl.float32)
    sum_bias = tl.zeros([BLOCK_E, 1], tl.float32)
    chunks = tl.cdiv(length, CHUNK)
    for back in range(0, chunks):
        chunk = chunks - 1 - back
        state = tl.load(checkpoint_ptr + chunk.to(tl.int64) * E * N, mask=in_tile, other=0.0)
        states = (state,)
        steps = ()
        for i in tl.static_range(CHUNK):
            k = chunk * CHUNK + i
            live = (e < E) & (k < length)
            u = tl.load(u_ptr + column + k * E, mask=live, other=0.0).to(tl.float32)
            delta = tl.load(delta_ptr + column + k * E, mask=live, other=0.0).to(tl.float32) + bias
            B = tl.load(B_ptr + row + k * N, mask=(n < N) & (k < length), other=0.0).to(tl.float32)
            dt = softplus(delta)
            state = exp2(dt * A) * state + (dt * u) * B
            states = states + (state,)
            steps = steps + ((u, delta, dt),)
        for i in tl.static_range(CHUNK - 1, -1, -1):
            k = chunk * CHUNK + i
            live = (e < E) & (k < length)
            live_n = (n < N) & (k < length)
            u, delta, dt = steps[i]
            # Loaded again: eight tokens' worth of them would push the states out of the registers.
            B = tl.load(B_ptr + row + k * N, mask=live_n, other=0.0).to(tl.float32)
            C = tl.load(C_ptr + row + k * N, mask=live_n, other=0.0).to(tl.float32)
            z = tl.load(z_ptr + column + k * E, mask=live, other=0.0).to(tl.float32)
            grad = tl.load(grad_ptr + column + k * E, mask=live, other=0.0).to(tl.float32)

            gate = sigmoid(z)
            y = tl.sum(states[i + 1] * C, 1)[:, None] + D * u
            tl.store(grad_z_ptr + column + k * E, grad * y * gate * (1.0 + z * (1.0 - gate)), mask=live)
            grad_y = grad * z * gate
            sum_D += grad_y * u
            first = live_n & (e == tl.program_id(1) * BLOCK_E)
            grad_C = tl.sum(states[i + 1] * grad_y, 0)[None, :]
            tl.store(partial_C_ptr + part + k * N, tl.broadcast_to(grad_C, [BLOCK_E, BLOCK_N]), mask=first)

            grad_state += grad_y * C
            grad_B = tl.sum(grad_state * (dt * u), 0)[None, :]
            tl.store(partial_B_ptr + part + k * N, tl.broadcast_to(grad_B, [BLOCK_E, BLOCK_N]), mask=first)
            grad_drive = tl.sum(grad_state * B, 1)[:, None]
            grad_state *= exp2_again(dt * A)
            grad_exponent = grad_state * states[i]
            sum_A += grad_exponent * dt
            grad_dt = tl.sum(grad_exponent * A, 1)[:, None] * LN_2 + grad_drive * u
            tl.store(grad_u_ptr + column + k * E, grad_drive * dt + D * grad_y, mask=live)
            # Beyond the sequence's end every gradient is 0, but dt is not: states and sums stay as they are.
            grad_delta = grad_dt * sigmoid(delta)
            tl.store(grad_delta_ptr + column + k * E, grad_delta, mask=live)
            sum_bias += grad_delta
    tl.store(partial_A_ptr + tl.program_id(0).to(tl.int64) * E * N + tile, sum_A, mask=in_tile)
    partial_ptr += tl.program_id(0).to(tl.int64) * 2 * E + e
    tl.store(partial_ptr, sum_D, mask=e < E)
    tl.store(partial_ptr + E, sum_bias, mask=e < E)
