"""Validation inside training: full ranking of every user's validation item, users dealt over the workers."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ss4rec.config import EvalConfig
from ss4rec.data.batches.batch import EvalBatch
from ss4rec.data.batches.source import SequenceSource
from ss4rec.evaluation.metrics import hit_rate, ndcg, reciprocal_rank
from ss4rec.evaluation.ranks import target_ranks
from ss4rec.model.habits import Events
from ss4rec.model.inputs import Context
from ss4rec.model.segments import Segments
from ss4rec.model.ss4rec import SequenceModel
from ss4rec.train.group import Workers

_CACHE_EVENTS = 50_000_000
"""Histories of up to this many events stay in memory between validations (about 20 bytes an event)."""
_METRICS = {"hr": hit_rate, "ndcg": ndcg, "mrr": reciprocal_rank}
_K = 10


class Validation:
    """Callable that returns metrics at 10, equal on all workers; `ndcg@10_unseen` has seen items excluded.

    Histories are read once and kept between calls while they are small enough.
    """

    def __init__(
        self, model: SequenceModel, source: SequenceSource, workers: Workers, config: EvalConfig
    ) -> None:
        self.model, self.source, self.workers, self.config = model, source, workers, config
        self._cache: list[EvalBatch] | None = None

    def __call__(self) -> dict[str, float]:
        """Rank all items for every user of this worker and average over all workers' users."""
        names = [f"{name}@{_K}{seen}" for seen in ("", "_unseen") for name in _METRICS]
        sums = torch.zeros(len(names) + 1, dtype=torch.float64)
        for batch in self._batches():
            ranks = [ranks_S.cpu().numpy() for ranks_S in self._ranks(batch)]
            gains = [metric.gains(ranks_S, _K).sum() for ranks_S in ranks for metric in _METRICS.values()]
            sums += torch.tensor([*gains, batch.num_sequences], dtype=torch.float64)
        *totals, users = self.workers.sum_(sums.to(self.workers.device)).tolist()
        return {name: total / users for name, total in zip(names, totals, strict=True)}

    def _ranks(self, batch: EvalBatch) -> tuple[Tensor, Tensor]:
        device = self.workers.device
        segments = Segments(batch.offsets_S1, device)
        events = Events(batch.items_T.to(device), batch.gaps_T.to(device), segments)
        hidden_TD = self.model.encode(events.items_T, events.gaps_T, segments, Context.of(batch, device))
        scores = self.model.scores(hidden_TD[segments.last_S], batch.seen_X, batch.seen_offsets_S1, events)
        return target_ranks(scores, batch.targets_S)

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
