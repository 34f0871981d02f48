"""What surrounds a layer's own work, each as one Triton kernel forward and one backward: `layer_torch` in registers.

torch takes eight kernels for dropout of both kinds, sum and norm, and twelve for their gradients; on a training batch
each of them moves a few megabytes, so most of its time is its start. Here nothing is stored but the result: masks
come from a counter-based generator (Philox, as torch's own) and a seed, and the backward pass draws them again.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ss4rec.kernels.launch import launch
from ss4rec.kernels.math_triton import sigmoid

ELEMENTS = 1024
"""Elements of a program's tile; eight a thread."""
PROGRAMS = 264
"""Programs of the norm's backward pass, two a multiprocessor of an H100; each leaves a row of the parameters' sums."""


def residual_norm(
    values_TD: Tensor,
    branch_TD: Tensor,
    weight_D: Tensor,
    bias_D: Tensor,
    eps: float,
    dropout: float = 0.0,
    layer_dropout: float = 0.0,
) -> Tensor:
    """Compute `layer_torch.residual_norm` in float32, with masks of its own; the result has `values`' type."""
    drops = dropout > 0.0 or layer_dropout > 0.0
    # torch's generator draws the seed, so that it is saved with the run and advances when a CUDA graph is replayed.
    seed = torch.randint(2**62, (1,), device=values_TD.device) if drops else None
    result_TD: Tensor = _ResidualNorm.apply(
        values_TD, branch_TD, weight_D, bias_D, seed, eps, dropout, layer_dropout
    )
    return result_TD


def swiglu(gate_up_T2F: Tensor) -> Tensor:
    """Compute `layer_torch.swiglu` in float32; the result has the input's type."""
    result_TF: Tensor = _SwiGLU.apply(gate_up_T2F)
    return result_TF


class _ResidualNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        values_TD: Tensor,
        branch_TD: Tensor,
        weight_D: Tensor,
        bias_D: Tensor,
        seed: Tensor | None,
        eps: float,
        dropout: float,
        layer_dropout: float,
    ) -> Tensor:
        """Return the normed sum, `[T, D]`."""
        values_TD, branch_TD = values_TD.contiguous(), branch_TD.contiguous()
        result_TD = torch.empty_like(values_TD)
        tile = _tile(values_TD.shape[1])
        # Kernels that drop nothing never read the seed.
        inputs = (values_TD, branch_TD, weight_D, weight_D if seed is None else seed)
        ctx.options, ctx.drops = (len(values_TD), eps, dropout, layer_dropout), seed is not None
        launch(
            _norm_forward_kernel,
            (triton.cdiv(len(values_TD), tile["BLOCK_T"]),),
            *inputs,
            bias_D,
            result_TD,
            *ctx.options,
            DROPS=ctx.drops,
            **tile,
        )
        ctx.save_for_backward(*inputs)
        return result_TD

    @staticmethod
    def backward(ctx: Any, grad_TD: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of both summands `[T, D]`, weight and bias `[D]`."""
        values_TD, branch_TD, weight_D, _ = ctx.saved_tensors
        tile = _tile(values_TD.shape[1])
        programs = min(PROGRAMS, triton.cdiv(len(values_TD), tile["BLOCK_T"]))
        grad_values_TD, grad_branch_TD = torch.empty_like(values_TD), torch.empty_like(branch_TD)
        partial_X2D = torch.empty(programs, 2, weight_D.numel(), device=grad_TD.device, dtype=torch.float32)
        launch(_norm_backward_kernel, (programs,),
            *ctx.saved_tensors, grad_TD.contiguous(), grad_values_TD, grad_branch_TD, partial_X2D,
            *ctx.options, DROPS=ctx.drops, **tile,
        )  # fmt: skip
        grad_weight_D, grad_bias_D = partial_X2D.sum(0).to(weight_D.dtype)
        return grad_values_TD, grad_branch_TD, grad_weight_D, grad_bias_D, None, None, None, None


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate_up_T2F: Tensor) -> Tensor:
        """Return the gated values, `[T, F]`."""
        gate_up_T2F = gate_up_T2F.contiguous()
        tokens, width = gate_up_T2F.shape
        result_TF = gate_up_T2F.new_empty(tokens, width // 2)
        tile = _tile(width // 2)
        launch(
            _swiglu_forward_kernel,
            (triton.cdiv(tokens, tile["BLOCK_T"]),),
            gate_up_T2F,
            result_TF,
            tokens,
            **tile,
        )
        ctx.save_for_backward(gate_up_T2F)
        return result_TF

    @staticmethod
    def backward(ctx: Any, grad_TF: Tensor) -> Tensor:
        """Return the gradient of gates and values side by side, `[T, 2F]`."""
        (gate_up_T2F,) = ctx.saved_tensors
        tokens, width = gate_up_T2F.shape
        grad_T2F = torch.empty_like(gate_up_T2F)
        tile = _tile(width // 2)
        launch(
            _swiglu_backward_kernel,
            (triton.cdiv(tokens, tile["BLOCK_T"]),),
            gate_up_T2F,
            grad_TF.contiguous(),
            grad_T2F,
            tokens,
            **tile,
        )
        return grad_T2F


def _tile(width: int) -> dict[str, int]:
    """Return a tile of whole rows."""
    block = triton.next_power_of_2(width)
    return {"D": width, "BLOCK_D": block, "BLOCK_T": max(1, ELEMENTS // block), "num_warps": 4}


@triton.jit
def _kept(
    seed: tl.tensor, row: tl.tensor, column: tl.tensor, dropout: tl.tensor, layer_dropout: tl.tensor, D: tl.constexpr,
) -> tl.tensor:  # fmt: skip
    """Return what each value of the branch is multiplied with: 0, or what keeps the mean."""
    kept = tl.rand(seed, row * D + column) >= dropout
    kept &= tl.rand(seed + 1, row) >= layer_dropout
    return tl.where(kept, 1.0 / ((1.0 - dropout) * (1.0 - layer_dropout)), 0.0)


@triton.jit
def _normed_sum(
    values_ptr: tl.tensor, branch_ptr: tl.tensor, seed_ptr: tl.tensor, row: tl.tensor, column: tl.tensor,
    T: tl.tensor, eps: tl.tensor, dropout: tl.tensor, layer_dropout: tl.tensor, DROPS: tl.constexpr, D: tl.constexpr,
) -> tuple[tl.tensor, ...]:  # fmt: skip
    """Return (values + kept · branch) with mean 0 and variance 1, the variance's inverse root, and kept."""
    live = (row < T) & (column < D)
    at = row.to(tl.int64) * D + column
    branch = tl.load(branch_ptr + at, mask=live, other=0.0).to(tl.float32)
    total = tl.load(values_ptr + at, mask=live, other=0.0).to(tl.float32)
    kept = tl.full(branch.shape, 1.0, tl.float32)
    if DROPS:
        kept = _kept(tl.load(seed_ptr), row, column, dropout, layer_dropout, D)
    total += kept * branch
    mean = tl.sum(total, 1)[:, None] / D
    centred = tl.where(column < D, total - mean, 0.0)
    inverse = 1.0 / tl.sqrt(tl.sum(centred * centred, 1)[:, None] / D + eps)
    return centred * inverse, inverse, kept


@triton.jit
def _norm_forward_kernel(
    values_ptr: tl.tensor, branch_ptr: tl.tensor, weight_ptr: tl.tensor, seed_ptr: tl.tensor, bias_ptr: tl.tensor,
    result_ptr: tl.tensor, T: tl.tensor, eps: tl.tensor, dropout: tl.tensor, layer_dropout: tl.tensor,
    DROPS: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_T: tl.constexpr,
) -> None:  # fmt: skip
    """Program t: rows t BLOCK_T and following."""
    row = tl.program_id(0) * BLOCK_T + tl.arange(0, BLOCK_T)[:, None]
    column = tl.arange(0, BLOCK_D)[None, :]
    normed, _, _ = _normed_sum(
        values_ptr, branch_ptr, seed_ptr, row, column, T, eps, dropout, layer_dropout, DROPS, D
    )
    weight = tl.load(weight_ptr + column, mask=column < D, other=0.0).to(tl.float32)
    bias = tl.load(bias_ptr + column, mask=column < D, other=0.0).to(tl.float32)
    at = row.to(tl.int64) * D + column
    tl.store(result_ptr + at, normed * weight + bias, mask=(row < T) & (column < D))


@triton.jit
def _norm_backward_kernel(
    values_ptr: tl.tensor, branch_ptr: tl.tensor, weight_ptr: tl.tensor, seed_ptr: tl.tensor, grad_ptr: tl.tensor,
    grad_values_ptr: tl.tensor, grad_branch_ptr: tl.tensor, partial_ptr: tl.tensor, T: tl.tensor, eps: tl.tensor,
    dropout: tl.tensor, layer_dropout: tl.tensor, DROPS: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr,
    BLOCK_T: tl.constexpr,
) -> None:  # fmt: skip
    """Every program takes each PROGRAMS-th tile; with n the normed sum and g = weight · grad,
    d sum = (g - mean(g) - n mean(g n)) / deviation.
    """
    column = tl.arange(0, BLOCK_D)[None, :]
    weight = tl.load(weight_ptr + column, mask=column < D, other=0.0).to(tl.float32)
    sum_weight = tl.zeros([BLOCK_T, BLOCK_D], tl.float32)
    sum_bias = tl.zeros([BLOCK_T, BLOCK_D], tl.float32)
    for first in range(tl.program_id(0) * BLOCK_T, T, tl.num_programs(0) * BLOCK_T):
        row = first + tl.arange(0, BLOCK_T)[:, None]
        live = (row < T) & (column < D)
        at = row.to(tl.int64) * D + column
        grad = tl.load(grad_ptr + at, mask=live, other=0.0).to(tl.float32)
        normed, inverse, kept = _normed_sum(
            values_ptr, branch_ptr, seed_ptr, row, column, T, eps, dropout, layer_dropout, DROPS, D
        )
        sum_weight += grad * normed
        sum_bias += grad
        grad *= weight
        along = tl.sum(grad * normed, 1)[:, None] / D
        grad = (grad - tl.sum(grad, 1)[:, None] / D - normed * along) * inverse
        tl.store(grad_values_ptr + at, grad, mask=live)
        tl.store(grad_branch_ptr + at, grad * kept, mask=live)
    partial_ptr += tl.program_id(0) * (2 * D) + tl.arange(0, BLOCK_D)
    in_row = tl.arange(0, BLOCK_D) < D
    tl.store(partial_ptr, tl.sum(sum_weight, 0), mask=in_row)
    tl.store(partial_ptr + D, tl.sum(sum_bias, 0), mask=in_row)


@triton.jit
def _swiglu_forward_kernel(
    gate_up_ptr: tl.tensor, result_ptr: tl.tensor, T: tl.tensor, D: tl.constexpr, BLOCK_D: tl.constexpr,
    BLOCK_T: tl.constexpr,
) -> None:  # fmt: skip
    """Program t: rows t BLOCK_T and following."""
    row = (tl.program_id(0) * BLOCK_T + tl.arange(0, BLOCK_T)[:, None]).to(tl.int64)
    column = tl.arange(0, BLOCK_D)[None, :]
    live = (row < T) & (column < D)
    gate = tl.load(gate_up_ptr + row * (2 * D) + column, mask=live, other=0.0).to(tl.float32)
    up = tl.load(gate_up_ptr + row * (2 * D) + D + column, mask=live, other=0.0).to(tl.float32)
    tl.store(result_ptr + row * D + column, gate * sigmoid(gate) * up, mask=live)


@triton.jit
def _swiglu_backward_kernel(
    gate_up_ptr: tl.tensor, grad_ptr: tl.tensor, grad_gate_up_ptr: tl.tensor, T: tl.tensor, D: tl.constexpr,
    BLOCK_D: tl.constexpr, BLOCK_T: tl.constexpr,
) -> None:  # fmt: skip
    """Program t: rows t BLOCK_T and following; SiLU'(x) = σ(x) (1 + x (1 - σ(x)))."""
    row = (tl.program_id(0) * BLOCK_T + tl.arange(0, BLOCK_T)[:, None]).to(tl.int64)
    column = tl.arange(0, BLOCK_D)[None, :]
    live = (row < T) & (column < D)
    at = row * (2 * D) + column
    gate = tl.load(gate_up_ptr + at, mask=live, other=0.0).to(tl.float32)
    up = tl.load(gate_up_ptr + at + D, mask=live, other=0.0).to(tl.float32)
    grad = tl.load(grad_ptr + row * D + column, mask=live, other=0.0).to(tl.float32)
    share = sigmoid(gate)
    tl.store(grad_gate_up_ptr + at, grad * up * share * (1.0 + gate * (1.0 - share)), mask=live)
    tl.store(grad_gate_up_ptr + at + D, grad * gate * share, mask=live)
