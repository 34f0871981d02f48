"""The best items of each history, by evaluation's own scores and order, under filters, limits and re-ranking."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ss4rec.data.batches.batch import EvalBatch
from ss4rec.errors import NonFiniteError
from ss4rec.evaluation.lists import history_shares
from ss4rec.model import item_scores
from ss4rec.model.item_scores import ItemScores, SeenItems
from ss4rec.recommendations.filters import Filters
from ss4rec.recommendations.nearest import unit_rows
from ss4rec.recommendations.options import RecommendOptions
from ss4rec.recommendations.rerank import ByScore, Calibrated, Goal, Limit, Mmr, choose

WIDER = 4
"""A pool that did not fill a list under limits is made so many times as large."""


@dataclass(frozen=True)
class ListRules:
    """How lists are made; tensors on the model's device."""

    options: RecommendOptions
    filters: Filters
    limits: tuple[Limit, ...] = ()
    shares_VG: Tensor | None = None
    """Shares of the features of each item, for calibrated lists (`ItemFacts.shares`)."""
    rows_VD: Tensor | None = None
    """Item rows as unit vectors, for MMR."""

    def to(self, device: torch.device, weight_VD: Tensor) -> ListRules:
        """Return the rules on a device, with the item rows of a model there if they are needed."""
        rows_VD = unit_rows(weight_VD) if self.options.rerank == "mmr" else None
        shares_VG = None if self.shares_VG is None else self.shares_VG.to(device)
        limits = tuple(Limit(limit.features_VG.to(device), limit.most) for limit in self.limits)
        return replace(self, limits=limits, shares_VG=shares_VG, rows_VD=rows_VD)

    @property
    def width(self) -> int:
        """Numbers that each item of a pool brings along."""
        tables = [limit.features_VG for limit in self.limits] + [self.shares_VG, self.rows_VD]
        return sum(table.shape[1] for table in tables if table is not None) + 1

    @property
    def is_plain(self) -> bool:
        """Whether lists are the best scores and nothing else."""
        return not self.limits and self.options.rerank is None


def best_lists(scores: ItemScores, batch: EvalBatch, rules: ListRules) -> tuple[Tensor, Tensor]:
    """Return items and scores of each list, `[B, K]` with K = min(k, items), best first.

    Where no item is left it is 0, and the score -inf. Exact: all items are gone through, a stretch at a time.
    Re-ranking chooses from the best `options.pool_size`; limits look as far down as a list needs.

    Raises:
        NonFiniteError: if a score is NaN.
    """
    options = rules.options
    scores = rules.filters.on(scores, batch.users_S, options.seen == "excluded")
    k = min(options.k, scores.width - 1)
    if rules.is_plain:
        best_BK, items_BK = scores.top(k, exclude_seen=False)
        _refuse_nan(best_BK)
        return torch.where(best_BK > -torch.inf, items_BK, 0), best_BK
    history_BG = None
    if options.rerank == "calibrated" and rules.shares_VG is not None:
        shares_VG = rules.shares_VG
        history_BG = history_shares(batch.seen_X.to(shares_VG.device), batch.seen_offsets_S1, shares_VG)
    size = min(options.pool_size, scores.width - 1)
    best_BM, pool_BM = scores.top(size, exclude_seen=False)
    _refuse_nan(best_BM)
    items_BK = pool_BM.new_zeros(len(pool_BM), k)
    best_BK = best_BM.new_full((len(pool_BM), k), -torch.inf)
    for rows_R in _stretches(torch.arange(len(pool_BM), device=pool_BM.device), size * rules.width):
        history_RG = None if history_BG is None else history_BG[rows_R]
        items_BK[rows_R], best_BK[rows_R] = _made(best_BM[rows_R], pool_BM[rows_R], history_RG, k, rules)
    while rules.limits and size < scores.width - 1:
        short_R = torch.nonzero((items_BK == 0).any(1) & (best_BM[:, -1] > -torch.inf))[:, 0]
        if not len(short_R):
            break
        size = min(size * WIDER, scores.width - 1)
        for rows_R in _stretches(short_R, size * rules.width):
            wider_RM, pool_RM = _only(scores, rows_R).top(size, exclude_seen=False)
            history_RG = None if history_BG is None else history_BG[rows_R]
            items_BK[rows_R], best_BK[rows_R] = _made(wider_RM, pool_RM, history_RG, k, rules)
            best_BM[rows_R, -1] = wider_RM[:, -1]
    return items_BK, best_BK


def _made(
    best_BM: Tensor, pool_BM: Tensor, history_BG: Tensor | None, k: int, rules: ListRules
) -> tuple[Tensor, Tensor]:
    """Choose k of each pool."""
    places_BK, filled_BK = choose(
        _goal(best_BM, pool_BM, history_BG, rules), pool_BM, best_BM > -torch.inf, k, rules.limits
    )
    items_BK = torch.where(filled_BK, pool_BM.gather(1, places_BK), 0)
    return items_BK, torch.where(filled_BK, best_BM.gather(1, places_BK), -torch.inf)


def _goal(best_BM: Tensor, pool_BM: Tensor, history_BG: Tensor | None, rules: ListRules) -> Goal:
    options = rules.options
    if options.rerank == "mmr" and rules.rows_VD is not None:
        return Mmr(best_BM, rules.rows_VD[pool_BM], options.weight)
    if options.rerank == "calibrated" and rules.shares_VG is not None and history_BG is not None:
        return Calibrated(best_BM, rules.shares_VG[pool_BM], history_BG, options.weight)
    return ByScore(best_BM)


def _only(scores: ItemScores, rows_R: Tensor) -> ItemScores:
    """Return the scores of some rows; filters are in them already."""
    nothing = torch.zeros(0, dtype=torch.int64)
    seen = SeenItems(nothing, torch.zeros(len(rows_R) + 1, dtype=torch.int64), scores.width, rows_R.device)
    return ItemScores(lambda first, stop: scores.score(first, stop)[rows_R], scores.width, seen)


def _stretches(rows_R: Tensor, numbers: int) -> Iterator[Tensor]:
    """Yield rows in groups whose pools take about as much memory as a stretch of scores."""
    yield from rows_R.split(max(1, item_scores.CHUNK_SCORES // numbers))


def _refuse_nan(best_BK: Tensor) -> None:
    """Refuse lists of scores that are no numbers: `topk` puts these first."""
    bad = int(best_BK.isnan().any(1).sum())
    if bad:
        raise NonFiniteError(
            f"the scores of {bad} of {len(best_BK)} histories are NaN; recommend with an earlier checkpoint or train "
            "again with a lower optim.lr"
        )
