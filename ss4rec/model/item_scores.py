"""Scores of all items for some users, a stretch of items at a time, so that no matrix of users x items has to exist."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

CHUNK_SCORES = 1 << 24
"""Scores in memory at one time."""


class SeenItems:
    """Which items each user has seen: every pair once, in order of items.

    Args:
        seen_X: items, user after user; any order, repeats allowed, 0 (padding) is left out.
        seen_offsets_B1: where each user's items begin and end in `seen_X`.
        width: number of items and padding, V.
        device: where the pairs live.
    """

    _starts_V1: Tensor | None

    def __init__(
        self, seen_X: Tensor, seen_offsets_B1: Tensor, width: int, device: torch.device | str
    ) -> None:
        num_rows = len(seen_offsets_B1) - 1
        lengths_B = seen_offsets_B1.diff().to(device)
        row_X = torch.repeat_interleave(lengths_B, output_size=len(seen_X))
        pairs_P = torch.unique(seen_X.to(device, torch.int64) * num_rows + row_X)
        self._take(pairs_P // num_rows, pairs_P % num_rows, num_rows, width)
        self._starts_V1 = self._starts()  # while the device is waited for anyway

    @classmethod
    def in_order(cls, item_P: Tensor, row_P: Tensor, num_rows: int, width: int) -> SeenItems:
        """Take pairs as they are: in order, each once and without padding, int64."""
        seen = cls.__new__(cls)
        seen._take(item_P, row_P, num_rows, width)
        return seen

    def _take(self, item_P: Tensor, row_P: Tensor, num_rows: int, width: int) -> None:
        self.num_rows = num_rows
        self.device = item_P.device
        self._item_P, self._row_P = item_P, row_P
        self._width = width
        self._starts_V1 = None

    def _starts(self) -> Tensor:
        """Return where the pairs of each item begin."""
        edges_V1 = torch.arange(self._width + 1, device=self.device)
        return torch.searchsorted(self._item_P, edges_V1).cpu()

    @property
    def num_pairs(self) -> int:
        """Number of pairs P."""
        return len(self._item_P)

    def part(self, first: int, stop: int) -> slice:
        """Return where the pairs with items `first` to `stop - 1` stand among all."""
        if self._starts_V1 is None and (first, stop) == (1, self._width):
            return slice(0, self.num_pairs)
        self._starts_V1 = self._starts() if self._starts_V1 is None else self._starts_V1
        return slice(int(self._starts_V1[first]), int(self._starts_V1[stop]))

    def between(self, first: int, stop: int) -> tuple[Tensor, Tensor]:
        """Return row and `item - first` of all pairs with items `first` to `stop - 1`, int64 each."""
        part = self.part(first, stop)
        return self._row_P[part], self._item_P[part] - first

    def find(self, row_X: Tensor, item_X: Tensor) -> tuple[Tensor, Tensor]:
        """Return where pairs stand among all, int64, and whether each is there at all, bool."""
        key_X = item_X * self.num_rows + row_X
        key_P = self._item_P * self.num_rows + self._row_P
        place_X = torch.searchsorted(key_P, key_X).clamp_max(max(self.num_pairs - 1, 0))
        return place_X, key_P[place_X] == key_X


@dataclass(frozen=True)
class ItemScores:
    """Scores of items 1 to V-1 for B users; higher is better."""

    score: Callable[[int, int], Tensor]
    """Gives the scores of items `first` to `stop - 1`, `[B, stop - first]`, the same ones at every call."""
    width: int
    """Number of items and padding, V."""
    seen: SeenItems
    """What the users have seen."""

    @classmethod
    def of_matrix(cls, scores_BV: Tensor, seen_X: Tensor, seen_offsets_B1: Tensor) -> ItemScores:
        """Take scores that are there already; column 0 is ignored."""
        seen = SeenItems(seen_X, seen_offsets_B1, scores_BV.shape[1], scores_BV.device)
        return cls(lambda first, stop: scores_BV[:, first:stop], scores_BV.shape[1], seen)

    @classmethod
    def of_products(
        cls, hidden_BD: Tensor, weight_VD: Tensor, seen: SeenItems, seen_logit: Tensor | None = None
    ) -> ItemScores:
        """Score by products of states and item rows, in the type of the rows (bf16 and tf32 would tie items).

        Nothing is differentiated through the scores.

        Args:
            hidden_BD: state of each user.
            weight_VD: item rows.
            seen: what the users have seen.
            seen_logit: what is added to the scores of these items: a scalar, or a value for each pair of `seen`.
        """
        hidden_BD, weight_VD = hidden_BD.detach().to(weight_VD.dtype), weight_VD.detach()
        seen_logit = None if seen_logit is None else seen_logit.detach()

        def score(first: int, stop: int) -> Tensor:
            scores_BC = _full_product(hidden_BD, weight_VD[first:stop])
            if seen_logit is not None:
                own = seen_logit if seen_logit.ndim == 0 else seen_logit[seen.part(first, stop)]
                scores_BC[seen.between(first, stop)] += own.to(scores_BC.dtype)
            return scores_BC

        return cls(score, len(weight_VD), seen)

    def chunks(self) -> Iterator[tuple[int, Tensor]]:
        """Yield stretches of about `CHUNK_SCORES` scores as (first item, `[B, C]`); padding is left out."""
        size = max(1, CHUNK_SCORES // self.seen.num_rows)
        for first in range(1, self.width, size):
            yield first, self.score(first, min(first + size, self.width))

    @property
    def is_one_chunk(self) -> bool:
        """Whether `chunks` has no more than one stretch."""
        return self.seen.num_rows * (self.width - 1) <= CHUNK_SCORES

    def matrix(self) -> Tensor:
        """Return all scores, `[B, V]`; column 0 is -inf. For few users or small catalogues."""
        scores_BI = self.score(1, self.width)
        return torch.cat([scores_BI.new_full((len(scores_BI), 1), -torch.inf), scores_BI], dim=1)

    def top(self, k: int, *, exclude_seen: bool) -> tuple[Tensor, Tensor]:
        """Return scores and items of the k best of each user, `[B, K]` with K = min(k, V - 1), best first.

        Exact: the best so far are kept while going through the items. Of equal scores the lower item comes first, on
        any device and however many items are scored at a time. Where fewer than K items are unseen, the last places
        have the score -inf.
        """
        best_BK, items_BK = None, None
        for first, scores_BC in self.chunks():
            if exclude_seen:
                places = self.seen.between(first, first + scores_BC.shape[1])
                scores_BC = scores_BC.index_put(places, scores_BC.new_tensor(-torch.inf))
            chunk_BK, column_BK = _top_in_order(scores_BC, min(k, scores_BC.shape[1]))
            column_BK += first
            if best_BK is None or items_BK is None:
                best_BK, items_BK = chunk_BK, column_BK
                continue
            both_BJ, items_BJ = torch.cat([best_BK, chunk_BK], 1), torch.cat([items_BK, column_BK], 1)
            # Stable, and what came before has the lower items.
            both_BJ, place_BJ = both_BJ.sort(dim=1, descending=True, stable=True)
            best_BK, items_BK = both_BJ[:, :k], items_BJ.gather(1, place_BJ[:, :k])
        if best_BK is None or items_BK is None:
            raise ValueError("there are no items to choose from")
        return best_BK, items_BK


def best_of(scores_V: npt.NDArray[np.float32], k: int) -> tuple[list[float], list[int]]:
    """Return what `ItemScores.top` does for one user's scores on a CPU, where a dozen calls of torch take longer.

    Column 0 is not looked at.
    """
    scores_I = scores_V[1:]
    k = min(k, len(scores_I))
    lowest = np.partition(scores_I, len(scores_I) - k)[len(scores_I) - k]
    found_X = np.flatnonzero(scores_I >= lowest)
    best_K = found_X[np.argsort(-scores_I[found_X], kind="stable")[:k]]
    return scores_I[best_K].tolist(), (best_K + 1).tolist()


def _top_in_order(scores_BC: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the k best scores of each row and their columns `[B, k]`; of equal scores the lower column first."""
    best_Bk, column_Bk = scores_BC.topk(k, dim=1)
    least_B1 = best_Bk[:, -1:]
    # `topk` takes any of the scores that are equal to the last one: where there are more of them, take the first ones.
    tied_R = torch.nonzero(((~(scores_BC < least_B1)).sum(1) > k) & (least_B1[:, 0] > -torch.inf))[:, 0]
    if len(tied_R):
        scores_RC, least_R1 = scores_BC[tied_R], least_B1[tied_R]
        above_RC, equal_RC = ~(scores_RC <= least_R1), scores_RC == least_R1
        room_R1 = k - above_RC.sum(1, keepdim=True)
        taken_RC = above_RC | (equal_RC & (equal_RC.cumsum(1) <= room_R1))
        column_Bk[tied_R] = taken_RC.nonzero()[:, 1].view(-1, k)
    column_Bk = column_Bk.sort(dim=1)[0]
    best_Bk, place_Bk = scores_BC.gather(1, column_Bk).sort(dim=1, descending=True, stable=True)
    return best_Bk, column_Bk.gather(1, place_Bk)


def _full_product(hidden_BD: Tensor, weight_CD: Tensor) -> Tensor:
    """Return `hidden @ weight.T` without autocast, and without tf32 where training has switched it on."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    try:
        with torch.autocast(hidden_BD.device.type, enabled=False):
            return hidden_BD @ weight_CD.T
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
