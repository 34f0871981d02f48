"""The k-core: the largest set of rows in which every user and every item has enough of them."""

from __future__ import annotations

import numpy as np


def k_core(users_R: np.ndarray, items_R: np.ndarray, min_user: int, min_item: int) -> np.ndarray:
    """Return the rows, rising, that remain when too rare users and items are dropped until none is too rare.

    The result does not depend on the order of dropping: a row of the largest such set is never dropped.

    Args:
        users_R: dense user codes from 0.
        items_R: dense item codes from 0.
        min_user: least rows of a user.
        min_item: least rows of an item.
    """
    rows_K = np.arange(len(users_R))
    while True:
        users_K, items_K = users_R[rows_K], items_R[rows_K]
        keep_K = (np.bincount(users_K)[users_K] >= min_user) & (np.bincount(items_K)[items_K] >= min_item)
        if keep_K.all():
            return rows_K
        rows_K = rows_K[keep_K]
