"""Full-softmax cross entropy in Triton: logits exist only as tiles in registers, for catalogues of any size.

The forward pass works like flash attention (arXiv 2205.14135) with the items as keys and values: one walk over the
items gives each token's log-sum-exp *and* E_p[w], the expected item row under its softmax, whose difference from the
target's row is the gradient of the hidden state. What is left for the second pass is the gradient of the items:
four matrix products and two exponentials a logit in all. Programs write disjoint parts, so results repeat bit by bit.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ss4rec.kernels.cards import softmax_tile, stores_logits
from ss4rec.kernels.launch import current_arch, launch
from ss4rec.kernels.math_triton import INTERPRETED, exp2
from ss4rec.kernels.softmax_stored_triton import StoredLoss
from ss4rec.model.segments import Segments

LOG2_E = tl.constexpr(1.4426950408889634)
WEIGHT_PROGRAMS = 512
"""Programs of the items' gradient at least: where the catalogue has fewer blocks, each block's tokens are split."""
MASKED = -1e4
"""Added to a logit that shall not count: its exponential is 0."""
HELD_WORDS = 128
"""Words of 32 items that one program of `held_bits` follows."""


def held_bits(items_T: Tensor, num_rows: int, segments: Segments) -> Tensor:
    """Return for every token which items its sequence holds up to and with it, one bit an item.

    Args:
        items_T: item indices, packed.
        num_rows: rows of the item matrix V (items and padding).
        segments: where sequences begin.

    Returns:
        int32 `[T, ceil(V / 32)]`; bit v % 32 of word v // 32 is item v. Rows of tokens in no sequence are undefined.
    """
    words = triton.cdiv(num_rows, 32)
    bits_TW = torch.empty(items_T.numel(), words, dtype=torch.int32, device=items_T.device)
    grid = (segments.num_sequences, triton.cdiv(words, HELD_WORDS))
    launch(_held_kernel, grid, items_T, segments.offsets_S1, bits_TW, words, BLOCK_W=HELD_WORDS, num_warps=1)
    return bits_TW


def softmax_loss(
    hidden_TD: Tensor,
    weight_VD: Tensor,
    targets_T: Tensor,
    rows_R: Tensor,
    *,
    smoothing: float,
    kind: torch.dtype,
    bits_TW: Tensor | None = None,
    held_logit: Tensor | None = None,
    needs_grad: bool = True,
) -> Tensor:
    """Sum -(1-ε) log p(target) - ε mean(log p) over the tokens `rows_R`; p is the softmax over items 1 .. V-1.

    Where that is faster, logits are in memory part by part (`softmax_stored_triton`). Arithmetic outside the matrix
    products is float32. Products of float32 inputs take three TF32 products each, which
    keeps float32's accuracy.

    Args:
        hidden_TD: hidden states.
        weight_VD: item rows; row 0 (padding) takes no part.
        targets_T: item indices.
        rows_R: tokens that count; -1 fills up to a fixed size.
        smoothing: ε.
        kind: type of the matrix products' inputs, float32 or bfloat16.
        bits_TW: as from `held_bits`.
        held_logit: float32 scalar that is added to the logits of held items; needs `bits_TW`.
        needs_grad: whether gradients may be asked for.
    """
    stored = stores_logits(weight_VD.shape[1], kind == torch.bfloat16, held=bits_TW is not None)
    total: Tensor = (StoredLoss if stored else _SoftmaxLoss).apply(
        hidden_TD, weight_VD, targets_T, rows_R, smoothing, kind, bits_TW, held_logit, needs_grad
    )
    return total


def log_sum_exp(
    hidden_TD: Tensor, weight_VD: Tensor, rows_R: Tensor, *, kind: torch.dtype, bits_TW: Tensor
) -> Tensor:
    """Return log Σ exp(logit) of the tokens `rows_R` over the items that they do not hold, float32 `[R]`.

    Arguments as in `softmax_loss`; rows of -1 have an undefined value and take no gradient. Where a token holds all
    items, the value is about `MASKED`.
    """
    found: Tensor = _LogSumExp.apply(hidden_TD, weight_VD, rows_R, kind, bits_TW)
    return found


class _LogSumExp(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden_TD: Tensor, weight_VD: Tensor, rows_R: Tensor, kind: torch.dtype, bits_TW: Tensor
    ) -> Tensor:
        """Return log Σ e^logit over the items, `[R]`."""
        expected_TD = torch.zeros_like(hidden_TD, memory_format=torch.contiguous_format)
        ctx.weight_dtype = weight_VD.dtype
        hidden_TD, weight_VD = hidden_TD.to(kind).contiguous(), weight_VD.to(kind).contiguous()
        (rows, dim), num_rows = (rows_R.numel(), hidden_TD.shape[1]), weight_VD.shape[0]
        log_sum_R, loss_R, unused_R = hidden_TD.new_empty(3, rows, dtype=torch.float32).unbind()
        masked = torch.full((), MASKED, device=hidden_TD.device)
        tile = _tile(dim, hidden_TD.dtype, walks_items=True)
        # With a smoothing of 1 the target takes no part, and what is left of the gradient is E_p[w].
        launch(_forward_kernel, (triton.cdiv(rows, tile["BLOCK_R"]),),
            hidden_TD, weight_VD, rows_R, rows_R, log_sum_R, bits_TW, masked, expected_TD, log_sum_R, loss_R,
            unused_R, rows, num_rows, triton.cdiv(num_rows, 32), 1.0,
            D=dim, TARGETS=False, SMOOTH=False, HELD=True, NEEDS_GRAD=True, **tile,
        )  # fmt: skip
        ctx.save_for_backward(hidden_TD, weight_VD, rows_R, log_sum_R, expected_TD, bits_TW, masked)
        return log_sum_R

    @staticmethod
    def backward(ctx: Any, grad_R: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of states `[T, D]` and weights `[V, D]`."""
        hidden_TD, weight_VD, rows_R, log_sum_R, expected_TD, bits_TW, masked = ctx.saved_tensors
        (rows, dim), num_rows = (rows_R.numel(), hidden_TD.shape[1]), weight_VD.shape[0]
        tile = _tile(dim, hidden_TD.dtype, walks_items=False)
        blocks = triton.cdiv(num_rows, tile["BLOCK_V"])
        splits = max(1, min(WEIGHT_PROGRAMS // blocks, triton.cdiv(rows, tile["BLOCK_R"])))
        partial_SVD = hidden_TD.new_empty(splits, num_rows, dim, dtype=torch.float32)
        grad_R = grad_R.contiguous()
        launch(_weight_kernel, (blocks, splits),
            hidden_TD, weight_VD, rows_R, rows_R, bits_TW, masked, log_sum_R, partial_SVD, grad_R,
            rows, num_rows, triton.cdiv(num_rows, 32), 0.0, splits,
            D=dim, HELD=True, SCALED=True, **tile,
        )  # fmt: skip
        # Tokens outside of rows_R have expectations of 0, whatever stands in their scale.
        scale_T1 = grad_R.new_zeros(len(hidden_TD) + 1)
        scale_T1 = scale_T1.scatter(0, torch.where(rows_R >= 0, rows_R, len(hidden_TD)).long(), grad_R)
        grad_hidden_TD = scale_T1[:-1, None] * expected_TD
        return grad_hidden_TD.to(expected_TD.dtype), partial_SVD.sum(0).to(ctx.weight_dtype), None, None, None


class _SoftmaxLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_TD: Tensor,
        weight_VD: Tensor,
        targets_T: Tensor,
        rows_R: Tensor,
        smoothing: float,
        kind: torch.dtype,
        bits_TW: Tensor | None,
        held_logit: Tensor | None,
        needs_grad: bool,
    ) -> Tensor:
        """Return the loss summed over the rows; the states' gradient is kept if `needs_grad`."""
        mean_D = weight_VD[1:].float().mean(0)
        grad_hidden_TD = (
            torch.zeros_like(hidden_TD, memory_format=torch.contiguous_format) if needs_grad else hidden_TD
        )
        ctx.weight_dtype = weight_VD.dtype
        hidden_TD, weight_VD = hidden_TD.to(kind).contiguous(), weight_VD.to(kind).contiguous()
        (rows, dim), num_rows = (rows_R.numel(), hidden_TD.shape[1]), weight_VD.shape[0]
        log_sum_R, loss_R, grad_held_R = hidden_TD.new_empty(3, rows, dtype=torch.float32)
        tile = _tile(dim, hidden_TD.dtype, walks_items=True)
        held = bits_TW is not None
        launch(_forward_kernel, (triton.cdiv(rows, tile["BLOCK_R"]),),
            hidden_TD, weight_VD, targets_T, rows_R, mean_D, bits_TW if held else rows_R,
            held_logit if held else mean_D, grad_hidden_TD, log_sum_R, loss_R, grad_held_R,
            rows, num_rows, triton.cdiv(num_rows, 32), smoothing,
            D=dim, TARGETS=True, SMOOTH=smoothing > 0, HELD=held, NEEDS_GRAD=needs_grad, **tile,
        )  # fmt: skip
        if needs_grad:
            ctx.save_for_backward(
                hidden_TD,
                weight_VD,
                targets_T,
                rows_R,
                log_sum_R,
                grad_hidden_TD,
                grad_held_R,
                bits_TW,
                held_logit,
            )
            ctx.smoothing = smoothing
        loss: Tensor = loss_R.sum()
        return loss

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of states `[T, D]`, weights `[V, D]` and the logit of held items, times `grad`."""
        (
            hidden_TD,
            weight_VD,
            targets_T,
            rows_R,
            log_sum_R,
            grad_hidden_TD,
            grad_held_R,
            bits_TW,
            held_logit,
        ) = ctx.saved_tensors
        (rows, dim), num_rows = (rows_R.numel(), hidden_TD.shape[1]), weight_VD.shape[0]
        tile = _tile(dim, hidden_TD.dtype, walks_items=False)
        held = bits_TW is not None
        blocks = triton.cdiv(num_rows, tile["BLOCK_V"])
        splits = max(1, min(WEIGHT_PROGRAMS // blocks, triton.cdiv(rows, tile["BLOCK_R"])))
        partial_SVD = hidden_TD.new_empty(splits, num_rows, dim, dtype=torch.float32)
        launch(_weight_kernel, (blocks, splits),
            hidden_TD, weight_VD, targets_T, rows_R, bits_TW if held else rows_R,
            held_logit if held else log_sum_R, log_sum_R, partial_SVD, log_sum_R,
            rows, num_rows, triton.cdiv(num_rows, 32), ctx.smoothing, splits,
            D=dim, HELD=held, SCALED=False, **tile,
        )  # fmt: skip
        grad_held = grad * grad_held_R.sum() if held else None
        return (
            (grad * grad_hidden_TD).to(grad_hidden_TD.dtype),
            (grad * partial_SVD.sum(0)).to(ctx.weight_dtype),
            *[None] * 5,
            grad_held,
            None,
        )


def _tile(dim: int, dtype: torch.dtype, walks_items: bool) -> dict[str, Any]:
    """Return the shape of a program on the card at hand."""
    tile = softmax_tile(dim, dtype, walks_items=walks_items, arch=current_arch())
    return tile | {"BLOCK_D": max(16, triton.next_power_of_2(dim))}


@triton.jit
def _held_kernel(
    items_ptr: tl.tensor, offsets_ptr: tl.tensor, bits_ptr: tl.tensor, W: tl.tensor, BLOCK_W: tl.constexpr,
) -> None:  # fmt: skip
    """Program (s, w): follow block w of the words through sequence s."""
    start = tl.load(offsets_ptr + tl.program_id(0)).to(tl.int64)
    length = (tl.load(offsets_ptr + tl.program_id(0) + 1) - start).to(tl.int32)
    word = tl.program_id(1) * BLOCK_W + tl.arange(0, BLOCK_W)
    held = tl.zeros([BLOCK_W], tl.int32)
    bits_ptr += start * W + word
    for k in range(length):
        item = tl.load(items_ptr + start + k).to(tl.int32)
        bit = tl.full([BLOCK_W], 1, tl.int32) << (item & 31)
        held = tl.where(word == (item >> 5), held | bit, held)
        tl.store(bits_ptr, held, mask=word < W)
        bits_ptr += W


@triton.jit
def _dot(a: tl.tensor, b: tl.tensor, total: tl.tensor, PRECISION: tl.constexpr) -> tl.tensor:
    """Return a @ b + total in float32; the interpreter multiplies bfloat16 as if it were integers."""
    if INTERPRETED:
        return tl.dot(a.to(tl.float32), b.to(tl.float32), total)
    return tl.dot(a, b, total, input_precision=PRECISION)


@triton.jit
def _load_held(
    bits_ptr: tl.tensor, row: tl.tensor, item: tl.tensor, live: tl.tensor, V: tl.tensor, W: tl.tensor,
) -> tl.tensor:  # fmt: skip
    """Return 1.0 where the token at `row` holds `item`, else 0.0; the shapes broadcast."""
    word = tl.load(bits_ptr + row * W + (item >> 5), mask=live & (item < V), other=0)
    return ((word >> (item & 31)) & 1).to(tl.float32)


@triton.jit
def _forward_kernel(
    hidden_ptr: tl.tensor, weight_ptr: tl.tensor, targets_ptr: tl.tensor, rows_ptr: tl.tensor, mean_ptr: tl.tensor,
    bits_ptr: tl.tensor, held_logit_ptr: tl.tensor, grad_hidden_ptr: tl.tensor, log_sum_ptr: tl.tensor,
    loss_ptr: tl.tensor, grad_held_ptr: tl.tensor, R: tl.tensor, V: tl.tensor, W: tl.tensor, smoothing: tl.tensor,
    D: tl.constexpr, TARGETS: tl.constexpr, SMOOTH: tl.constexpr, HELD: tl.constexpr, NEEDS_GRAD: tl.constexpr,
    BLOCK_D: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_V: tl.constexpr, PRECISION: tl.constexpr,
) -> None:  # fmt: skip
    """Program r: walk over all items for `BLOCK_R` tokens; sums over items keep a running maximum."""
    r = tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R)
    row = tl.load(rows_ptr + r, mask=r < R, other=-1).to(tl.int64)
    live = row >= 0
    d = tl.arange(0, BLOCK_D)[None, :]
    at_hidden = row[:, None] * D + d
    in_hidden = live[:, None] & (d < D)
    hidden = tl.load(hidden_ptr + at_hidden, mask=in_hidden, other=0.0)
    target = tl.zeros([BLOCK_R], tl.int32)
    if TARGETS:
        target = tl.load(targets_ptr + row, mask=live, other=0).to(tl.int32)
    if HELD:
        held_logit = tl.load(held_logit_ptr)
    top = tl.full([BLOCK_R], -float("inf"), tl.float32)
    total = tl.zeros([BLOCK_R], tl.float32)
    picked = tl.zeros([BLOCK_R], tl.float32)
    summed = tl.zeros([BLOCK_R], tl.float32)
    held_total = tl.zeros([BLOCK_R], tl.float32)
    held_count = tl.zeros([BLOCK_R], tl.float32)
    expected = tl.zeros([BLOCK_R, BLOCK_D], tl.float32)
    for first in range(1, V, BLOCK_V):
        v = first + tl.arange(0, BLOCK_V)
        items = tl.load(weight_ptr + v[:, None] * D + d, mask=(v < V)[:, None] & (d < D), other=0.0)
        logits = _dot(hidden, tl.trans(items), tl.zeros([BLOCK_R, BLOCK_V], tl.float32), PRECISION)
        if HELD:
            held = _load_held(bits_ptr, row[:, None], v[None, :], live[:, None], V, W)
            logits += held * held_logit
            held_count += tl.sum(held, 1)
        picked += tl.sum(tl.where(v[None, :] == target[:, None], logits, 0.0), 1)
        if SMOOTH:
            summed += tl.sum(tl.where((v < V)[None, :], logits, 0.0), 1)
        logits = tl.where((v < V)[None, :], logits * LOG2_E, -float("inf"))
        new_top = tl.maximum(top, tl.max(logits, 1))
        shrink = exp2(top - new_top)
        weights = exp2(logits - new_top[:, None])
        top = new_top
        total = total * shrink + tl.sum(weights, 1)
        if HELD:
            held_total = held_total * shrink + tl.sum(weights * held, 1)
        if NEEDS_GRAD:
            expected = _dot(weights.to(items.dtype), items, expected * shrink[:, None], PRECISION)
    log_sum = (top + tl.log2(total)) / LOG2_E
    loss = log_sum - (1.0 - smoothing) * picked
    share = smoothing / (V - 1)
    if SMOOTH:
        loss -= share * summed
    tl.store(log_sum_ptr + r, log_sum, mask=r < R)
    tl.store(loss_ptr + r, tl.where(live, loss, 0.0), mask=r < R)
    if NEEDS_GRAD:
        own = tl.load(weight_ptr + target[:, None].to(tl.int64) * D + d, mask=in_hidden, other=0.0).to(
            tl.float32
        )
        grad = expected / total[:, None] - (1.0 - smoothing) * own
        if SMOOTH:
            grad -= smoothing * tl.load(mean_ptr + d, mask=d < D, other=0.0)
        tl.store(grad_hidden_ptr + at_hidden, grad, mask=in_hidden)
        if HELD:
            own_held = _load_held(bits_ptr, row, target, live, V, W)
            grad_held = held_total / total - (1.0 - smoothing) * own_held - share * held_count
            tl.store(grad_held_ptr + r, tl.where(live, grad_held, 0.0), mask=r < R)


@triton.jit
def _weight_kernel(
    hidden_ptr: tl.tensor, weight_ptr: tl.tensor, targets_ptr: tl.tensor, rows_ptr: tl.tensor, bits_ptr: tl.tensor,
    held_logit_ptr: tl.tensor, log_sum_ptr: tl.tensor, partial_ptr: tl.tensor, scale_ptr: tl.tensor, R: tl.tensor,
    V: tl.tensor, W: tl.tensor, smoothing: tl.tensor, SPLITS: tl.tensor, D: tl.constexpr, HELD: tl.constexpr,
    SCALED: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_V: tl.constexpr,
    PRECISION: tl.constexpr,
) -> None:  # fmt: skip
    """Program (v, s): the gradient of `BLOCK_V` items from every `SPLITS`-th block of tokens."""
    v = tl.program_id(0) * BLOCK_V + tl.arange(0, BLOCK_V)
    d = tl.arange(0, BLOCK_D)[None, :]
    in_items = (v < V)[:, None] & (d < D)
    items = tl.load(weight_ptr + v[:, None] * D + d, mask=in_items, other=0.0)
    scored = ((v > 0) & (v < V))[:, None]
    share = smoothing / (V - 1)
    if HELD:
        held_logit = tl.load(held_logit_ptr)
    total = tl.zeros([BLOCK_V, BLOCK_D], tl.float32)
    for first in range(tl.program_id(1) * BLOCK_R, R, SPLITS * BLOCK_R):
        r = first + tl.arange(0, BLOCK_R)
        row = tl.load(rows_ptr + r, mask=r < R, other=-1).to(tl.int64)
        live = row >= 0
        hidden = tl.load(hidden_ptr + row[:, None] * D + d, mask=live[:, None] & (d < D), other=0.0)
        log_sum = tl.load(log_sum_ptr + r, mask=r < R, other=0.0)
        logits = _dot(items, tl.trans(hidden), tl.zeros([BLOCK_V, BLOCK_R], tl.float32), PRECISION)
        if HELD:
            logits += _load_held(bits_ptr, row[None, :], v[:, None], live[None, :], V, W) * held_logit
        grad = exp2((logits - log_sum[None, :]) * LOG2_E)
        if SCALED:
            grad *= tl.load(scale_ptr + r, mask=live, other=0.0)[None, :]
        else:
            target = tl.load(targets_ptr + row, mask=live, other=0).to(tl.int32)
            grad -= share
            grad -= tl.where(v[:, None] == target[None, :], 1.0 - smoothing, 0.0)
        grad = tl.where(scored & live[None, :], grad, 0.0)
        total = _dot(grad.to(items.dtype), hidden, total, PRECISION)
    at = tl.program_id(1).to(tl.int64) * V * D + v[:, None] * D + d
    tl.store(partial_ptr + at, total, mask=in_items)
