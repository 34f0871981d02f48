"""AUC of the rank: how often a held-out item stands above an item that is not held out, drawn at random."""

from __future__ import annotations

import numpy as np

from ss4rec.evaluation.metrics._metric import FloatArray, IntArray, RankedTargets


def auc(ranks_U: FloatArray, candidates_U: IntArray | int) -> FloatArray:
    """Return the AUC of each list `[U]` with one held-out item: (C - rank) / (C - 1).

    Equal scores count as half above, as in the rank. An item that never trained has an infinite rank and gets 0.

    Args:
        ranks_U: rank of each held-out item.
        candidates_U: items C that were ranked, the held-out one among them; at least 2.
    """
    return np.where(np.isinf(ranks_U), 0.0, (candidates_U - ranks_U) / (np.asarray(candidates_U) - 1.0))


def auc_of_lists(ranks: RankedTargets, candidates_L: IntArray | int) -> FloatArray:
    """Return the AUC of each list `[L]` with R held-out items: the Mann-Whitney statistic over R (C - R) pairs.

    Args:
        ranks: ranks of the held-out items.
        candidates_L: items C that were ranked, the held-out ones among them; more than R.
    """
    count_L = ranks.counts_L.astype(np.float64)
    others_above_L = ranks.sum(ranks.ranks_N) - count_L * (count_L + 1) / 2
    return 1.0 - others_above_L / (count_L * (np.asarray(candidates_L) - count_L))
