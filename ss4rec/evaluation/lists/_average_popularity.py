"""Average popularity of what is recommended: training events of an item, averaged over the places of a list."""

from __future__ import annotations

from torch import Tensor

from ss4rec.evaluation.lists._lists import ItemFacts, ListMetric, Lists, mean_over_items


def _of(lists: Lists, item_facts: ItemFacts) -> Tensor:
    """Mean training events of a list's items."""
    return mean_over_items(item_facts.events_V[lists.items_BK].double(), lists)


average_popularity = ListMetric("popularity", _of)
"""Mean training events of the recommended items."""
