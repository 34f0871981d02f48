"""Validation inside training: full ranking of every user's validation item, users dealt over the workers."""

from __future__ import annotations

import torch

from ss4rec.config import EvalConfig
from ss4rec.data.batch import EvalBatch
from ss4rec.data.source import SequenceSource
from ss4rec.evaluation.metrics import hit_rate, ndcg, reciprocal_rank
from ss4rec.evaluation.ranks import target_ranks
from ss4rec.model.segments import Segments
from ss4rec.model.ss4rec import SS4Rec
from ss4rec.train.workers import Workers

_CACHE_TOKENS = 50_000_000
"""Histories of up to this many events stay in memory between validations (20 bytes an event)."""
_K = 10


class Validation:
    """Callable that returns HR, NDCG and MRR at 10, seen items kept (as published), equal on all workers.

    The users' histories are read once and kept between calls while they are small enough.
    """

    def __init__(self, model: SS4Rec, source: SequenceSource, workers: Workers, config: EvalConfig) -> None:
        self.model, self.source, self.workers, self.config = model, source, workers, config
        self._cache: list[EvalBatch] | None = None

    @torch.inference_mode()
    def __call__(self) -> dict[str, float]:
        """Rank all items for every user of this worker and average over all workers' users."""
        sums = torch.zeros(4, dtype=torch.float64, device=self.workers.device)
        for batch in self._batches():
            ranks_S = self._ranks(batch.to(self.workers.device))
            means = [metric(ranks_S, _K) for metric in (hit_rate, ndcg, reciprocal_rank)]
            sums += sums.new_tensor([*(mean * len(ranks_S) for mean in means), len(ranks_S)])
        hits, gains, reciprocals, users = self.workers.sum_(sums).tolist()
        return {f"hr@{_K}": hits / users, f"ndcg@{_K}": gains / users, f"mrr@{_K}": reciprocals / users}

    def _ranks(self, batch: EvalBatch) -> torch.Tensor:
        segments = Segments(batch.offsets_S1, self.workers.device)
        hidden_SD = self.model.encode(batch.items_T, batch.gaps_T, segments)[segments.last_S]
        return target_ranks(self.model.scores(hidden_SD), batch.targets_S)

    def _batches(self) -> list[EvalBatch] | object:
        if self._cache is not None:
            return self._cache
        return self._read()

    def _read(self):  # noqa: ANN202
        kept, tokens = [], 0
        for batch in self.source.eval_batches("valid", self.config.batch_users):
            tokens += batch.items_T.numel()
            if tokens <= _CACHE_TOKENS:
                kept.append(batch)
            yield batch
        if tokens <= _CACHE_TOKENS:
            self._cache = kept
