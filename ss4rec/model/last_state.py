"""The state after a history's last event, and the scores that follow: what ranking and serving ask of a model."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from ss4rec.model.inputs import Context, HasContext
from ss4rec.model.item_scores import ItemScores
from ss4rec.model.segments import Segments


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


class HasHistories(HasContext, Protocol):
    """Packed histories of some users (`ss4rec.data.batches.batch.Histories`)."""

    @property
    def items_T(self) -> Tensor:
        """Last items of each history."""
        ...

    @property
    def gaps_T(self) -> Tensor:
        """Gaps in seconds."""
        ...

    @property
    def offsets_S1(self) -> Tensor:
        """Where histories begin and end, on the host."""
        ...

    @property
    def seen_X(self) -> Tensor:
        """Items of the whole histories."""
        ...

    @property
    def seen_offsets_S1(self) -> Tensor:
        """Where each history begins and ends in `seen_X`, on the host."""
        ...


def encode_all(model: Encoder, batch: HasHistories, device: torch.device | str = "cpu") -> Tensor:
    """Return the hidden state after every event of the histories, `[T, D]` on `device`, where the model is."""
    segments = Segments(batch.offsets_S1, device)
    items_T, gaps_T = batch.items_T.to(device), batch.gaps_T.to(device)
    return model.encode(items_T, gaps_T, segments, Context.of(batch, device))


def encode_last(model: Encoder, batch: HasHistories, device: torch.device | str = "cpu") -> Tensor:
    """Return the hidden state after each history's last event, `[S, D]` on `device`, where the model is."""
    return encode_all(model, batch, device)[batch.offsets_S1[1:].to(device) - 1]


def score_last(model: Encoder, batch: HasHistories, device: torch.device | str = "cpu") -> ItemScores:
    """Return the scores of all items after each history."""
    return model.scores(encode_last(model, batch, device), batch.seen_X, batch.seen_offsets_S1)
