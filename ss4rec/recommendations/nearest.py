"""The rows nearest to a row by their cosine, exactly."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from ss4rec.model.item_scores import ItemScores, SeenItems
from ss4rec.recommendations.filters import Filters


def unit_rows(weight_VD: Tensor) -> Tensor:
    """Return item rows of length 1, float32; row 0 is padding."""
    return F.normalize(weight_VD.detach().float(), dim=1)


def most_similar(
    unit_VD: Tensor, asked_N: npt.NDArray[np.int64], k: int, filters: Filters | None = None
) -> tuple[Tensor, Tensor]:
    """Return the items most like each asked one, and their cosines, `[N, K]` with K = min(k, V - 1), best first.

    An item is not like itself; where too few are left there is item 0 at -inf. Of equal cosines the lower item comes
    first.

    Args:
        unit_VD: item rows of length 1.
        asked_N: items, 1..V-1.
        k: places of a list.
        filters: which items may be named.
    """
    own_N = torch.tensor(asked_N, device=unit_VD.device)
    seen = SeenItems(own_N, torch.arange(len(asked_N) + 1), len(unit_VD), unit_VD.device)
    scores = ItemScores.of_products(unit_VD[own_N], unit_VD, seen)
    scores = (filters or Filters()).on(
        scores, torch.zeros(len(asked_N), dtype=torch.int64), exclude_seen=True
    )
    best_NK, items_NK = scores.top(k, exclude_seen=False)
    return torch.where(best_NK > -torch.inf, items_NK, 0), best_NK
