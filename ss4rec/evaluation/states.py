"""The model's state before each target of a batch: one pass over each history, or over each prefix of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from ss4rec.data.batches.batch import EvalBatch
from ss4rec.data.batches.windows import HOUR_S
from ss4rec.model.last_state import Encoder, encode_all

PREFIX_TOKENS = 1 << 19
"""Tokens in memory at a time where every target needs a pass of its own."""


def target_states(
    model: Encoder, batch: EvalBatch, device: torch.device, unknown_gap_s: float | None = None
) -> Tensor:
    """Return the state from which each target is ranked, `[S, D]`.

    The model is causal, so one pass over a history gives the state before each of its targets. That holds as long as
    the gap before a target may be read (or no model reads it). Where it must stay unknown, the last gap of each target
    differs from the one that later targets of the same history see, and each target gets a pass over its own prefix.

    Args:
        model: the model.
        batch: histories and targets.
        device: where the model is.
        unknown_gap_s: stands in for the gap to each target, in seconds; None: the gaps of the batch are read.
    """
    if unknown_gap_s is None:
        return encode_all(model, batch, device)[batch.last_S.to(device)]
    if not batch.shares_histories:
        return encode_all(model, _hide_times(batch, unknown_gap_s), device)[batch.last_S.to(device)]
    parts = (_hide_times(part, unknown_gap_s) for part in prefixes(batch, PREFIX_TOKENS))
    return torch.cat([encode_all(model, part, device)[part.last_S.to(device)] for part in parts])


def prefixes(batch: EvalBatch, most_tokens: int) -> Iterator[EvalBatch]:
    """Yield the same targets in their order, each with a history of its own, at most `most_tokens` tokens at a time.

    What was seen is left out of them (`seen_X` is the batch's).
    """
    last_S = batch.last_S.cpu()
    first_S = batch.offsets_S1[torch.searchsorted(batch.offsets_S1, last_S, right=True) - 1]
    ends_S = torch.cumsum(last_S + 1 - first_S, 0)
    begin, done = 0, 0
    while begin < len(last_S):
        stop = int(torch.searchsorted(ends_S, done + most_tokens, right=True))
        part = slice(begin, max(stop, begin + 1))
        begin, done = part.stop, int(ends_S[part.stop - 1])
        yield _own_histories(batch, first_S[part], last_S[part], part)


def _own_histories(batch: EvalBatch, first_S: Tensor, last_S: Tensor, part: slice) -> EvalBatch:
    """Return some targets of a batch with a history of their own each: tokens `first` to `last`."""
    lengths_S = last_S + 1 - first_S
    offsets_S1 = torch.cat([torch.zeros(1, dtype=torch.int64), torch.cumsum(lengths_S, 0)])
    token_T = torch.arange(int(offsets_S1[-1])) + torch.repeat_interleave(
        first_S - offsets_S1[:-1], lengths_S
    )
    token_T = token_T.to(batch.items_T.device)
    return replace(
        batch,
        users_S=batch.users_S[part],
        items_T=batch.items_T[token_T],
        gaps_T=batch.gaps_T[token_T],
        hours_T=batch.hours_T[token_T],
        ratings_T=batch.ratings_T[token_T],
        profiles_TF=batch.profiles_TF[token_T],
        offsets_S1=offsets_S1,
        last_S=offsets_S1[1:] - 1,
        targets_S=batch.targets_S[part],
        target_times_S=batch.target_times_S[part],
        last_times_S=batch.last_times_S[part],
        histories_S=batch.histories_S[part],
        weights_S=batch.weights_S[part],
    )


def _hide_times(batch: EvalBatch, unknown_gap_s: float) -> EvalBatch:
    """Put a fixed gap, and the hour that follows from it, in the place of what the target's time gave away."""
    last_S = batch.last_S.to(batch.gaps_T.device)
    guessed_S = (batch.last_times_S + round(unknown_gap_s)) // HOUR_S
    return replace(
        batch,
        gaps_T=batch.gaps_T.index_fill(0, last_S, unknown_gap_s),
        hours_T=batch.hours_T.index_copy(0, last_S, guessed_S),
    )
