"""The simplest sequential baseline: what came right after the last item, counted in the past alone."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from scipy.sparse import csr_matrix

from ss4rec.data.batches.windows import ragged
from ss4rec.evaluation.transitions import count_transitions


def count_pairs(shard: pa.Table, vocabulary: int, cut_s: int) -> csr_matrix:
    """Return `[V, V]` counts of (item, next item of the same user), V = vocabulary + 1, both at or before `cut_s`.

    Items outside the vocabulary are left out first, as they are for the model. Counts of shards add up.
    """
    (items_E, offsets_U1), (times_E, _) = (ragged(shard[name]) for name in ("items", "timestamps"))
    user_E = np.repeat(np.arange(len(offsets_U1) - 1), np.diff(offsets_U1))
    keep_E = (items_E <= vocabulary) & (times_E <= cut_s)
    return count_transitions(items_E[keep_E], user_E[keep_E], vocabulary)
