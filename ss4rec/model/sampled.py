"""Softmax over a sample of items: for catalogues whose full softmax takes too long.

The normaliser Z = e^(target) + Σ_{i≠target} e^(score_i) is estimated without bias by importance sampling
(Bengio & Senécal 2008, "logQ correction"): k items s drawn with probability q_s stand in for the sum,
Z ~ e^(target) + Σ_s [s≠target] e^(score_s) / (k q_s).
"""

from __future__ import annotations

import math

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
    """
    rows_R = target_rows(targets_T) if rows_R is None else rows_R
    tokens_R = rows_R.clamp_min(0)
    targets_R = targets_T.index_select(0, tokens_R)
    hidden_RD = hidden_TD.index_select(0, tokens_R)
    wide = torch.promote_types(weight_VD.dtype, torch.float32)
    scores_RK = (hidden_RD @ weight_VD[drawn_K].to(hidden_RD.dtype).T).to(wide)
    scores_RK = scores_RK - (log_q_K.to(wide) + math.log(drawn_K.numel()))
    scores_RK = scores_RK.masked_fill(drawn_K == targets_R[:, None], -torch.inf)
    own_R1 = (hidden_RD.to(wide) * weight_VD[targets_R].to(wide)).sum(1, keepdim=True)
    log_normaliser_R = torch.cat([own_R1, scores_RK], dim=1).logsumexp(1)
    return ((log_normaliser_R - own_R1.squeeze(1)) * (rows_R >= 0)).sum()
