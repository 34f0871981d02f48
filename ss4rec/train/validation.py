"""Validation inside training: full ranking of every validation target, users dealt over the workers."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from ss4rec.config import EvalConfig
from ss4rec.data.batches.batch import EvalBatch
from ss4rec.data.batches.source import SequenceSource
from ss4rec.evaluation.metrics import hit_rate, ndcg, reciprocal_rank
from ss4rec.evaluation.ranks import target_ranks
from ss4rec.evaluation.scorers import ModelScorer
from ss4rec.model.ss4rec import SequenceModel
from ss4rec.train.group import Workers

_CACHE_EVENTS = 50_000_000
"""Histories of up to this many events stay in memory between validations (about 20 bytes an event)."""
_METRICS = {"hr": hit_rate, "ndcg": ndcg, "mrr": reciprocal_rank}
_K = 10


class Validation:
    """Callable that returns metrics at 10, equal on all workers, as the plan's protocol ranks its validation targets.

    `ndcg@10` has seen items and the target's time as the protocol says; `ndcg@10_unseen` always has seen items
    excluded. Each user counts once, however many targets there are. Histories are read once and kept between calls
    while they are small enough.
    """

    def __init__(
        self, model: SequenceModel, source: SequenceSource, workers: Workers, config: EvalConfig
    ) -> None:
        self.source, self.workers, self.config = source, workers, config
        self.scorer = ModelScorer(
            model, source.plan.median_gap_s, source.reader.data.target_time, source.plan.asked_from_s("valid")
        )
        self._cache: list[EvalBatch] | None = None

    def __call__(self) -> dict[str, float]:
        """Rank all items for every target of this worker's users and average over all workers' users."""
        protocol = self.source.plan.protocol
        names = [f"{name}@{_K}{seen}" for seen in ("", "_unseen") for name in _METRICS]
        sums = torch.zeros(len(names) + 1, dtype=torch.float64)
        for batch in self._batches():
            kept_S, excluded_S = target_ranks(
                self.scorer.scores(batch, target_time_known=protocol.target_time == "known"), batch.targets_S
            )
            own_S = kept_S if protocol.seen == "kept" else excluded_S
            weights_S = batch.weights_S.cpu().numpy()
            gains = [
                (weights_S * metric.gains(ranks_S.cpu().numpy(), _K)).sum()
                for ranks_S in (own_S, excluded_S)
                for metric in _METRICS.values()
            ]
            sums += torch.tensor([*gains, weights_S.sum()], dtype=torch.float64)
        *totals, users = self.workers.sum_(sums.to(self.workers.device)).tolist()
        return {name: total / users for name, total in zip(names, totals, strict=True)}

    def _batches(self) -> Iterator[EvalBatch]:
        if self._cache is not None:
            yield from self._cache
            return
        kept: list[EvalBatch] = []
        events = 0
        for batch in self.source.eval_batches("valid", self.config.batch_users):
            events += batch.items_T.numel() + batch.seen_X.numel()
            if events <= _CACHE_EVENTS:
                kept.append(batch)
            yield batch
        if events <= _CACHE_EVENTS:
            self._cache = kept
