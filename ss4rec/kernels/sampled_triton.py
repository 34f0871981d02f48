"""Softmax over drawn items in one pass over a part's scores, in place: `model.sampled._part_softmax` in registers."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ss4rec.kernels.launch import launch

BLOCK = 2048
"""Scores of a row that a program holds at a time."""


def part_softmax(
    scores_CK: Tensor, bias_K: Tensor, drawn_K: Tensor, targets_C: Tensor, own_C: Tensor, live_C: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradient of the scores, which overwrites them, the losses, and each target's own share, float32.

    Args:
        scores_CK: products of states and drawn rows.
        bias_K: what is taken off each drawn item's scores, float32.
        drawn_K: items.
        targets_C: items.
        own_C: scores of the targets, float32.
        live_C: 1 where a target counts, else 0, float32.
    """
    rows, count = scores_CK.shape
    loss_C, share_C = torch.empty_like(own_C), torch.empty_like(own_C)
    block = min(BLOCK, max(16, triton.next_power_of_2(count)))
    launch(
        _part_softmax_kernel,
        (rows,),
        scores_CK,
        bias_K,
        drawn_K.int(),
        targets_C.int(),
        own_C,
        live_C,
        loss_C,
        share_C,
        count,
        BLOCK_K=block,
        num_warps=4,
    )
    return scores_CK, loss_C, share_C


@triton.jit
def _scores(
    scores_ptr: tl.tensor, bias_ptr: tl.tensor, drawn_ptr: tl.tensor, target: tl.tensor, item: tl.tensor, K: tl.tensor,
) -> tl.tensor:  # fmt: skip
    """Return scores less their bias, -inf for the target and beyond the end."""
    live = item < K
    score = tl.load(scores_ptr + item, mask=live, other=0.0).to(tl.float32)
    score -= tl.load(bias_ptr + item, mask=live, other=0.0)
    drawn = tl.load(drawn_ptr + item, mask=live, other=0)
    return tl.where(live & (drawn != target), score, float("-inf"))


@triton.jit
def _part_softmax_kernel(
    scores_ptr: tl.tensor, bias_ptr: tl.tensor, drawn_ptr: tl.tensor, targets_ptr: tl.tensor, own_ptr: tl.tensor,
    live_ptr: tl.tensor, loss_ptr: tl.tensor, share_ptr: tl.tensor, K: tl.tensor, BLOCK_K: tl.constexpr,
) -> None:  # fmt: skip
    """Program c: all scores of row c, read twice: for their sum, and for their shares of it."""
    row = tl.program_id(0).to(tl.int64)
    scores_ptr += row * K
    target = tl.load(targets_ptr + row)
    own = tl.load(own_ptr + row)
    most = tl.zeros([BLOCK_K], tl.float32) + own
    total = tl.zeros([BLOCK_K], tl.float32)
    for first in range(0, K, BLOCK_K):
        score = _scores(scores_ptr, bias_ptr, drawn_ptr, target, first + tl.arange(0, BLOCK_K), K)
        higher = tl.maximum(most, score)
        total = total * tl.exp(most - higher) + tl.exp(score - higher)
        most = higher
    highest = tl.max(most, 0)
    log_sum = highest + tl.log(tl.sum(total * tl.exp(most - highest), 0) + tl.exp(own - highest))
    live = tl.load(live_ptr + row)
    tl.store(loss_ptr + row, (log_sum - own) * live)
    tl.store(share_ptr + row, tl.exp(own - log_sum))
    for first in range(0, K, BLOCK_K):
        item = first + tl.arange(0, BLOCK_K)
        score = _scores(scores_ptr, bias_ptr, drawn_ptr, target, item, K)
        tl.store(scores_ptr + item, tl.exp(score - log_sum) * live, mask=item < K)
