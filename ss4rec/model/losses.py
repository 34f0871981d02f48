"""Objectives over packed tokens: the sum over all targets, so that workers can divide by a global count."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ss4rec.model.segments import Segments


@dataclass(frozen=True)
class Repeats:
    """Adds one learned logit to every item that the history of a target holds."""

    items_T: Tensor
    """Input items, packed."""
    segments: Segments
    """Where sequences begin."""
    logit: Tensor
    """What is added, a scalar."""

    def select(self, rows_R: Tensor) -> Tensor:
        """Return the items up to and with each of the tokens `rows_R`, int64 `[R, max_len]`; 0 where there is none."""
        back_L = torch.arange(self.segments.max_len, device=rows_R.device)
        history_RL = self.items_T[(rows_R[:, None] - back_L).clamp_min(0)]
        return torch.where(back_L <= self.segments.positions_T[rows_R][:, None], history_RL, 0).long()

    @cached_property
    def _once(self) -> tuple[Tensor, Tensor]:
        """Return each token's class (item - 1), and 1 where its sequence did not hold that item before, else 0.

        Both have `max_len - 1` more in front, so that the tokens up to and with one are a window of that many.
        """
        tokens_T = torch.arange(len(self.items_T), device=self.items_T.device)
        first_T = tokens_T - self.segments.positions_T
        key_T, order_T = torch.sort((first_T << 32) + self.items_T, stable=True)
        new_T = torch.ones_like(self.logit, dtype=self.logit.dtype).repeat(len(key_T))
        new_T[order_T[1:]] = (key_T.diff() != 0).to(new_T.dtype)
        new_T *= self.items_T > 0
        front = (self.segments.max_len - 1, 0)
        return F.pad((self.items_T.long() - 1).clamp_min_(0), front), F.pad(new_T, front)

    def held(self, rows_R: Tensor) -> tuple[Tensor, Tensor]:
        """Return the classes that the histories of the tokens `rows_R` hold, `[R, L]`, and 1 for each that counts.

        L is at least the length of the longest of these histories. Each class counts once a row; all others have 0.
        """
        positions_R1 = self.segments.positions_T[rows_R][:, None]
        length = most = self.segments.max_len
        if rows_R.device.type == "cpu":  # elsewhere it would wait for the device
            length = int(positions_R1.max()) + 1
        classes_RL, new_RL = (
            values.unfold(0, most, 1)[:, most - length :].index_select(0, rows_R) for values in self._once
        )
        ages_L = torch.arange(length - 1, -1, -1, device=rows_R.device)
        return classes_RL, new_RL.mul_(ages_L <= positions_R1)


def target_rows(targets_T: Tensor) -> Tensor:
    """Return the tokens that have a target, int64 `[R]`; waits for the device."""
    return targets_T.nonzero().squeeze(1)


def cross_entropy(
    hidden_TD: Tensor,
    weight_VD: Tensor,
    targets_T: Tensor,
    rows_R: Tensor | None = None,
    *,
    chunk_tokens: int = 8192,
    label_smoothing: float = 0.0,
    repeats: Repeats | None = None,
    backend: str = "reference",
) -> Tensor:
    """Sum the full-softmax cross entropy over tokens that have a target.

    Nothing of size T x V is ever stored: `triton` keeps logits in registers; `reference` has those of `chunk_tokens`
    targets in memory at a time, and computes their gradients with them. Under autocast the matrix products are in its
    type, everything else is in float32 or wider.

    Args:
        hidden_TD: hidden states.
        weight_VD: item rows; row 0 (padding) takes no part.
        targets_T: item indices; 0 means no target.
        rows_R: tokens that have a target, where the caller knows them; `triton` takes -1 for none.
        chunk_tokens: targets whose logits are in memory at one time.
        label_smoothing: mass that is spread evenly over all items.
        repeats: adds a learned logit to items of the history.
        backend: as from `resolve_loss_backend`.
    """
    if rows_R is None:
        rows_R = target_rows(targets_T)
    device = hidden_TD.device.type
    kind = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight_VD.dtype
    logit = None if repeats is None else repeats.logit
    needs_grad = torch.is_grad_enabled()
    if backend == "triton":
        from ss4rec.kernels.softmax_triton import held_bits, softmax_loss

        bits_TW = None if repeats is None else held_bits(repeats.items_T, len(weight_VD), repeats.segments)
        return softmax_loss(
            hidden_TD, weight_VD, targets_T, rows_R,
            smoothing=label_smoothing, kind=kind, bits_TW=bits_TW, held_logit=logit, needs_grad=needs_grad,
        )  # fmt: skip
    total: Tensor = _ChunkedCrossEntropy.apply(  # type: ignore[no-untyped-call]  # torch leaves it so
        hidden_TD.index_select(0, rows_R),
        weight_VD,
        targets_T.index_select(0, rows_R).long() - 1,
        chunk_tokens,
        label_smoothing,
        kind,
        needs_grad,
        rows_R,
        repeats,
        logit,
    )
    return total


def log_sum_unheld(
    hidden_TD: Tensor,
    weight_VD: Tensor,
    rows_R: Tensor,
    held: Repeats,
    *,
    chunk_tokens: int,
    kind: torch.dtype,
    backend: str,
) -> Tensor:
    """Return log Σ exp(logit) over the items that a token's history does not hold, float32 or wider, `[R]`.

    Args:
        hidden_TD: hidden states.
        weight_VD: item rows; row 0 (padding) takes no part.
        rows_R: tokens; `triton` takes -1 for none, and gives any value there.
        held: histories; their logit is not looked at.
        chunk_tokens: tokens whose logits `reference` has in memory at one time.
        kind: type of the matrix products' inputs.
        backend: as from `resolve_loss_backend`.
    """
    if backend == "triton":
        from ss4rec.kernels.softmax_triton import held_bits, log_sum_exp

        bits_TW = held_bits(held.items_T, len(weight_VD), held.segments)
        return log_sum_exp(hidden_TD, weight_VD, rows_R, kind=kind, bits_TW=bits_TW)
    found: Tensor = _ChunkedLogSum.apply(  # type: ignore[no-untyped-call]  # torch leaves it so
        hidden_TD.index_select(0, rows_R), weight_VD, rows_R, held, chunk_tokens, kind
    )
    return found


class _ChunkedLogSum(torch.autograd.Function):
    """Logits are computed again for the gradient, so that only those of one chunk exist at a time."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_RD: Tensor,
        weight_VD: Tensor,
        rows_R: Tensor,
        held: Repeats,
        chunk_tokens: int,
        kind: torch.dtype,
    ) -> Tensor:
        """Return log Σ e^logit over the items, `[R]`."""
        ctx.held, ctx.chunk_tokens, ctx.kind = held, chunk_tokens, kind
        parts = rows_R.split(chunk_tokens)
        hidden = hidden_RD.split(chunk_tokens)
        sums = [
            _unheld_logits(h, weight_VD, r, held, kind).logsumexp(1)
            for h, r in zip(hidden, parts, strict=True)
        ]
        log_sum_R = torch.cat(sums)
        ctx.save_for_backward(hidden_RD, weight_VD, rows_R, log_sum_R)
        return log_sum_R

    @staticmethod
    def backward(ctx: Any, grad_R: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of states `[R, D]` and weights `[V, D]`."""
        hidden_RD, weight_VD, rows_R, log_sum_R = ctx.saved_tensors
        grad_hidden_RD = torch.empty_like(hidden_RD)
        grad_weight_VD = torch.zeros_like(weight_VD, dtype=log_sum_R.dtype)
        items_ID = weight_VD[1:].to(ctx.kind)
        for first in range(0, len(rows_R), ctx.chunk_tokens):
            part = slice(first, first + ctx.chunk_tokens)
            logits_CI = _unheld_logits(hidden_RD[part], weight_VD, rows_R[part], ctx.held, ctx.kind)
            grad_CI = (logits_CI - log_sum_R[part, None]).exp_().mul_(grad_R[part, None]).to(ctx.kind)
            grad_hidden_RD[part] = grad_CI @ items_ID
            grad_weight_VD[1:] += grad_CI.T @ hidden_RD[part].to(ctx.kind)
        return grad_hidden_RD, grad_weight_VD.to(weight_VD.dtype), None, None, None, None


def _unheld_logits(
    hidden_CD: Tensor, weight_VD: Tensor, rows_C: Tensor, held: Repeats, kind: torch.dtype
) -> Tensor:
    """Return the logits of items 1.., -inf where the token's history holds the item, `[C, I]`."""
    logits_CI = (hidden_CD.to(kind) @ weight_VD[1:].to(kind).T).to(
        torch.promote_types(weight_VD.dtype, torch.float32)
    )
    held_CV = logits_CI.new_zeros(len(logits_CI), len(weight_VD), dtype=torch.bool)
    return logits_CI.masked_fill_(held_CV.scatter_(1, held.select(rows_C), True)[:, 1:], -torch.inf)


CACHED_LOGITS = 1 << 18
"""Logits of a part on a CPU, if it has `LEAST_ROWS`: what is done to them one after another finds them in the cache."""
LEAST_ROWS = 64
"""With fewer the gradient of the items would be written more often than the logits."""


def _parts(rows: int, items: int, chunk_tokens: int, device: torch.device) -> Iterator[slice]:
    """Cut rows into parts of at most `chunk_tokens`, on a CPU smaller ones."""
    size = (
        min(chunk_tokens, max(LEAST_ROWS, CACHED_LOGITS // items)) if device.type == "cpu" else chunk_tokens
    )
    return (slice(first, first + size) for first in range(0, rows, size))


def _add_product(sum_ID: Tensor, left_IC: Tensor, right_CD: Tensor) -> None:
    """Add a matrix product in place, in the type of the sum."""
    if left_IC.dtype == sum_ID.dtype:
        sum_ID.addmm_(left_IC, right_CD)
    else:
        sum_ID += left_IC @ right_CD


class _ChunkedCrossEntropy(torch.autograd.Function):
    """Loss sum and both gradients in one pass over the logits; classes are the items without padding."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_RD: Tensor,
        weight_VD: Tensor,
        classes_R: Tensor,
        chunk_tokens: int,
        smoothing: float,
        kind: torch.dtype,
        needs_grad: bool,
        rows_R: Tensor,
        repeats: Repeats | None,
        repeat_logit: Tensor | None,
    ) -> Tensor:
        """Return the loss summed over the rows; both gradients are kept if `needs_grad`."""
        wide = torch.promote_types(weight_VD.dtype, torch.float32)
        items_ID = weight_VD[1:].to(kind)
        grad_hidden_RD = torch.empty_like(hidden_RD)
        grad_weight_ID = torch.zeros_like(weight_VD[1:], dtype=wide)
        total = torch.zeros((), dtype=wide, device=weight_VD.device)
        grad_repeat = torch.zeros((), dtype=wide, device=weight_VD.device)
        for part in _parts(len(hidden_RD), len(items_ID), chunk_tokens, hidden_RD.device):
            hidden_CD, classes_C1 = hidden_RD[part].to(kind), classes_R[part, None]
            logits_CI = (hidden_CD @ items_ID.T).to(wide)
            if repeats is not None and repeat_logit is not None:
                held_CL, counts_CL = repeats.held(rows_R[part])
                counts_CL = counts_CL.to(wide)
                logits_CI.scatter_add_(1, held_CL, counts_CL * repeat_logit)
            most_C1 = logits_CI.amax(1, keepdim=True)
            total -= (1 - smoothing) * logits_CI.gather(1, classes_C1).sum()
            if smoothing:
                total -= smoothing * logits_CI.mean(1).sum()
            grad_CI = logits_CI.sub_(most_C1).exp_()
            sum_C1 = grad_CI.sum(1, keepdim=True)
            total += (most_C1 + sum_C1.log()).sum()
            if not needs_grad:
                continue
            grad_CI.mul_(sum_C1.reciprocal_())
            if smoothing:
                grad_CI -= smoothing / grad_CI.shape[1]
            grad_CI.scatter_add_(1, classes_C1, torch.full_like(most_C1, smoothing - 1))
            if repeats is not None:
                grad_repeat += grad_CI.gather(1, held_CL).mul_(counts_CL).sum()
            narrow_CI = grad_CI.to(kind)
            grad_hidden_RD[part] = narrow_CI @ items_ID
            _add_product(grad_weight_ID, narrow_CI.T, hidden_CD)
        if needs_grad:
            grad_weight_VD = F.pad(grad_weight_ID.to(weight_VD.dtype), (0, 0, 1, 0))
            ctx.save_for_backward(grad_hidden_RD, grad_weight_VD, grad_repeat)
            ctx.learns_repeats = repeats is not None
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Return the kept gradients of states `[R, D]`, weights `[V, D]` and the logit of repeats, times `grad`."""
        grad_hidden_RD, grad_weight_VD, grad_repeat = ctx.saved_tensors
        return (
            (grad * grad_hidden_RD).to(grad_hidden_RD.dtype),
            grad * grad_weight_VD,
            *[None] * 7,
            grad * grad_repeat if ctx.learns_repeats else None,
        )


def bpr(
    hidden_TD: Tensor,
    weight_VD: Tensor,
    targets_T: Tensor,
    negatives: int,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Sum -log σ(positive - negative), averaged over a target's negatives, over tokens that have a target (BPR).

    Negatives are uniform over all items but the target.

    Args:
        hidden_TD: hidden states.
        weight_VD: item rows; row 0 (padding) is never drawn.
        targets_T: item indices; 0 means no target.
        negatives: negatives per target.
        generator: source of randomness on the device of `hidden_TD`.

    Returns:
        The sum (float32 or wider).
    """
    rows = target_rows(targets_T)
    targets_R1 = targets_T.index_select(0, rows)[:, None].long()
    drawn_RG = torch.randint(
        1, weight_VD.shape[0] - 1, (rows.numel(), negatives), generator=generator, device=hidden_TD.device
    )
    drawn_RG = drawn_RG + (drawn_RG >= targets_R1)
    hidden_RD = hidden_TD.index_select(0, rows).to(weight_VD.dtype)
    candidates_RHD = F.embedding(torch.cat([targets_R1, drawn_RG], dim=1), weight_VD)
    scores_RH = (candidates_RHD * hidden_RD[:, None, :]).sum(2)
    return -F.logsigmoid(scores_RH[:, :1] - scores_RH[:, 1:]).mean(1).sum()
