"""What can be evaluated: anything that scores all items for a batch of users."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import torch

from ss4rec.data.batches.batch import EvalBatch
from ss4rec.evaluation.states import target_states
from ss4rec.model.habits import Asked
from ss4rec.model.item_scores import ItemScores
from ss4rec.model.last_state import events_of

if TYPE_CHECKING:
    from ss4rec.model.ss4rec import SequenceModel


class Scorer(Protocol):
    """Scores every item for every target of a batch; higher is better."""

    uses_target_time: bool
    """Whether scores depend on `target_time_known`; if not, both settings share one pass."""

    def scores(self, batch: EvalBatch, *, target_time_known: bool) -> ItemScores:
        """Return the scores of all items for the batch's targets.

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
        asked_from_s: moment before which nobody asks, unix seconds, as a cut in time: a model with a horizon is told
            how long ago the last event was then, for those who were not seen since. None: nothing is known.
    """

    def __init__(
        self,
        model: SequenceModel,
        unknown_gap_s: float,
        target_time: bool,
        asked_from_s: int | None = None,
    ) -> None:
        self.model = model.eval()
        self.asked_from_s = asked_from_s if model.config.horizon else None
        self.unknown_gap_s = unknown_gap_s
        self.uses_target_time = target_time
        self.device = next(model.parameters()).device

    @torch.inference_mode()
    def scores(self, batch: EvalBatch, *, target_time_known: bool) -> ItemScores:
        """Return the scores, on the model's device."""
        batch = batch.to(self.device)
        hides_time = self.uses_target_time and not target_time_known
        gap_s = self.unknown_gap_s if hides_time else None
        hidden_SD = target_states(self.model, batch, self.device, gap_s, self.asked_from_s)
        asked = Asked(events_of(batch, self.device), batch.last_S, gap_s)
        return self.model.scores(hidden_SD, batch.seen_X, batch.seen_offsets_S1, asked)
