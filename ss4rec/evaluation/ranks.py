"""The exact rank of each user's target among all items, with and without the items that the user has seen.

Ties get the average rank: 1 + (items scored higher) + (other items scored the same) / 2, the rank that the
target has on average if equal scores are put in random order. A constant scorer therefore ranks every target at
(I + 1) / 2, and no order of item ids can help or hurt. Ranks may end in .5; a target counts at a cut-off k if
rank <= k.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ss4rec.errors import NonFiniteError

CHUNK_SCORES = 1 << 24
"""Scores compared at one time, so that the temporaries stay small beside the scores themselves."""


def target_ranks(
    scores_BV: Tensor, targets_B: Tensor, seen_X: Tensor, seen_offsets_B1: Tensor
) -> tuple[Tensor, Tensor]:
    """Rank each target among all items, and among the items that its user has not seen.

    Item 0 (padding) never counts. The target always takes part, even if it was seen before. `seen_X` may hold an
    item several times; it is taken out once.

    Args:
        scores_BV: score of every item; column 0 is ignored.
        targets_B: target item of each user, 1..V-1.
        seen_X: items that each user has seen, user after user.
        seen_offsets_B1: where each user's items begin and end in `seen_X`.

    Returns:
        Ranks with seen items kept, and with seen items excluded; float64 `[B]` each, on the scores' device.

    Raises:
        NonFiniteError: if a score is NaN.
    """
    device = scores_BV.device
    targets_B = targets_B.to(device)
    target_scores_B1 = scores_BV.gather(1, targets_B[:, None])
    # Twice the number of items ahead: 2 for a higher score, 1 for an equal one; the target itself adds 1.
    ahead_B = torch.full((len(targets_B),), -1, dtype=torch.int64, device=device)
    nan_B = torch.zeros(len(targets_B), dtype=torch.bool, device=device)
    for chunk_BC in scores_BV[:, 1:].split(max(1, CHUNK_SCORES // len(targets_B)), dim=1):
        for is_ahead_BC in (chunk_BC > target_scores_B1, chunk_BC >= target_scores_B1):
            ahead_B += is_ahead_BC.sum(1, dtype=torch.int32)  # half the time of int64 on a CPU
        nan_B |= chunk_BC.isnan().any(1)
    if bool(nan_B.any()):
        raise NonFiniteError(
            f"the scores of {int(nan_B.sum())} of {len(targets_B)} users are NaN, so their targets have no rank; "
            "evaluate an earlier checkpoint or train again with a lower optim.lr"
        )
    row_X, seen_X = _excluded_pairs(targets_B, seen_X.to(device), seen_offsets_B1, scores_BV.shape[1])
    seen_scores_X, target_scores_X = scores_BV[row_X, seen_X], target_scores_B1[row_X, 0]
    twice_X = (seen_scores_X > target_scores_X).long() + (seen_scores_X >= target_scores_X).long()
    ahead_unseen_B = ahead_B.index_add(0, row_X, twice_X, alpha=-1)
    return 1 + ahead_B.double() / 2, 1 + ahead_unseen_B.double() / 2


def _excluded_pairs(
    targets_B: Tensor, seen_X: Tensor, seen_offsets_B1: Tensor, width: int
) -> tuple[Tensor, Tensor]:
    """Return (row, item) of every seen item but the row's target and padding, each pair once."""
    lengths_B = seen_offsets_B1.diff().to(seen_X.device)
    row_X = torch.repeat_interleave(torch.arange(len(targets_B), device=seen_X.device), lengths_B)
    kept_X = (seen_X != targets_B[row_X]) & (seen_X != 0)
    pairs_X = torch.unique(row_X[kept_X] * width + seen_X[kept_X])
    return pairs_X // width, pairs_X % width
