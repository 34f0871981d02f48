"""The exact rank of each user's target among all items, with and without the items that the user has seen.

Ties get the average rank: 1 + (items scored higher) + (other items scored the same) / 2, the rank that the
target has on average if equal scores are put in random order. A constant scorer therefore ranks every target at
(I + 1) / 2, and no order of item ids can help or hurt. Ranks may end in .5; a target counts at a cut-off k if
rank <= k.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from ss4rec.errors import NonFiniteError
from ss4rec.model.item_scores import ItemScores


def target_ranks(scores: ItemScores, targets_B: Tensor) -> tuple[Tensor, Tensor]:
    """Rank each target among all items, and among the items that its user has not seen.

    Items are gone through in stretches, so that memory does not grow with the catalogue: once for the targets' own
    scores and once to count. Both passes compute the same numbers in the same way, so ties stay ties. Item 0 (padding)
    never counts. The target always takes part, even if it was seen before. A target 0, an item that never trained, is
    no candidate; its rank is infinite, which no metric counts.

    Args:
        scores: score of every item for each user, and what each has seen.
        targets_B: target item of each user, 1..V-1, or 0.

    Returns:
        Ranks with seen items kept, and with seen items excluded; float64 `[B]` each, on the scores' device.

    Raises:
        NonFiniteError: if a score is NaN.
    """
    targets_B = targets_B.to(scores.seen.device, torch.int64)
    cold_B = targets_B == 0
    targets_B = targets_B.clamp(min=1)
    chunks = list(scores.chunks()) if scores.is_one_chunk else None
    target_scores_B1 = _target_scores(chunks or scores.chunks(), targets_B)
    # Twice the number of items ahead: 2 for a higher score, 1 for an equal one; the target itself adds 1.
    ahead_B = torch.full_like(targets_B, -1)
    seen_ahead_B = torch.zeros_like(targets_B)
    nan_B = torch.zeros_like(targets_B, dtype=torch.bool)
    for first, scores_BC in chunks or scores.chunks():
        for is_ahead_BC in (scores_BC > target_scores_B1, scores_BC >= target_scores_B1):
            ahead_B += is_ahead_BC.sum(1, dtype=torch.int32)  # half the time of int64 on a CPU
        nan_B |= scores_BC.amax(1).isnan()  # NaN wins in a maximum
        row_P, column_P = scores.seen.between(first, first + scores_BC.shape[1])
        seen_P, target_P = scores_BC[row_P, column_P], target_scores_B1[row_P, 0]
        twice_P = (seen_P > target_P).long() + (seen_P >= target_P).long()
        seen_ahead_B.index_add_(0, row_P, twice_P * (column_P + first != targets_B[row_P]))
    if bool(nan_B.any()):
        raise NonFiniteError(
            f"the scores of {int(nan_B.sum())} of {len(targets_B)} users are NaN, so their targets have no rank; "
            "evaluate an earlier checkpoint or train again with a lower optim.lr"
        )
    ranks = (1 + ahead_B.double() / 2, 1 + (ahead_B - seen_ahead_B).double() / 2)
    kept_B, excluded_B = (rank_B.masked_fill(cold_B, torch.inf) for rank_B in ranks)
    return kept_B, excluded_B


def _target_scores(chunks: Iterable[tuple[int, Tensor]], targets_B: Tensor) -> Tensor:
    """Return the score of each user's target, `[B, 1]`, as it stands in the stretch that holds it."""
    found_B1 = None
    for first, scores_BC in chunks:
        column_B1 = (targets_B - first)[:, None]
        inside_B1 = (column_B1 >= 0) & (column_B1 < scores_BC.shape[1])
        own_B1 = scores_BC.gather(1, column_B1.clamp(0, scores_BC.shape[1] - 1))
        found_B1 = own_B1 if found_B1 is None else torch.where(inside_B1, own_B1, found_B1)
    if found_B1 is None:
        raise ValueError("there are no items to rank")
    return found_B1
