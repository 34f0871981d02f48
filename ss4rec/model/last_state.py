"""The state after a history's last event, and the scores that follow: what ranking and serving ask of a model."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from ss4rec.model.habits import Asked, Events
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

    def scores(
        self, hidden_BD: Tensor, seen_X: Tensor, seen_offsets_B1: Tensor, asked: Asked | None = None
    ) -> ItemScores:
        """Return the scores of all items."""
        ...


def encode_all(
    model: Encoder,
    batch: Histories,
    device: torch.device | str = "cpu",
    elapsed_T: Tensor | None = None,
) -> Tensor:
    """Return the hidden state after every event of the histories, `[T, D]` on `device`, where the model is.

    Args:
        model: the model.
        batch: the histories.
        device: where the model is.
        elapsed_T: see `Context.elapsed_T`; on `device`.
    """
    events = events_of(batch, device)
    context = replace(Context.of(batch, device), elapsed_T=elapsed_T)
    return model.encode(events.items_T, events.gaps_T, events.segments, context)


def events_of(batch: Histories, device: torch.device | str = "cpu") -> Events:
    """Return the events of the histories on `device`."""
    return Events(batch.items_T.to(device), batch.gaps_T.to(device), Segments(batch.offsets_S1, device))


def encode_last(model: Encoder, batch: Histories, device: torch.device | str = "cpu") -> Tensor:
    """Return the hidden state after each history's last event, `[S, D]` on `device`, where the model is."""
    return encode_all(model, batch, device)[batch.offsets_S1[1:].to(device) - 1]


def score_last(model: Encoder, batch: Histories, device: torch.device | str = "cpu") -> ItemScores:
    """Return the scores of all items after each history."""
    asked = Asked.after(events_of(batch, device))
    return model.scores(encode_last(model, batch, device), batch.seen_X, batch.seen_offsets_S1, asked)
