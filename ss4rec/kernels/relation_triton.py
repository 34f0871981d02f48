"""The relation-aware path in Triton: Mamba's selective scan, forward and backward, and `causal_conv`.

Both honour sequence boundaries (a program works inside one sequence), need no compile step at installation and use no
atomics, so results repeat bit by bit. The scan keeps `[N, channels]` states in float32 registers; the forward pass
stores them every `CHUNK` tokens, and the backward pass recomputes a chunk's states from there.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ss4rec.kernels.conv_triton import causal_conv
from ss4rec.kernels.inputs import SelectiveInputs
from ss4rec.kernels.launch import launch
from ss4rec.kernels.math_triton import exp2, exp2_again, sigmoid, softplus
from ss4rec.model.segments import Segments

__all__ = ["causal_conv", "selective_scan"]
LOG2_E = tl.constexpr(1.4426950408889634)
LN_2 = tl.constexpr(0.6931471805599453)
AHEAD = 2
"""Tokens whose inputs the forward pass loads before it uses the first; divides CHUNK."""
BACKWARD_REGISTERS = 128
"""Registers of a thread in the scan's backward pass up to N = 32: 128 leave 16 warps a multiprocessor, 168 leave 12.

At 128 a few values a token are spilled. 100 sequences of 128 channels are 1,600 warps: 12 on each of 132 are too few.
"""
CHANNELS = 8
"""Channels of one program of the scan; 32 / CHANNELS threads share the states of one."""
CHUNK = 32 // CHANNELS
"""Tokens between stored states: one for each thread of a channel. The backward pass holds so many states."""


def selective_scan(inputs: SelectiveInputs, segments: Segments) -> Tensor:
    """Compute `ss4rec.kernels.naive.selective_scan`; state and sums are float32, the result has `u`'s type."""
    y_TE: Tensor = _SelectiveScan.apply(*inputs, segments)
    return y_TE


class _SelectiveScan(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:
        """Return y `[T, E]` of u, delta, A, B, C, D, z, the bias of delta and the segments."""
        *given, segments = arguments
        u_TE, delta_TE, A_EN, B_TN, C_TN, D_E, z_TE, delta_bias_E = given
        inputs = [x.contiguous() for x in (u_TE, delta_TE, A_EN.T, B_TN, C_TN, D_E, z_TE, delta_bias_E)]
        num_tokens, channels = u_TE.shape
        num_states = A_EN.shape[1]
        y_TE = torch.empty_like(inputs[0])
        # A sequence of l tokens starting at t has its ceil(l / CHUNK) states from row t // CHUNK + s on.
        rows = num_tokens // CHUNK + segments.num_sequences
        checkpoints_RNE = u_TE.new_empty(rows, num_states, channels, dtype=torch.float32)
        launch(_scan_forward_kernel, _scan_grid(channels, segments),
            *inputs, segments.offsets_S1, y_TE, checkpoints_RNE, channels, CHUNK=CHUNK, AHEAD=AHEAD,
            **_scan_tile(*inputs[3:5]),
        )  # fmt: skip
        ctx.save_for_backward(*inputs, checkpoints_RNE)
        ctx.segments = segments
        return y_TE

    @staticmethod
    def backward(ctx: Any, grad_TE: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of the eight tensors, each in its shape."""
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
        launch(_scan_backward_kernel, grid,
            *inputs, ctx.segments.offsets_S1, checkpoints_RNE, grad_TE.contiguous(),
            grad_u_TE, grad_delta_TE, grad_z_TE, partial_B_GTN, partial_C_GTN, partial_A_SNE, partial_S2E,
            num_tokens, channels, **_scan_tile(B_TN, C_TN),
            maxnreg=BACKWARD_REGISTERS if num_states <= 32 else None,
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


def _scan_grid(channels: int, segments: Segments) -> tuple[int, int]:
    return segments.num_sequences, triton.cdiv(channels, CHANNELS)


def _scan_tile(B_TN: Tensor, C_TN: Tensor) -> dict[str, int]:
    """Return the shape of a program of the scan: one warp, with 8 states a thread at N = 32.

    Loads of four values at once need tokens that begin at multiples of eight bytes; a view may not.
    """
    num_states, lanes = B_TN.shape[1], 32 // CHANNELS
    each = triton.cdiv(triton.next_power_of_2(num_states), lanes)
    whole = all(x.dtype == torch.bfloat16 and x.storage_offset() % 4 == 0 for x in (B_TN, C_TN))
    pack = 4 if whole and num_states % 4 == 0 and each % 4 == 0 else 1
    return {
        "N": num_states, "EACH": each, "LANES": lanes, "BLOCK_E": CHANNELS, "PACK": pack, "num_warps": 1,
    }  # fmt: skip


@triton.jit
def _places(
    E: tl.tensor, EACH: tl.constexpr, LANES: tl.constexpr, BLOCK_E: tl.constexpr,
) -> tuple[tl.tensor, ...]:  # fmt: skip
    """Return state [BLOCK_E, LANES, EACH] and channel [BLOCK_E, LANES, 1] of a tile, and its places in `[N, E]`.

    The compiler gives a load the layout in which neighbours in memory are neighbours in a warp, and moves what it loads
    through shared memory where layouts meet. These states and channels hide their neighbours, so a warp's threads
    always stand for [BLOCK_E, LANES] and each holds EACH states. Values of a channel have LANES copies, one a
    thread: with fewer elements than threads the compiler would load and compute them once for every layout.
    """
    zero = tl.zeros([BLOCK_E, LANES, EACH], tl.int32)
    n = tl.arange(0, LANES)[None, :, None] * EACH + tl.arange(0, EACH)[None, None, :] + zero
    e = tl.program_id(1) * BLOCK_E + tl.arange(0, BLOCK_E)[:, None, None]
    n = tl.max_contiguous(n, [1, 1, 1])
    e = tl.max_contiguous(e + tl.zeros([BLOCK_E, LANES, 1], tl.int32), [1, 1, 1])
    return n, e, n * E + e


@triton.jit
def _load_states(
    row_ptr: tl.tensor, n: tl.tensor, live: tl.tensor, N: tl.constexpr, EACH: tl.constexpr, LANES: tl.constexpr,
    BLOCK_E: tl.constexpr, PACK: tl.constexpr,
) -> tl.tensor:  # fmt: skip
    """Load the N values of a token, for every channel alike; PACK = 4 takes four bf16 values as one."""
    if PACK == 1:
        values = tl.load(row_ptr + n, mask=live & (n < N), other=0.0).to(tl.float32)
    else:  # not after a return: the compiler would read this for PACK = 1, too
        words: tl.constexpr = EACH // PACK
        word = tl.arange(0, LANES)[None, :, None] * words + tl.arange(0, words)[None, None, :]
        word = word + tl.zeros([BLOCK_E, LANES, words], tl.int32)
        if words > 2:
            word = tl.max_contiguous(word, [1, 1, 1])
        bits = tl.load(row_ptr.to(tl.pointer_type(tl.int64)) + word, mask=live & (word < N // PACK), other=0)
        low, high = bits.to(tl.int32), (bits >> 32).to(tl.int32)
        pairs = tl.join(tl.join(low << 16, high << 16), tl.join(low & -65536, high & -65536))
        values = tl.reshape(pairs, [BLOCK_E, LANES, EACH]).to(tl.float32, bitcast=True)
    return values


@triton.jit
def _sum_states(x: tl.tensor) -> tl.tensor:
    """Return the sum over states of a tile as `[BLOCK_E, 1, 1]`."""
    return tl.sum(tl.sum(x, 2), 1)[:, None, None]


@triton.jit
def _summed_places(EACH: tl.constexpr, LANES: tl.constexpr, BLOCK_E: tl.constexpr) -> tl.tensor:
    """Return which states each thread holds of what `_sum_channels` returns."""
    kept: tl.constexpr = EACH // BLOCK_E if EACH > BLOCK_E else 1
    n = tl.arange(0, LANES)[None, :, None] * EACH + tl.arange(0, kept)[None, None, :]
    return tl.max_contiguous(n + (tl.arange(0, BLOCK_E) * EACH // BLOCK_E)[:, None, None], [1, 1, 1])


@triton.jit
def _sum_channels(x: tl.tensor, EACH: tl.constexpr, LANES: tl.constexpr, BLOCK_E: tl.constexpr) -> tl.tensor:
    """Return the sums over channels of a tile; the thread of channel e keeps the states from e * EACH / BLOCK_E on.

    At each step a thread gives away the half of its states that its partner keeps: 7 shuffles for 8 channels and 8
    states a thread, where sums that every thread learns take 24.
    """
    e = tl.arange(0, BLOCK_E)[:, None, None]
    for step in tl.static_range(1, 6):
        if BLOCK_E >> step > 0:
            given, kept = x, x
            if EACH >> step > 0:
                low, high = tl.split(
                    tl.permute(tl.reshape(x, [BLOCK_E, LANES, 2, EACH >> step]), (0, 1, 3, 2))
                )
                upper = (e & (BLOCK_E >> step)) != 0
                given, kept = tl.where(upper, low, high), tl.where(upper, high, low)
            x = kept + tl.gather(given, (e ^ (BLOCK_E >> step)) + tl.zeros_like(given).to(tl.int32), 0)
    return x


@triton.jit
def _scan_forward_kernel(
    u_ptr: tl.tensor, delta_ptr: tl.tensor, A_ptr: tl.tensor, B_ptr: tl.tensor, C_ptr: tl.tensor, D_ptr: tl.tensor,
    z_ptr: tl.tensor, bias_ptr: tl.tensor, offsets_ptr: tl.tensor, y_ptr: tl.tensor, checkpoint_ptr: tl.tensor,
    E: tl.tensor, N: tl.constexpr, EACH: tl.constexpr, LANES: tl.constexpr, BLOCK_E: tl.constexpr, PACK: tl.constexpr,
    CHUNK: tl.constexpr, AHEAD: tl.constexpr,
) -> None:  # fmt: skip
    """Program (s, e): sequence s, channel block e, token by token; the state before each chunk is stored.

    The inputs of AHEAD tokens are loaded before the first is used.
    """
    start = tl.load(offsets_ptr + tl.program_id(0)).to(tl.int64)
    length = (tl.load(offsets_ptr + tl.program_id(0) + 1) - start).to(tl.int32)
    n, e, tile = _places(E, EACH, LANES, BLOCK_E)
    in_tile = (n < N) & (e < E)
    A = tl.load(A_ptr + tile, mask=in_tile, other=0.0).to(tl.float32) * LOG2_E
    D = tl.load(D_ptr + e, mask=e < E, other=0.0).to(tl.float32)
    bias = tl.load(bias_ptr + e, mask=e < E, other=0.0).to(tl.float32)
    u_ptr += start * E + e
    delta_ptr += start * E + e
    z_ptr += start * E + e
    y_ptr += start * E + e
    B_ptr += start * N
    C_ptr += start * N
    checkpoint_ptr += (start // CHUNK + tl.program_id(0)) * E * N + tile
    state = tl.zeros([BLOCK_E, LANES, EACH], tl.float32)
    for first in range(0, length, AHEAD):
        if first % CHUNK == 0:
            tl.store(checkpoint_ptr, state, mask=in_tile)
            checkpoint_ptr += E * N
        inputs = ()
        for i in tl.static_range(AHEAD):
            k = first + i
            live = (e < E) & (k < length)
            inputs = inputs + (
                (
                    tl.load(u_ptr + k * E, mask=live, other=0.0).to(tl.float32),
                    tl.load(delta_ptr + k * E, mask=live, other=0.0).to(tl.float32),
                    tl.load(z_ptr + k * E, mask=live, other=0.0).to(tl.float32),
                    _load_states(B_ptr + k * N, n, k < length, N, EACH, LANES, BLOCK_E, PACK),
                    _load_states(C_ptr + k * N, n, k < length, N, EACH, LANES, BLOCK_E, PACK),
                ),
            )
        for i in tl.static_range(AHEAD):
            k = first + i
            u, delta, z, B, C = inputs[i]
            dt = softplus(delta + bias)
            state = exp2(dt * A) * state + (dt * u) * B
            y = (_sum_states(state * C) + D * u) * z * sigmoid(z)
            tl.store(y_ptr + k * E, y, mask=(e < E) & (k < length))


@triton.jit
def _of_token(x: tl.tensor, i: tl.tensor, BLOCK_E: tl.constexpr, LANES: tl.constexpr) -> tl.tensor:
    """Return what thread i of each channel holds, `[BLOCK_E, 1, 1]`; whatever place the compiler gave that thread."""
    token = tl.arange(0, LANES)[None, :, None] + tl.zeros([BLOCK_E, LANES, 1], tl.int32)
    return tl.sum(tl.where(token == i, x, 0.0), 1)[:, None, :]


@triton.jit
def _load_token(
    u_ptr: tl.tensor, delta_ptr: tl.tensor, z_ptr: tl.tensor, grad_ptr: tl.tensor, at: tl.tensor, live: tl.tensor,
) -> tuple[tl.tensor, ...]:  # fmt: skip
    """Load u, delta, z and the gradient of each thread's own token, as float32; 0 where it is not `live`."""
    u = tl.load(u_ptr + at, mask=live, other=0.0).to(tl.float32)
    delta = tl.load(delta_ptr + at, mask=live, other=0.0).to(tl.float32)
    z = tl.load(z_ptr + at, mask=live, other=0.0).to(tl.float32)
    return u, delta, z, tl.load(grad_ptr + at, mask=live, other=0.0).to(tl.float32)


@triton.jit
def _scan_backward_kernel(
    u_ptr: tl.tensor, delta_ptr: tl.tensor, A_ptr: tl.tensor, B_ptr: tl.tensor, C_ptr: tl.tensor, D_ptr: tl.tensor,
    z_ptr: tl.tensor, bias_ptr: tl.tensor, offsets_ptr: tl.tensor, checkpoint_ptr: tl.tensor, grad_ptr: tl.tensor,
    grad_u_ptr: tl.tensor, grad_delta_ptr: tl.tensor, grad_z_ptr: tl.tensor, partial_B_ptr: tl.tensor,
    partial_C_ptr: tl.tensor, partial_A_ptr: tl.tensor, partial_ptr: tl.tensor, T: tl.tensor, E: tl.tensor,
    N: tl.constexpr, EACH: tl.constexpr, LANES: tl.constexpr, BLOCK_E: tl.constexpr, PACK: tl.constexpr,
) -> None:  # fmt: skip
    """Program (s, e) as in the forward kernel, chunks and tokens from last to first.

    Thread i of a channel loads, gates and stores token i of a chunk, so that each of these values is computed once.
    Sums over channels (B, C) leave one part for each channel block, sums over tokens one for each sequence.
    """
    start = tl.load(offsets_ptr + tl.program_id(0)).to(tl.int64)
    length = (tl.load(offsets_ptr + tl.program_id(0) + 1) - start).to(tl.int32)
    n, e, tile = _places(E, EACH, LANES, BLOCK_E)
    in_tile = (n < N) & (e < E)
    A = tl.load(A_ptr + tile, mask=in_tile, other=0.0).to(tl.float32) * LOG2_E
    D = tl.load(D_ptr + e, mask=e < E, other=0.0).to(tl.float32)
    bias = tl.load(bias_ptr + e, mask=e < E, other=0.0).to(tl.float32)
    token = tl.arange(0, LANES)[None, :, None] + tl.zeros([BLOCK_E, LANES, 1], tl.int32)
    column = (start + token) * E + e
    B_ptr += start * N
    C_ptr += start * N
    n_sum = _summed_places(EACH, LANES, BLOCK_E)
    part = (tl.program_id(1).to(tl.int64) * T + start) * N + n_sum
    checkpoint_ptr += (start // LANES + tl.program_id(0)) * E * N + tile

    grad_state = tl.zeros([BLOCK_E, LANES, EACH], tl.float32)
    sum_A = tl.zeros([BLOCK_E, LANES, EACH], tl.float32)
    zero = tl.zeros([BLOCK_E, LANES, 1], tl.float32)
    sum_D, sum_bias = zero, zero
    chunks = tl.cdiv(length, LANES)
    for back in range(0, chunks):
        first = (chunks - 1 - back) * LANES
        at = column + first * E
        live = (e < E) & (first + token < length)
        u, delta, z, grad = _load_token(u_ptr, delta_ptr, z_ptr, grad_ptr, at, live)
        delta += bias
        chunk = (chunks - 1 - back).to(tl.int64)
        state = tl.load(checkpoint_ptr + chunk * E * N, mask=in_tile, other=0.0)
        states = (state,)
        dt = softplus(delta)
        drive = dt * u
        gate = sigmoid(z)
        grad_y = grad * z * gate
        for i in tl.static_range(LANES):
            k = first + i
            B = _load_states(B_ptr + k * N, n, k < length, N, EACH, LANES, BLOCK_E, PACK)
            decay = exp2(_of_token(dt, i, BLOCK_E, LANES) * A)
            state = decay * state + _of_token(drive, i, BLOCK_E, LANES) * B
            states = states + (state,)
        y, grad_drive, grad_dt = zero, zero, zero
        for i in tl.static_range(LANES - 1, -1, -1):
            k = first + i
            live_sum = (n_sum < N) & (k < length)
            # Loaded again: a chunk's worth of them would push the states out of the registers.
            B = _load_states(B_ptr + k * N, n, k < length, N, EACH, LANES, BLOCK_E, PACK)
            C = _load_states(C_ptr + k * N, n, k < length, N, EACH, LANES, BLOCK_E, PACK)
            dt_k = _of_token(dt, i, BLOCK_E, LANES)
            grad_y_k = _of_token(grad_y, i, BLOCK_E, LANES)
            y = tl.where(token == i, _sum_states(states[i + 1] * C), y)
            grad_C = _sum_channels(states[i + 1] * grad_y_k, EACH, LANES, BLOCK_E)
            tl.store(partial_C_ptr + part + k * N, grad_C, mask=live_sum)

            grad_state += grad_y_k * C
            grad_B = _sum_channels(grad_state * _of_token(drive, i, BLOCK_E, LANES), EACH, LANES, BLOCK_E)
            tl.store(partial_B_ptr + part + k * N, grad_B, mask=live_sum)
            grad_drive = tl.where(token == i, _sum_states(grad_state * B), grad_drive)
            grad_state *= exp2_again(dt_k * A)
            grad_exponent = grad_state * states[i]
            sum_A += grad_exponent * dt_k
            grad_dt = tl.where(token == i, _sum_states(grad_exponent * A), grad_dt)
        y += D * u
        # Beyond the sequence's end every gradient is 0, but dt is not: states and sums stay as they are.
        grad_delta = (grad_dt * LN_2 + grad_drive * u) * sigmoid(delta)
        tl.store(grad_z_ptr + at, grad * y * gate * (1.0 + z * (1.0 - gate)), mask=live)
        tl.store(grad_u_ptr + at, grad_drive * dt + D * grad_y, mask=live)
        tl.store(grad_delta_ptr + at, grad_delta, mask=live)
        sum_D += grad_y * u
        sum_bias += grad_delta
    tl.store(partial_A_ptr + tl.program_id(0).to(tl.int64) * E * N + tile, sum_A, mask=in_tile)
    partial_ptr += tl.program_id(0).to(tl.int64) * 2 * E + e
    tl.store(partial_ptr, _sum_states(sum_D), mask=e < E)
    tl.store(partial_ptr + E, _sum_states(sum_bias), mask=e < E)
