"""Full-softmax cross entropy with logits in memory: matrix products by cuBLAS, and one Triton kernel between them.

Logits of a part of the tokens are written to memory, a kernel turns them into their gradient in place, and two more
products give the gradients of hidden states and items. That moves some 10 bytes a logit, and products run at the rate
of the matrix units. `ss4rec.kernels.softmax_triton` moves nothing, but its products run at a third of that rate where
rows are wider than 128, and a bit for each logit costs it more than the memory does.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ss4rec.kernels.cards import PART_LOGITS
from ss4rec.kernels.launch import launch
from ss4rec.kernels.math_triton import exp2

LOG2_E = tl.constexpr(1.4426950408889634)
LOWEST = tl.constexpr(-1e30)
"""Stands for minus infinity where a difference of two is taken."""
MIN_PART = 1024
"""Minimum tokens of a part: with fewer the items' gradient would be written more often than the logits."""
ALIGNED = 64
"""Rows of items are filled up to a multiple of this, so that products load whole lines."""
BLOCK = 2048
"""Logits that a program loads at a time: 8 a thread, 16 bytes of bfloat16."""
WARPS = 8


class StoredLoss(torch.autograd.Function):
    """Loss and all gradients in one pass over the logits, which are rounded to the type of the products' inputs."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:
        """Return the sum; arguments as of `ss4rec.kernels.softmax_triton.softmax_loss`, in its order."""
        hidden_TD, weight_VD, targets_T, rows_R, smoothing, kind, bits_TW, held_logit, needs_grad = arguments
        num_rows, dim = weight_VD.shape
        filled = triton.cdiv(num_rows, ALIGNED) * ALIGNED
        items_FD = weight_VD.new_zeros(filled, dim, dtype=kind)
        items_FD[:num_rows] = weight_VD
        hidden_RD = hidden_TD.index_select(0, rows_R.clamp_min(0)).to(kind)
        loss_R, grad_held_R = hidden_TD.new_empty(2, len(rows_R), dtype=torch.float32)
        grad_RD = torch.empty_like(hidden_RD, dtype=torch.float32)
        grad_items_FD = torch.zeros_like(items_FD, dtype=torch.float32)
        size = max(MIN_PART, PART_LOGITS // filled)
        for first in range(0, len(rows_R), size):
            part_CD = hidden_RD[first : first + size]
            logits_CF = part_CD @ items_FD.T
            launch(_gradient_kernel, (len(part_CD),),
                logits_CF, targets_T, rows_R[first:], bits_TW if bits_TW is not None else rows_R,
                held_logit if held_logit is not None else loss_R, loss_R[first:], grad_held_R[first:],
                num_rows, triton.cdiv(num_rows, 32), filled, smoothing,
                SMOOTH=smoothing > 0, HELD=bits_TW is not None, NEEDS_GRAD=needs_grad,
                BLOCK=BLOCK, num_warps=WARPS,
            )  # fmt: skip
            if needs_grad:
                _product(logits_CF, items_FD, grad_RD[first : first + size])
                _product(logits_CF.T, part_CD, grad_items_FD, add=True)
        if needs_grad:
            # What fills rows_R up writes its zeros to one row more.
            grad_TD = grad_RD.new_zeros(len(hidden_TD) + 1, dim)
            grad_TD.index_copy_(0, torch.where(rows_R >= 0, rows_R, len(hidden_TD)).long(), grad_RD)
            ctx.save_for_backward(grad_TD[:-1], grad_items_FD[:num_rows], grad_held_R)
            ctx.kinds = (hidden_TD.dtype, weight_VD.dtype, held_logit is not None)
        total: Tensor = loss_R.sum()
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Scale what the forward pass has computed."""
        grad_TD, grad_items_VD, grad_held_R = ctx.saved_tensors
        hidden_kind, weight_kind, held = ctx.kinds
        return (
            (grad * grad_TD).to(hidden_kind),
            (grad * grad_items_VD).to(weight_kind),
            *[None] * 5,
            grad * grad_held_R.sum() if held else None,
            None,
        )


def _product(left_AB: Tensor, right_BC: Tensor, out_AC: Tensor, add: bool = False) -> None:
    """Write a @ b to a float32 tensor, or add it; a CPU has no product with another type of result."""
    if not left_AB.is_cuda or left_AB.dtype == out_AC.dtype:
        product_AC = left_AB.float() @ right_BC.float()
        out_AC.copy_(out_AC + product_AC if add else product_AC)
    elif add:
        torch.addmm(out_AC, left_AB, right_BC, out_dtype=torch.float32, out=out_AC)
    else:
        torch.mm(left_AB, right_BC, out_dtype=torch.float32, out=out_AC)


@triton.jit
def _load_logits(
    logits_ptr: tl.tensor, bits_ptr: tl.tensor, held_logit_ptr: tl.tensor, live: tl.tensor, start: tl.tensor,
    V: tl.tensor, HELD: tl.constexpr, BLOCK: tl.constexpr,
) -> tuple[tl.tensor, ...]:  # fmt: skip
    """Return the logits of items start .. start + BLOCK - 1 as `[BLOCK / 8, 8]`, and which are held as 1.0."""
    eighth = start + tl.arange(0, BLOCK // 8)[:, None] * 8
    v = eighth + tl.arange(0, 8)[None, :]
    counts = (v < V) & (v > 0) & live
    x = tl.load(logits_ptr + v, mask=counts, other=LOWEST).to(tl.float32)
    held = tl.zeros_like(x)
    if HELD:
        word = tl.load(bits_ptr + (eighth >> 5), mask=(eighth < V) & live, other=0)
        held = ((word >> (v & 31)) & 1).to(tl.float32)
        x += held * tl.load(held_logit_ptr)
    return x, held, v, counts


@triton.jit
def _gradient_kernel(
    logits_ptr: tl.tensor, targets_ptr: tl.tensor, rows_ptr: tl.tensor, bits_ptr: tl.tensor,
    held_logit_ptr: tl.tensor, loss_ptr: tl.tensor, grad_held_ptr: tl.tensor, V: tl.tensor, W: tl.tensor,
    F: tl.tensor, smoothing: tl.tensor, SMOOTH: tl.constexpr, HELD: tl.constexpr, NEEDS_GRAD: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:  # fmt: skip
    """Program r: the loss of a token, and its logits' gradient in their place; the second walk reads the cache."""
    r = tl.program_id(0)
    row = tl.load(rows_ptr + r).to(tl.int64)
    live = row >= 0
    target = tl.load(targets_ptr + row, mask=live, other=0).to(tl.int32)
    logits_ptr += r.to(tl.int64) * F
    if HELD:
        bits_ptr += row * W
    top = tl.full([BLOCK // 8, 8], LOWEST, tl.float32)
    total = tl.zeros([BLOCK // 8, 8], tl.float32)
    summed = tl.zeros([BLOCK // 8, 8], tl.float32)
    for start in range(0, V, BLOCK):
        x, held, v, counts = _load_logits(logits_ptr, bits_ptr, held_logit_ptr, live, start, V, HELD, BLOCK)
        if SMOOTH:
            summed += tl.where(counts, x, 0.0)
        x *= LOG2_E
        new_top = tl.maximum(top, x)
        total = total * exp2(top - new_top) + exp2(x - new_top)
        top = new_top
    most = tl.max(tl.max(top, 1), 0)
    log_sum = most + tl.log2(tl.sum(tl.sum(total * exp2(top - most), 1), 0))
    own = tl.load(logits_ptr + target, mask=live, other=0.0).to(tl.float32)
    if HELD:
        own_word = tl.load(bits_ptr + (target >> 5), mask=live, other=0)
        own += ((own_word >> (target & 31)) & 1).to(tl.float32) * tl.load(held_logit_ptr)
    share = smoothing / (V - 1)
    loss = log_sum / LOG2_E - (1.0 - smoothing) * own
    if SMOOTH:
        loss -= share * tl.sum(tl.sum(summed, 1), 0)
    tl.store(loss_ptr + r, tl.where(live, loss, 0.0))
    if NEEDS_GRAD:
        tl.debug_barrier()  # the target's logit is read before its place is written
        grad_held = tl.zeros([BLOCK // 8, 8], tl.float32)
        for start in range(0, V, BLOCK):
            x, held, v, counts = _load_logits(
                logits_ptr, bits_ptr, held_logit_ptr, live, start, V, HELD, BLOCK
            )
            grad = exp2(x * LOG2_E - log_sum) - share - tl.where(v == target, 1.0 - smoothing, 0.0)
            grad = tl.where(counts, grad, 0.0)
            grad_held += grad * held
            tl.store(logits_ptr + v, grad.to(logits_ptr.dtype.element_ty), mask=v < F)
        tl.store(grad_held_ptr + r, tl.sum(tl.sum(grad_held, 1), 0))
