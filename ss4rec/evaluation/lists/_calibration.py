"""Calibration (Steck, "Calibrated recommendations", RecSys 2018): do the genres of a list match those of the history?

KL(p || q~) with p(g|u) the distribution of a feature over the user's history, q(g|u) that over the list, and
q~ = .99 q + .01 p, which keeps it finite. 0 is a perfect match; the largest value is log 100 = 4.6.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ss4rec.evaluation.lists._lists import ItemFacts, ListMetric, Lists

MIX = 0.01
"""Part of the history in q~ (alpha in the paper)."""


def _of(lists: Lists, item_facts: ItemFacts) -> Tensor:
    """KL divergence in nats of each list; NaN where the history has no features."""
    assert lists.history_BG is not None
    shares_VG = item_facts.shares()
    list_BG = torch.zeros_like(lists.history_BG)
    for items_B in lists.items_BK.T:
        list_BG += shares_VG[items_B]
    return divergence(lists.history_BG, list_BG)


def divergence(history_XG: Tensor, list_XG: Tensor) -> Tensor:
    """Return KL(p || q~) in nats, `[X]`; the leading dimensions may be any that fit each other.

    Args:
        history_XG: p(g|u), which sums to 1.
        list_XG: sums of the shares of a list's items; they need not sum to 1.
    """
    list_XG = list_XG / list_XG.sum(-1, keepdim=True).clamp(min=1e-300)
    mixed_XG = (1 - MIX) * list_XG + MIX * history_XG
    terms_XG: Tensor = torch.special.xlogy(history_XG, history_XG / mixed_XG.clamp(min=1e-300))
    return terms_XG.sum(-1)


calibration = ListMetric("miscalibration", _of, needs_features=True, needs_history=True)
"""KL divergence of the list's features from the history's."""
