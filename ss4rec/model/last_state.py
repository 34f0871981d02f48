"""The state after a history's last event, and the scores that follow: what ranking and serving ask of a model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from ss4rec.model.inputs import Context
from ss4rec.model.item_scores import ItemScores
from ss4rec.model.segments import Segments

if TYPE_CHECKING:
    from ss4rec.data.batches.batch import Histories


class Encoder(Protocol):
    """What is asked of a model; `ss4rec.model.ss4rec.SequenceModel` is one."""

    def encode(
        self, items_T: Tensor, gaps_T: Tensor, segments: Segments, context: Context | None = None
    ) -> Tensor:
        """Return `[T, D]` hidden states."""
        ...

    def scores(self, hidden_BD: Tensor, seen_X: Tensor, seen_offsets_B1: Tensor) -> ItemScores:
        """Return the scores of all items."""
        ...


def encode_last(model: Encoder, batch: Histories, device: torch.device | str = "cpu") -> Tensor:
    """Return the hidden state after each history's last event, `[S, D]` on `device`, where the model is."""
    segments = Segments(batch.offsets_S1, device)
    items_T, gaps_T = batch.items_T.to(device), batch.gaps_T.to(device)
    return model.encode(items_T, gaps_T, segments, Context.of(batch, device))[segments.last_S]


def score_last(model: Encoder, batch: Histories, device: torch.device | str = "cpu") -> ItemScores:
    """Return the scores of all items after each history."""
    return model.scores(encode_last(model, batch, device), batch.seen_X, batch.seen_offsets_S1)
