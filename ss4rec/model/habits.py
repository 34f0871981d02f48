"""What people take again: a learned logit of every item that a history holds, by how often and how long ago.

Groceries, music and check-ins live from it: much of what comes next was there before. A state of a few hundred numbers
cannot hold hundreds of items with their counts and dates, so the model gets these as facts. The logit of item v after
event t of a history that holds it, last at event s, is

    base + table[count of v up to s, log2 of the seconds from s to the query] + places[log2 of the events from s to t]
    + item_v + u . h_t

with h_t the hidden state: some items are taken again more than others, some people repeat more than others.
"""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ss4rec.errors import UsageError
from ss4rec.model.item_scores import SeenItems
from ss4rec.model.losses import Repeats, log_sum_unheld, target_rows
from ss4rec.model.segments import Segments

AGES = 32
"""Octaves of seconds since an item was last taken: code c stands for ages a with c <= log2(1 + a/s) < c + 1."""
COUNTS = 4
"""How often it was taken: once, twice, three or four times, more."""
PLACES = 16
"""Octaves of events since then."""
MASKED = -1e4
"""A logit whose exponential is 0."""


@dataclass(frozen=True)
class Events:
    """What a model saw of some histories, packed: the arguments of `SequenceModel.encode`."""

    items_T: Tensor
    gaps_T: Tensor
    segments: Segments


@dataclass(frozen=True)
class Asked:
    """After which events of some histories scores are asked for."""

    events: Events
    last_S: Tensor
    """The token after which each score is asked for, int64; several may belong to one history."""
    gap_s: float | None = None
    """Seconds from there to the moment of asking, where the gaps of the events must not be read."""

    @classmethod
    def after(cls, events: Events) -> Asked:
        """Ask after the last event of each history."""
        return cls(events, events.segments.last_S)


class Window:
    """Packed events as a rectangle `[S, L]`, with what habits need of each.

    All shapes depend on the segments' sizes alone, so a step can be recorded as a CUDA graph.

    Args:
        events: the packed events.
        target_time: whether the gap of an event is the time to the next one (`DataConfig.target_time`).
    """

    def __init__(self, events: Events, target_time: bool) -> None:
        offsets_S1 = events.segments.offsets_S1.long()
        place_L = torch.arange(events.segments.max_len, device=offsets_S1.device)
        self.tokens = events.items_T.numel()
        self.inside_SL = place_L < offsets_S1.diff()[:, None]
        self.token_SL = (offsets_S1[:-1, None] + place_L).clamp_max(self.tokens - 1)
        self.items_SL = torch.where(self.inside_SL, events.items_T[self.token_SL].long(), 0)
        gaps_SL = torch.where(self.inside_SL, events.gaps_T[self.token_SL].double(), 0.0)
        until_SL = gaps_SL.cumsum(1)
        self.query_s_SL = until_SL.round().long()
        """When the next item is asked for after each event, as far as the data tell; seconds from the start."""
        self.clock_s_SL = (until_SL - gaps_SL).round().long() if target_time else self.query_s_SL
        """When each event happened."""
        same_SLL = self.items_SL[:, :, None] == self.items_SL[:, None, :]
        later_LL = place_L[None, :] > place_L[:, None]
        length = events.segments.max_len
        self.next_SL = torch.where(same_SLL & later_LL, place_L, length).amin(2)
        """Place of the item's next occurrence, L if there is none."""
        self.count_SL = (same_SLL & ~later_LL).sum(2)
        """How often the item occurred, this time included."""

    def rows(self, row_N: Tensor) -> Window:
        """Return the rectangle of these sequences, in this order; any of them may come several times."""
        chosen = copy(self)
        for name, values_SL in vars(self).items():
            if isinstance(values_SL, Tensor):
                setattr(chosen, name, values_SL[row_N])
        return chosen

    def to_tokens(self, values_SL: Tensor) -> Tensor:
        """Return the values in packed order, `[T]`; tokens of no sequence get 0."""
        index_SL = torch.where(self.inside_SL, self.token_SL, self.tokens)
        packed_T1 = values_SL.new_zeros(self.tokens + 1)
        return packed_T1.scatter(0, index_SL.flatten(), values_SL.flatten())[:-1]

    def held(self, place_SQ: Tensor) -> tuple[Tensor, Tensor]:
        """Say what the histories hold at some places.

        Returns:
            Whether the event of each column is its item's last one so far, bool `[S, Q, L]`, and the code of count and
            age, int32 `[S, Q, L]`.
        """
        place_L = torch.arange(self.items_SL.shape[1], device=place_SQ.device)
        place_SQ1 = place_SQ[:, :, None]
        held_SQL = (place_L <= place_SQ1) & (place_SQ1 < self.next_SL[:, None]) & (self.items_SL > 0)[:, None]
        query_SQ = self.query_s_SL.gather(1, place_SQ)
        age_SQL = query_SQ[:, :, None] - self.clock_s_SL[:, None]
        return held_SQL, _count_and_age(self.count_SL[:, None], age_SQL)


@dataclass(frozen=True)
class Held:
    """Items that histories hold, each once a history: facts that can be kept without the events."""

    row_X: Tensor
    """History, int64."""
    items_X: Tensor
    """Item, int64."""
    counts_X: Tensor
    """How often it occurred, int64."""
    ages_s_X: Tensor
    """Seconds from its last occurrence to the moment of asking, int64."""
    back_X: Tensor
    """Events since its last occurrence, int64."""


class Habits(nn.Module):
    """The learned logits; all zero at the start.

    Args:
        dim: width of the hidden state.
        num_items: items 1..num_items.
        target_time: see `Window`.
    """

    def __init__(self, dim: int, num_items: int, target_time: bool) -> None:
        super().__init__()
        self.target_time = target_time
        self.base = nn.Parameter(torch.zeros(()))
        self.table = nn.Parameter(torch.zeros(COUNTS * AGES))
        self.places = nn.Parameter(torch.zeros(PLACES))
        self.items = nn.Parameter(torch.zeros(num_items + 1, 1))
        self.state = nn.Parameter(torch.zeros(dim))

    def logits(self, hidden_SQD: Tensor, window: Window, place_SQ: Tensor) -> tuple[Tensor, Tensor]:
        """Return which events count (bool `[S, Q, L]`, see `Window.held`) and the logit of each, `[S, Q, L]`."""
        held_SQL, code_SQL = window.held(place_SQ)
        place_L = torch.arange(window.items_SL.shape[1], device=place_SQ.device)
        back_SQL = (place_SQ[:, :, None] - place_L).clamp_min(0)
        item_SL = F.embedding(window.items_SL, self.items).squeeze(2)
        own_SQ = (hidden_SQD.to(self.state.dtype) * self.state).sum(2)
        return held_SQL, self._shared(code_SQL, back_SQL) + item_SL[:, None] + own_SQ[:, :, None]

    def of_held(self, hidden_SD: Tensor, held: Held) -> Tensor:
        """Return the logit of each fact, `[X]`, for the hidden states of the histories."""
        code_X = _count_and_age(held.counts_X, held.ages_s_X)
        own_S = (hidden_SD.to(self.state.dtype) * self.state).sum(1)
        item_X = F.embedding(held.items_X, self.items).squeeze(1)
        return self._shared(code_X, held.back_X) + item_X + own_S[held.row_X]

    def _shared(self, code_X: Tensor, back_X: Tensor) -> Tensor:
        """Return what all items and users share, for codes of count and age and for events since."""
        octave_X = torch.log2(1.0 + back_X).int().clamp_max(PLACES - 1)
        # One step of Adam moves every parameter by about the learning rate: what all share may move faster.
        return 10.0 * self.base + 4.0 * (look_up(self.table, code_X) + look_up(self.places, octave_X))

    def unknown_logit(self) -> Tensor:
        """Return the logit of an item that is older than the window: as one taken once, as long ago as there is."""
        oldest = self.table.view(COUNTS, AGES)[0, -8:].mean()
        return (10.0 * self.base + 4.0 * oldest).detach()


def _count_and_age(counts_X: Tensor, ages_s_X: Tensor) -> Tensor:
    """Return the code of count (1, 2, 3 or 4, 5 and more) and age, int32."""
    age_X = torch.log2(1 + ages_s_X.clamp_min(0).float()).int().clamp_max(AGES - 1)
    count_X = (counts_X > 1).int() + (counts_X > 2).int() + (counts_X > 4).int()
    return count_X * AGES + age_X


def held_logits(
    members: list[tuple[Habits, Tensor]], held: Held, seen: SeenItems, member_share: float = 1.0
) -> Tensor:
    """Return what `seen_logits` does, `[P]`, where each whole history is given as facts; they make up all of `seen`."""
    total_X = torch.zeros((), device=seen.device)
    for own, hidden_SD in members:
        total_X = total_X + own.of_held(hidden_SD / member_share, held) / len(members)
    place_X, _ = seen.find(held.row_X, held.items_X)
    return torch.empty_like(total_X).index_copy(0, place_X, total_X)


def seen_logits(
    members: list[tuple[Habits, Tensor]], asked: Asked, seen: SeenItems, member_share: float = 1.0
) -> Tensor:
    """Return what is added to the score of each pair of `seen` (target and item), `[P]`.

    Args:
        members: habits of each member of the model and its hidden states before each target, `[S, D]`.
        asked: what the model saw, and after which events; whole histories may be longer.
        seen: the whole histories before each target.
        member_share: divided out of the hidden states, which an ensemble has scaled.
    """
    habits = members[0][0]
    offsets_S1 = asked.events.segments.offsets_S1.long()
    row_S = torch.searchsorted(offsets_S1, asked.last_S, right=True) - 1
    window = Window(asked.events, habits.target_time).rows(row_S)
    if len(row_S) != seen.num_rows:
        raise UsageError(f"{len(row_S)} moments of asking for {seen.num_rows} histories")
    place_S1 = (asked.last_S - offsets_S1[row_S])[:, None]
    if asked.gap_s is not None:
        window.query_s_SL = window.clock_s_SL + round(asked.gap_s)
    total_SL, older = torch.zeros((), device=seen.device), torch.zeros((), device=seen.device)
    for own, hidden_SD in members:
        held_S1L, logit_S1L = own.logits(hidden_SD[:, None] / member_share, window, place_S1)
        total_SL = total_SL + logit_S1L[:, 0] / len(members)
        older = older + own.unknown_logit() / len(members)
    row_SL = torch.arange(len(window.items_SL), device=seen.device)[:, None].expand_as(window.items_SL)
    held_SL = held_S1L[:, 0]
    place_X, known_X = seen.find(row_SL[held_SL], window.items_SL[held_SL])
    logits_P = older.expand(seen.num_pairs).clone()
    logits_P[place_X[known_X]] = total_SL[held_SL][known_X]
    return logits_P


def habit_cross_entropy(
    hidden_TD: Tensor,
    weight_VD: Tensor,
    targets_T: Tensor,
    habits: Habits,
    events: Events,
    rows_R: Tensor | None = None,
    *,
    chunk_tokens: int = 8192,
    label_smoothing: float = 0.0,
    backend: str = "reference",
) -> Tensor:
    """Sum the full-softmax cross entropy where items of the history have a logit of their own besides.

    The normaliser has two parts: items that the history does not hold, over which kernels walk, and those that it
    holds, which are few: they are the products of a window's states with its own items. Arguments as in
    `losses.cross_entropy`.
    """
    rows_R = target_rows(targets_T) if rows_R is None else rows_R
    device = hidden_TD.device.type
    kind = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight_VD.dtype
    # A logit of 0, which nobody looks at.
    repeats = Repeats(events.items_T, events.segments, hidden_TD.new_zeros(()))
    unheld_R = log_sum_unheld(
        hidden_TD, weight_VD, rows_R, repeats, chunk_tokens=chunk_tokens, kind=kind, backend=backend
    )
    with torch.autocast(device, enabled=False):
        wide = torch.promote_types(weight_VD.dtype, torch.float32)
        # Rounded as the kernels round, multiplied in full.
        hidden_TD, items_VD = hidden_TD.to(kind).to(wide), weight_VD.to(kind).to(wide)
        held_T, bonus_T = _held(hidden_TD, items_VD, targets_T, habits, events)
        token_R = rows_R.clamp_min(0).long()
        hidden_RD = hidden_TD[token_R]
        target_R = (hidden_RD * F.embedding(targets_T[token_R].long(), items_VD)).sum(1) + bonus_T[token_R]
        loss_R = torch.logaddexp(unheld_R, held_T[token_R]) - (1 - label_smoothing) * target_R
        if label_smoothing:
            loss_R = loss_R - label_smoothing * (hidden_RD @ weight_VD[1:].to(wide).mean(0))
        return torch.where(rows_R >= 0, loss_R, 0.0).sum()


def _held(
    hidden_TD: Tensor, weight_VD: Tensor, targets_T: Tensor, habits: Habits, events: Events
) -> tuple[Tensor, Tensor]:
    """Return log Σ exp(logit) over the items that each event's history holds, and what its target gets, `[T]` each."""
    window = Window(events, habits.target_time)
    place_SQ = torch.arange(window.items_SL.shape[1], device=hidden_TD.device).expand_as(window.items_SL)
    hidden_SLD = hidden_TD[window.token_SL]
    product_SLL = hidden_SLD @ F.embedding(window.items_SL, weight_VD).mT
    held_SLL, logit_SLL = habits.logits(hidden_SLD, window, place_SQ)
    score_SLL = torch.where(held_SLL, product_SLL + logit_SLL, MASKED)
    targets_SL = torch.where(window.inside_SL, targets_T[window.token_SL].long(), 0)
    taken_SLL = held_SLL & (targets_SL[:, :, None] == window.items_SL[:, None, :])
    bonus_SL = torch.where(taken_SLL, logit_SLL, 0.0).sum(2)
    return window.to_tokens(score_SLL.logsumexp(2)), window.to_tokens(bonus_SL)


def look_up(table_N: Tensor, code_X: Tensor) -> Tensor:
    """Return `table_N[code_X]` whose gradient is summed in a fixed order: many codes, few rows."""
    found: Tensor = _LookUp.apply(table_N, code_X)  # type: ignore[no-untyped-call]  # torch leaves it so
    return found


class _LookUp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, table_N: Tensor, code_X: Tensor) -> Tensor:
        """Return the rows of `code_X`, `[X]`."""
        ctx.save_for_backward(code_X)
        ctx.size = table_N.numel()
        return table_N[code_X]

    @staticmethod
    def backward(ctx: Any, grad_X: Tensor) -> tuple[Tensor, None]:
        """Return the gradient of the table, `[N]`."""
        (code_X,) = ctx.saved_tensors
        if grad_X.device.type == "cuda":
            from ss4rec.kernels.buckets_triton import bucket_sums

            return bucket_sums(grad_X, code_X, ctx.size), None
        sums_N = torch.zeros(ctx.size, dtype=grad_X.dtype, device=grad_X.device)
        return sums_N.index_add(0, code_X.flatten(), grad_X.flatten()), None
