"""Intra-list diversity: the mean distance of two items of a list by a categorical feature, such as genres.

`diversity` takes 1 - cosine of the items' features (0: all the same, 1: nothing in common), `hamming_diversity` the
number of feature values that one item has and the other has not. Sums over pairs follow from sums over items,
|sum u|^2 = sum |u|^2 + 2 sum over pairs u.v, so that no pair has to be looked at.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ss4rec.evaluation.lists._lists import ItemFacts, ListMetric, Lists


def _sums(rows_VG: Tensor, lists: Lists) -> tuple[Tensor, Tensor]:
    """Return the sum of the rows of each list's items, and the number of pairs; padding has a row of zeros."""
    count_B = lists.filled_BK.sum(1).double()
    sums_BG = rows_VG.new_zeros(len(lists.items_BK), rows_VG.shape[1])
    for items_B in lists.items_BK.T:  # one place of all lists at a time, not [B, K, G]
        sums_BG += rows_VG[items_B]
    return sums_BG, count_B * (count_B - 1) / 2


def _cosine(lists: Lists, item_facts: ItemFacts) -> Tensor:
    """1 - mean cosine over pairs; an item without features has nothing in common with any. NaN for one item."""
    assert item_facts.features_VG is not None
    unit_VG = torch.nn.functional.normalize(item_facts.features_VG)
    sums_BG, pairs_B = _sums(unit_VG, lists)
    own_B = (unit_VG**2).sum(1)[lists.items_BK].sum(1)
    return 1.0 - ((sums_BG**2).sum(1) - own_B) / 2 / pairs_B


def _hamming(lists: Lists, item_facts: ItemFacts) -> Tensor:
    """Mean over pairs of the number of values that differ: n (K - n) pairs differ in a value that n items have."""
    assert item_facts.features_VG is not None
    sums_BG, pairs_B = _sums(item_facts.features_VG, lists)
    count_B1 = lists.filled_BK.sum(1, keepdim=True)
    return (sums_BG * (count_B1 - sums_BG)).sum(1) / pairs_B


diversity = ListMetric("diversity", _cosine, needs_features=True)
"""1 - mean cosine of the features of two items of a list."""
hamming_diversity = ListMetric("hamming_diversity", _hamming, needs_features=True)
"""Mean number of feature values in which two items of a list differ."""
