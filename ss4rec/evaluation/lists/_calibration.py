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
    list_BG = list_BG / list_BG.sum(1, keepdim=True).clamp(min=1e-300)
    mixed_BG = (1 - MIX) * list_BG + MIX * lists.history_BG
    terms_BG: Tensor = torch.special.xlogy(lists.history_BG, lists.history_BG / mixed_BG.clamp(min=1e-300))
    return terms_BG.sum(1)


calibration = ListMetric("miscalibration", _of, needs_features=True, needs_history=True)
"""KL divergence of the list's features from the history's."""
