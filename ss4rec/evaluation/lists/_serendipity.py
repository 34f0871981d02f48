"""Serendipity against popularity: right recommendations that popularity would not have made.

A hit at place i of a list counts by how much better the model places the item than popularity does:
max(0, (I + 1 - i) / I - (I + 1 - popularity rank) / I), averaged over the K places. The popularity rank is dense: 1 for
the items with the most training events, 2 for those with the next number, and so on; without any, I + 1.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ss4rec.evaluation.lists._lists import ItemFacts, ListMetric, Lists


def _of(lists: Lists, item_facts: ItemFacts) -> Tensor:
    """Gain of the hit over popularity, over K; 0 without a hit."""
    num_items = item_facts.num_items
    levels, level_V = item_facts.events_V.unique(return_inverse=True)
    rank_V = torch.where(item_facts.events_V > 0, len(levels) - level_V, num_items + 1)
    place_K = torch.arange(1, lists.items_BK.shape[1] + 1, device=rank_V.device)
    better_BK = (rank_V[lists.items_BK] - place_K).clamp(min=0).double() / num_items
    hit_BK = (lists.items_BK == lists.targets_B[:, None]) & lists.filled_BK
    return (better_BK * hit_BK).sum(1) / lists.items_BK.shape[1]


serendipity = ListMetric("serendipity", _of)
"""Hits, weighted by how far popularity would have put them down."""
