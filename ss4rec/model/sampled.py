"""Softmax over a sample of items: for catalogues whose full softmax takes too long.

The normaliser Z = e^(target) + Σ_{i≠target} e^(score_i) is estimated without bias by importance sampling
(Bengio & Senécal 2008, "logQ correction"): k items s drawn with probability q_s stand in for the sum,
Z ~ e^(target) + Σ_s [s≠target] e^(score_s) / (k q_s).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from ss4rec.model.losses import target_rows


class NegativeSampler(nn.Module):
    """Draws items with replacement, the same ones for all targets of a step, and knows their probabilities.

    Args:
        popularity_V: training events of each item, entry 0 (padding) is ignored. None draws uniformly. Else
            log-uniformly by rank of popularity, q(rank r) = log((r + 2) / (r + 1)) / log(V + 1), r from 0, which is
            near to Zipf's law; items that are equally popular rank by index.
        num_items: items V.
    """

    def __init__(self, num_items: int, popularity_V: Tensor | None = None) -> None:
        super().__init__()
        self.num_items = num_items
        order_I = None if popularity_V is None else popularity_V[1:].argsort(descending=True, stable=True) + 1
        self.register_buffer("order_I", order_I, persistent=False)

    def draw(self, count: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return `count` items and the logarithm of each one's probability (float32)."""
        order_I = self.order_I
        if not isinstance(order_I, Tensor):
            drawn_K = torch.randint(1, self.num_items + 1, (count,), device=device)
            return drawn_K, torch.full((count,), -math.log(self.num_items), device=device)
        span = math.log(self.num_items + 1)
        ranks_K = torch.expm1(torch.rand(count, device=device, dtype=torch.float64) * span).long()
        ranks_K = ranks_K.clamp_(max=self.num_items - 1)
        log_q_K = torch.log(torch.log1p(1 / (ranks_K + 1.0).double()) / span)
        return order_I[ranks_K], log_q_K.float()


def sampled_softmax(
    hidden_TD: Tensor,
    weight_VD: Tensor,
    targets_T: Tensor,
    drawn_K: Tensor,
    log_q_K: Tensor,
    rows_R: Tensor | None = None,
    backend: str = "reference",
) -> Tensor:
    """Sum the sampled-softmax cross entropy over tokens that have a target.

    Under autocast the matrix product is in its type, everything else in float32 or wider.

    Args:
        hidden_TD: hidden states.
        weight_VD: item rows; row 0 is padding.
        targets_T: item indices; 0 means no target.
        drawn_K: items that stand in for all others; one that is a token's own target does not count for it.
        log_q_K: logarithm of the probability with which each was drawn.
        rows_R: tokens that have a target, where the caller knows them; -1 stands for none.
        backend: `reference` or `triton`.
    """
    rows_R = target_rows(targets_T) if rows_R is None else rows_R
    own_RD, drawn_KD = weight_VD[targets_of(targets_T, rows_R)], weight_VD[drawn_K]
    return softmax_of_rows(hidden_TD, own_RD, drawn_KD, targets_T, drawn_K, log_q_K, rows_R, backend)


def targets_of(targets_T: Tensor, rows_R: Tensor) -> Tensor:
    """Return the targets of the tokens `rows_R`; -1 stands for no token, and has any target."""
    return targets_T.index_select(0, rows_R.clamp_min(0))


def softmax_of_rows(
    hidden_TD: Tensor,
    own_RD: Tensor,
    drawn_KD: Tensor,
    targets_T: Tensor,
    drawn_K: Tensor,
    log_q_K: Tensor,
    rows_R: Tensor,
    backend: str = "reference",
) -> Tensor:
    """Compute `sampled_softmax` from the rows of the targets and of the drawn items.

    Scores of a part of the targets are in memory at one time; their gradients are computed with them.

    Args:
        own_RD: item rows of the targets of the tokens `rows_R`.
        drawn_KD: item rows of the drawn items.
    """
    device = hidden_TD.device.type
    kind = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else own_RD.dtype
    total: Tensor = _SampledSoftmax.apply(  # type: ignore[no-untyped-call]  # torch leaves it so
        hidden_TD.index_select(0, rows_R.clamp_min(0)),
        own_RD,
        drawn_KD,
        targets_of(targets_T, rows_R),
        drawn_K,
        log_q_K + math.log(drawn_K.numel()),
        rows_R >= 0,
        kind,
        backend,
        torch.is_grad_enabled(),
    )
    return total


PART_SCORES = {"cpu": 1 << 18, "cuda": 1 << 24}
"""Scores of a part: what is done to them one after another finds them in the cache."""
ROWS_OF_A_PART = 64
"""A part has a multiple of so many targets."""


class _SampledSoftmax(torch.autograd.Function):
    """Loss sum and all gradients in one pass over the scores."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_RD: Tensor,
        own_RD: Tensor,
        drawn_KD: Tensor,
        targets_R: Tensor,
        drawn_K: Tensor,
        bias_K: Tensor,
        live_R: Tensor,
        kind: torch.dtype,
        backend: str,
        needs_grad: bool,
    ) -> Tensor:
        """Return the loss summed over the rows that are `live`."""
        wide = torch.promote_types(own_RD.dtype, torch.float32)
        narrow_KD, bias_K = drawn_KD.to(kind), bias_K.to(wide)
        own_R = (hidden_RD.to(wide) * own_RD.to(wide)).sum(1)
        live_R = live_R.to(wide)
        part_softmax = _part_softmax
        if backend == "triton":
            from ss4rec.kernels.sampled_triton import part_softmax
        grad_hidden_RD = torch.empty_like(hidden_RD, dtype=wide)
        grad_drawn_KD = torch.zeros_like(drawn_KD, dtype=wide)
        losses, shares = [], []
        scores = PART_SCORES.get(hidden_RD.device.type, PART_SCORES["cuda"])
        size = max(1, scores // len(drawn_K) // ROWS_OF_A_PART) * ROWS_OF_A_PART
        for first in range(0, len(hidden_RD), size):
            part = slice(first, first + size)
            hidden_CD = hidden_RD[part].to(kind)
            scores_CK = hidden_CD @ narrow_KD.T
            grad_CK, loss_C, share_C = part_softmax(
                scores_CK, bias_K, drawn_K, targets_R[part], own_R[part], live_R[part]
            )
            losses.append(loss_C)
            shares.append(share_C)
            if needs_grad:
                grad_hidden_RD[part] = grad_CK @ narrow_KD
                grad_drawn_KD += grad_CK.T @ hidden_CD
        if not losses:
            return own_R.sum()
        if needs_grad:
            grad_own_R1 = ((torch.cat(shares) - 1) * live_R)[:, None]
            grad_hidden_RD += grad_own_R1 * own_RD
            ctx.save_for_backward(grad_hidden_RD, grad_own_R1 * hidden_RD, grad_drawn_KD)
        ctx.kinds = [x.dtype for x in (hidden_RD, own_RD, drawn_KD)]
        return torch.cat(losses).sum()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Return the kept gradients of states and of both kinds of rows, times `grad`."""
        grads = [(grad * x).to(kind) for x, kind in zip(ctx.saved_tensors, ctx.kinds, strict=True)]
        return (*grads, *[None] * 7)


def _part_softmax(
    scores_CK: Tensor, bias_K: Tensor, drawn_K: Tensor, targets_C: Tensor, own_C: Tensor, live_C: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradient of the scores, the losses, and each target's own share of its softmax.

    Args:
        scores_CK: products of states and drawn rows; overwritten.
        bias_K: what is taken off each drawn item's scores.
        drawn_K: items.
        targets_C: items.
        own_C: scores of the targets.
        live_C: 1 where a target counts, else 0.
    """
    wide_CK = scores_CK.to(own_C.dtype).sub_(bias_K)
    wide_CK.masked_fill_(drawn_K == targets_C[:, None], -torch.inf)
    most_C = torch.maximum(wide_CK.amax(1), own_C)
    wide_CK.sub_(most_C[:, None]).exp_()
    own_exp_C = torch.exp(own_C - most_C)
    sum_C = wide_CK.sum(1) + own_exp_C
    grad_CK = wide_CK.mul_((live_C / sum_C)[:, None]).to(scores_CK.dtype)
    return grad_CK, (most_C + sum_C.log() - own_C) * live_C, own_exp_C / sum_C
