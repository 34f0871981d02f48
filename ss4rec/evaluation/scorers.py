"""What can be evaluated: anything that scores all items for a batch of users."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

import torch

from ss4rec.data.batches.batch import EvalBatch
from ss4rec.data.batches.windows import HOUR_S
from ss4rec.model.habits import Events
from ss4rec.model.inputs import Context
from ss4rec.model.item_scores import ItemScores
from ss4rec.model.segments import Segments

if TYPE_CHECKING:
    from ss4rec.model.ss4rec import SequenceModel


class Scorer(Protocol):
    """Scores every item for every user of a batch; higher is better."""

    uses_target_time: bool
    """Whether scores depend on `target_time_known`; if not, both settings share one pass."""

    def scores(self, batch: EvalBatch, *, target_time_known: bool) -> ItemScores:
        """Return the scores of all items for the batch's users.

        With `target_time_known=False` a scorer must look at neither `target_times_S` nor anything made from it.
        """
        ...


class ModelScorer:
    """SS4Rec as a scorer.

    A model trained with `target_time=True` reads the time until the target as its last gap, and may read its
    hour. Where that time is taken as unknown, `unknown_gap_s` stands in for it. A model trained with
    `target_time=False` never sees it, so both settings are the same by construction.

    Args:
        model: the model, on the device that it runs on; is switched to evaluation mode.
        unknown_gap_s: the median training gap in seconds (`Manifest.median_gap_s`).
        target_time: `config.data.target_time` of the model's run.
    """

    def __init__(self, model: SequenceModel, unknown_gap_s: float, target_time: bool) -> None:
        self.model = model.eval()
        self.unknown_gap_s = unknown_gap_s
        self.uses_target_time = target_time
        self.device = next(model.parameters()).device

    @torch.inference_mode()
    def scores(self, batch: EvalBatch, *, target_time_known: bool) -> ItemScores:
        """Return the scores, on the model's device."""
        segments = Segments(batch.offsets_S1, self.device)
        gaps_T = batch.gaps_T.to(self.device)
        context = Context.of(batch, self.device)
        if self.uses_target_time and not target_time_known:
            gaps_T = gaps_T.index_fill(0, segments.last_S, self.unknown_gap_s)
            guessed_S = (batch.last_times_S.to(self.device) + round(self.unknown_gap_s)) // HOUR_S
            context = replace(context, hours_T=context.hours_T.index_copy(0, segments.last_S, guessed_S))
        events = Events(batch.items_T.to(self.device), gaps_T, segments)
        hidden_TD = self.model.encode(events.items_T, gaps_T, segments, context)
        return self.model.scores(hidden_TD[segments.last_S], batch.seen_X, batch.seen_offsets_S1, events)
