"""The model's state before each target of a batch: one pass over each history, or over each prefix of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ss4rec.data.batches.batch import EvalBatch
from ss4rec.data.batches.windows import HOUR_S
from ss4rec.model.last_state import Encoder, encode_all

PREFIX_TOKENS = 1 << 19
"""Tokens in memory at a time where every target needs a pass of its own."""


def target_states(
    model: Encoder,
    batch: EvalBatch,
    device: torch.device,
    unknown_gap_s: float | None = None,
    asked_from_s: int | None = None,
) -> Tensor:
    """Return the state from which each target is ranked, `[S, D]`.

    The model is causal, so one pass over a history gives the state before each of its targets. That holds as long as
    the gap before a target may be read (or no model reads it). Where it must stay unknown, the last gap of a target
    differs from the one that later targets of the same history see; such a target gets a pass over its own prefix,
    unless what stands in for its gap is what the gap is.

    Args:
        model: the model.
        batch: histories and targets.
        device: where the model is.
        unknown_gap_s: stands in for the gap to each target, in seconds; None: the gaps of the batch are read.
        asked_from_s: moment before which nobody asks, for a model that reads it (`ModelConfig.horizon`).
    """

    def states(read: EvalBatch) -> Tensor:
        elapsed_T = None if asked_from_s is None else _elapsed(read, asked_from_s).to(device)
        return encode_all(model, read, device, elapsed_T)[read.last_S.to(device)]

    if unknown_gap_s is None:
        return states(batch)
    hidden, last_S = _hide_times(batch, unknown_gap_s), batch.last_S
    if not batch.shares_histories:
        return states(hidden)
    changed_T = (hidden.gaps_T != batch.gaps_T) | (hidden.hours_T != batch.hours_T)
    states_SD = states(batch)
    chosen_N = torch.nonzero(changed_T[last_S.to(changed_T.device)]).flatten().cpu()
    done = 0
    for part in prefixes(batch, PREFIX_TOKENS, chosen_N):
        own_ND = states(_hide_times(part, unknown_gap_s))
        states_SD[chosen_N[done : done + len(own_ND)].to(device)] = own_ND
        done += len(own_ND)
    return states_SD


def _elapsed(batch: EvalBatch, asked_from_s: int) -> Tensor:
    """Return the seconds from each target's last event to that moment, -1 where it is later, `[T]`; see `Context`."""
    elapsed_S = (asked_from_s - batch.last_times_S).float()
    elapsed_T = torch.full((len(batch.items_T),), -1.0, device=elapsed_S.device)
    return elapsed_T.index_copy(0, batch.last_S.to(elapsed_S.device), elapsed_S.clamp_min(-1.0))


def prefixes(batch: EvalBatch, most_tokens: int, chosen_N: Tensor | None = None) -> Iterator[EvalBatch]:
    """Yield targets in their order, each with a history of its own, at most `most_tokens` tokens at a time.

    Args:
        batch: histories and targets.
        most_tokens: a target with a longer history comes alone.
        chosen_N: numbers of the targets, rising; None: all.

    Yields:
        Batches without what was seen (`seen_X` is that of `batch`).
    """
    last_S = batch.last_S.cpu()
    if chosen_N is None:
        chosen_N = torch.arange(len(last_S))
    last_N = last_S[chosen_N]
    first_N = batch.offsets_S1[torch.searchsorted(batch.offsets_S1, last_N, right=True) - 1]
    ends_N = torch.cumsum(last_N + 1 - first_N, 0)
    begin, done = 0, 0
    while begin < len(last_N):
        stop = max(int(torch.searchsorted(ends_N, done + most_tokens, right=True)), begin + 1)
        part = slice(begin, stop)
        begin, done = stop, int(ends_N[stop - 1])
        yield _own_histories(batch, first_N[part], last_N[part], chosen_N[part])


def _own_histories(batch: EvalBatch, first_N: Tensor, last_N: Tensor, chosen_N: Tensor) -> EvalBatch:
    """Return some targets of a batch with a history of their own each: tokens `first` to `last`."""
    lengths_N = last_N + 1 - first_N
    offsets_N1 = torch.cat([torch.zeros(1, dtype=torch.int64), torch.cumsum(lengths_N, 0)])
    token_T = torch.arange(int(offsets_N1[-1])) + torch.repeat_interleave(
        first_N - offsets_N1[:-1], lengths_N
    )
    token_T, chosen_N = token_T.to(batch.items_T.device), chosen_N.to(batch.items_T.device)
    of_tokens = ("items_T", "gaps_T", "hours_T", "ratings_T", "profiles_TF")
    of_targets = ("users_S", "targets_S", "target_times_S", "last_times_S", "histories_S", "weights_S")
    taken: dict[str, Any] = {name: getattr(batch, name)[token_T] for name in of_tokens}
    taken |= {name: getattr(batch, name)[chosen_N] for name in of_targets}
    return replace(batch, **taken, offsets_S1=offsets_N1, last_S=offsets_N1[1:] - 1)


def _hide_times(batch: EvalBatch, unknown_gap_s: float) -> EvalBatch:
    """Put a fixed gap, and the hour that follows from it, in the place of what the target's time gave away."""
    last_S = batch.last_S.to(batch.gaps_T.device)
    guessed_S = (batch.last_times_S + round(unknown_gap_s)) // HOUR_S
    return replace(
        batch,
        gaps_T=batch.gaps_T.index_fill(0, last_S, unknown_gap_s),
        hours_T=batch.hours_T.index_copy(0, last_S, guessed_S),
    )
