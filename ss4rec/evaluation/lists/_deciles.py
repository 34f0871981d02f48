"""Exposure by popularity decile: who gets the places, the items that everybody knows or the others?"""

from __future__ import annotations

import torch
from torch import Tensor

from ss4rec.evaluation.lists._lists import Exposure, ItemFacts


def by_popularity_decile(counts_V: Tensor, events_V: Tensor) -> list[float]:
    """Return the fraction of `counts_V` that each tenth of the items has, the most popular tenth first.

    Items are ordered by training events, equal ones by index; tenths are of equal size but for one item.

    Args:
        counts_V: what is shared out, such as places on lists; entry 0 is ignored.
        events_V: training events of each item.
    """
    order_I = events_V[1:].argsort(descending=True, stable=True)
    decile_I = torch.arange(len(order_I), device=order_I.device) * 10 // len(order_I)
    sums = counts_V.new_zeros(10).index_add_(0, decile_I, counts_V[1:][order_I])
    return (sums.double() / sums.sum().clamp(min=1)).tolist()


def exposure_by_decile(exposure: Exposure, item_facts: ItemFacts) -> tuple[list[float], list[float]]:
    """Return the fractions of places and, to compare, of training events, of each decile of items."""
    events_V = item_facts.events_V
    return by_popularity_decile(exposure.counts_V, events_V), by_popularity_decile(events_V, events_V)
