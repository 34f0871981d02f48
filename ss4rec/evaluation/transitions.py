"""How often one item comes right after another: counts of shards add up. Free of torch."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_matrix


def count_transitions(
    items_E: npt.NDArray[Any],
    users_E: npt.NDArray[Any],
    num_items: int,
    counted_E: npt.NDArray[np.bool_] | None = None,
) -> csr_matrix:
    """Return `[V, V]` int32 counts of (item, next item of the same user), V = num_items + 1; counts of shards add up.

    Args:
        items_E: items 1..num_items of events, in order of user and time.
        users_E: whose each event is.
        num_items: size of the vocabulary.
        counted_E: events that count as the next one; None: all.
    """
    same_P = users_E[1:] == users_E[:-1]
    if counted_E is not None:
        same_P &= counted_E[1:]
    pairs = (items_E[:-1][same_P], items_E[1:][same_P])
    size = num_items + 1
    return csr_matrix((np.ones(len(pairs[0]), np.int32), pairs), shape=(size, size))
