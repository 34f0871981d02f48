"""Novelty: how few users know what is recommended, in bits (mean inverse user frequency)."""

from __future__ import annotations

from torch import Tensor

from ss4rec.evaluation.lists._lists import ItemFacts, ListMetric, Lists, mean_over_items


def _of(lists: Lists, item_facts: ItemFacts) -> Tensor:
    """Mean of -log2(users with the item / users); an item of no user counts as one of one user."""
    share_V = item_facts.users_V.double().clamp(min=1.0) / item_facts.num_users
    return mean_over_items(-share_V.log2()[lists.items_BK], lists)


novelty = ListMetric("novelty", _of)
"""Mean self-information of the recommended items in bits."""
