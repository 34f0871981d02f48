"""The causal convolution with SiLU in Triton, forward and backward.

A program walks through a block of tokens of one sequence, so it honours sequence boundaries; its threads hold the
channels, and the values in reach, in registers. No atomics, so results repeat bit by bit.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ss4rec.kernels.launch import launch
from ss4rec.kernels.math_triton import sigmoid
from ss4rec.model.segments import Segments

CONV_TOKENS_FORWARD = 32
"""Tokens of one program of the convolution."""
CONV_TOKENS_BACKWARD = 64
"""As `CONV_TOKENS_FORWARD`; larger since every program leaves a part of the sums."""
CONV_AHEAD_FORWARD = 16
"""Tokens that are loaded before the first is used; TAPS - 1 more are loaded twice."""
CONV_AHEAD_BACKWARD = 8
"""As `CONV_AHEAD_FORWARD`; smaller since each token holds three values in registers."""
CONV_CHANNELS = 64
"""Channels of one program of the convolution."""


def causal_conv(values_TE: Tensor, weight_EK: Tensor, bias_E: Tensor, segments: Segments) -> Tensor:
    """Compute `ss4rec.kernels.naive.causal_conv`; sums are float32, the result has `values`' type."""
    result_TE: Tensor = _CausalConv.apply(values_TE, weight_EK, bias_E, segments)
    return result_TE


class _CausalConv(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values_TE: Tensor, weight_EK: Tensor, bias_E: Tensor, segments: Segments) -> Tensor:
        """Return the convolution, `[T, E]`."""
        values_TE, weight_EK = values_TE.contiguous(), weight_EK.contiguous()
        result_TE = torch.empty_like(values_TE)
        channels, taps = weight_EK.shape
        launch(_conv_forward_kernel, _conv_grid(channels, segments, CONV_TOKENS_FORWARD),
            values_TE, weight_EK, bias_E, segments.offsets_S1, result_TE, channels,
            TOKENS=CONV_TOKENS_FORWARD, AHEAD=CONV_AHEAD_FORWARD, **_conv_tile(taps),
        )  # fmt: skip
        ctx.save_for_backward(values_TE, weight_EK, bias_E)
        ctx.segments = segments
        return result_TE

    @staticmethod
    def backward(ctx: Any, grad_TE: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of values `[T, E]`, weights `[E, K]` and bias `[E]`."""
        values_TE, weight_EK, bias_E = ctx.saved_tensors
        channels, taps = weight_EK.shape
        grid = _conv_grid(channels, ctx.segments, CONV_TOKENS_BACKWARD)
        grad_values_TE = torch.empty_like(values_TE)
        partial_GKE = values_TE.new_empty(grid[0] * grid[1], taps + 1, channels, dtype=torch.float32)
        launch(_conv_backward_kernel, grid,
            values_TE, weight_EK, bias_E, ctx.segments.offsets_S1, grad_TE.contiguous(), grad_values_TE, partial_GKE,
            channels, TOKENS=CONV_TOKENS_BACKWARD, AHEAD=CONV_AHEAD_BACKWARD, **_conv_tile(taps),
        )  # fmt: skip
        sums_KE = partial_GKE.sum(0)
        return grad_values_TE, sums_KE[:taps].T.to(weight_EK.dtype), sums_KE[taps].to(bias_E.dtype), None


def _conv_grid(channels: int, segments: Segments, tokens: int) -> tuple[int, int, int]:
    return segments.num_sequences, triton.cdiv(segments.max_len, tokens), triton.cdiv(channels, CONV_CHANNELS)


def _conv_tile(taps: int) -> dict[str, int]:
    """Return the shape of a program of the convolution: two channels a thread, which bf16 loads as four bytes."""
    return {"TAPS": taps, "BLOCK_E": CONV_CHANNELS, "num_warps": max(1, CONV_CHANNELS // 64)}


@triton.jit
def _conv_weights(
    weight_ptr: tl.tensor, bias_ptr: tl.tensor, channel: tl.tensor, E: tl.tensor, TAPS: tl.constexpr,
) -> tuple[tl.tensor, ...]:  # fmt: skip
    """Return the taps by age of the value they weigh, newest first, and the bias."""
    taps = ()
    for age in tl.static_range(TAPS):
        tap = tl.load(weight_ptr + channel * TAPS + (TAPS - 1 - age), mask=channel < E, other=0.0)
        taps = taps + (tap.to(tl.float32),)
    return taps, tl.load(bias_ptr + channel, mask=channel < E, other=0.0).to(tl.float32)


@triton.jit
def _load_rows(
    ptr: tl.tensor, first: tl.tensor, length: tl.tensor, channel: tl.tensor, E: tl.tensor, COUNT: tl.constexpr,
) -> tuple[tl.tensor, ...]:  # fmt: skip
    """Return the rows from `first` on, as float32; tokens outside 0 : length give zeros."""
    rows = ()
    for i in tl.static_range(COUNT):
        live = (first + i >= 0) & (first + i < length) & (channel < E)
        rows = rows + (tl.load(ptr + (first + i) * E + channel, mask=live, other=0.0).to(tl.float32),)
    return rows


@triton.jit
def _conv_forward_kernel(
    values_ptr: tl.tensor, weight_ptr: tl.tensor, bias_ptr: tl.tensor, offsets_ptr: tl.tensor, result_ptr: tl.tensor,
    E: tl.tensor, TAPS: tl.constexpr, TOKENS: tl.constexpr, AHEAD: tl.constexpr, BLOCK_E: tl.constexpr,
) -> None:  # fmt: skip
    """Program (s, b, e): block b of sequence s, channel block e, AHEAD tokens at a time."""
    start = tl.load(offsets_ptr + tl.program_id(0)).to(tl.int64)
    length = (tl.load(offsets_ptr + tl.program_id(0) + 1) - start).to(tl.int32)
    begin = tl.program_id(1) * TOKENS
    channel = tl.program_id(2) * BLOCK_E + tl.arange(0, BLOCK_E)
    taps, bias = _conv_weights(weight_ptr, bias_ptr, channel, E, TAPS)
    values_ptr += start * E
    result_ptr += start * E
    for first in range(begin, tl.minimum(begin + TOKENS, length), AHEAD):
        values = _load_rows(values_ptr, first - (TAPS - 1), length, channel, E, AHEAD + TAPS - 1)
        for i in tl.static_range(AHEAD):
            total = bias
            for age in tl.static_range(TAPS):
                total += taps[age] * values[TAPS - 1 + i - age]
            live = (first + i < length) & (channel < E)
            tl.store(result_ptr + (first + i) * E + channel, total * sigmoid(total), mask=live)


@triton.jit
def _conv_backward_kernel(
    values_ptr: tl.tensor, weight_ptr: tl.tensor, bias_ptr: tl.tensor, offsets_ptr: tl.tensor, grad_ptr: tl.tensor,
    grad_values_ptr: tl.tensor, partial_ptr: tl.tensor, E: tl.tensor, TAPS: tl.constexpr, TOKENS: tl.constexpr,
    AHEAD: tl.constexpr, BLOCK_E: tl.constexpr,
) -> None:  # fmt: skip
    """Program (s, b, e) as in the forward kernel: gradients of its values, and its part of the taps' and bias's sums.

    A value reaches the `TAPS` tokens from its own on, so the gradients before SiLU are computed for AHEAD + TAPS - 1.
    """
    start = tl.load(offsets_ptr + tl.program_id(0)).to(tl.int64)
    length = (tl.load(offsets_ptr + tl.program_id(0) + 1) - start).to(tl.int32)
    begin = tl.program_id(1) * TOKENS
    channel = tl.program_id(2) * BLOCK_E + tl.arange(0, BLOCK_E)
    taps, bias = _conv_weights(weight_ptr, bias_ptr, channel, E, TAPS)
    values_ptr += start * E
    grad_ptr += start * E
    grad_values_ptr += start * E
    sum_bias = tl.zeros([BLOCK_E], tl.float32)
    sums = ()
    for _ in tl.static_range(TAPS):
        sums = sums + (sum_bias,)
    for first in range(begin, tl.minimum(begin + TOKENS, length), AHEAD):
        values = _load_rows(values_ptr, first - (TAPS - 1), length, channel, E, AHEAD + 2 * (TAPS - 1))
        grads = _load_rows(grad_ptr, first, length, channel, E, AHEAD + TAPS - 1)
        grad_totals = ()
        for i in tl.static_range(AHEAD + TAPS - 1):
            total = bias
            for age in tl.static_range(TAPS):
                total += taps[age] * values[TAPS - 1 + i - age]
            gate = sigmoid(total)
            grad_totals = grad_totals + (grads[i] * gate * (1.0 + total * (1.0 - gate)),)
        for i in tl.static_range(AHEAD):
            grad_value = tl.zeros([BLOCK_E], tl.float32)
            added = ()
            for age in tl.static_range(TAPS):
                grad_value += taps[age] * grad_totals[i + age]
                added = added + (sums[age] + values[TAPS - 1 + i - age] * grad_totals[i],)
            sums = added
            sum_bias += grad_totals[i]
            live = (first + i < length) & (channel < E)
            tl.store(grad_values_ptr + (first + i) * E + channel, grad_value, mask=live)
    # Also where the sequence ends before the block begins, as all parts are summed.
    block = tl.program_id(0).to(tl.int64) * tl.num_programs(1) + tl.program_id(1)
    partial_ptr += block * (TAPS + 1) * E + channel
    for age in tl.static_range(TAPS):
        tl.store(partial_ptr + (TAPS - 1 - age) * E, sums[age], mask=channel < E)
    tl.store(partial_ptr + TAPS * E, sum_bias, mask=channel < E)
