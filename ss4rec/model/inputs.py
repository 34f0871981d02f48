"""What a model may know of an event beside its item and gap, and of an item beside its number.

Everything becomes a vector that is added: to the item's embedding where an event enters the model (`EventInputs`), or
to an item's row wherever that item is input or candidate (`ItemAttributes`). All shapes depend on the number of tokens
alone, so a training step can be recorded as a CUDA graph.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ss4rec.config import ModelConfig
from ss4rec.errors import UsageError
from ss4rec.model.columns import EVENT_CODES, DataColumns

if TYPE_CHECKING:
    from ss4rec.data.batches.batch import Histories, PackedBatch

RATING_CODES = 13
"""Unknown (not finite), and half steps from 0 to 5.5 and above."""
GAP_CODES = 64
"""Half octaves: code c stands for gaps g with c <= 2 log2(1 + g/s) < c + 1; the last is 100 years."""
HOURS, WEEKDAYS = 24, 7
DATE_KNOTS, KNOT_HOURS, FIRST_KNOT_HOUR = 512, 28 * 24, 219_144
"""Points in time 28 days apart from 1995-01-01 to 2034, between which date vectors are interpolated."""
PROFILE_CODES = 256
"""Largest number of different codes in users' profiles, with 0 for unknown."""
GENRE_COLUMNS, PERIOD_COLUMNS = 32, 32
ATTRIBUTE_COLUMNS = GENRE_COLUMNS + PERIOD_COLUMNS
"""Columns of the items' attributes: the most common genres, and five-year periods of release from 1880."""
WIDTHS = {
    "rating": RATING_CODES,
    "gap": GAP_CODES,
    "clock": HOURS + WEEKDAYS,
    "date": DATE_KNOTS,
    "profile": PROFILE_CODES,
}
"""Rows of the table of each input."""


@dataclass(frozen=True)
class Context:
    """What is known at each event beside its item and gap, on the model's device."""

    hours_T: Tensor
    """When the next item is asked for, whole unix hours: of the next event, or of the event itself where the data hide
    that (`DataConfig.target_time`)."""
    ratings_T: Tensor
    """The user's rating of the event's own item, float32; never that of the target."""
    profiles_TF: Tensor
    """Codes of the user's profile and, above `EVENT_CODES`, of the event's context; whole numbers, 0 for unknown."""
    elapsed_T: Tensor | None = None
    """Seconds since each event when a recommendation is asked for, float32, negative where nobody knows; None: nobody
    knows any. For models with `ModelConfig.horizon`."""

    @classmethod
    def of(cls, batch: PackedBatch | Histories, device: torch.device | str | None = None) -> Context:
        """Take the fields from a batch."""
        return cls(*(x.to(device) for x in (batch.hours_T, batch.ratings_T, batch.profiles_TF)))


class EventInputs(nn.Module):
    """Vectors of the inputs that `ModelConfig.inputs` and the columns of the data name, summed; zero at the start.

    Codes select rows of one table by a product with a matrix `[T, C]` of mostly zeros, not by look-up: with few codes
    and many tokens the gradient of a look-up would add thousands of rows to the same few addresses.
    """

    def __init__(self, config: ModelConfig, columns: DataColumns | None = None) -> None:
        super().__init__()
        columns = columns or DataColumns()
        self.names: tuple[str, ...] = config.inputs
        self.user_codes: tuple[int, ...] = ()
        """The only codes of profiles that are read; empty: all."""
        if columns.users and "profile" not in self.names:
            self.names, self.user_codes = (*self.names, "profile"), columns.user_codes
        widths = WIDTHS | {"context": sum(column.size for column in columns.context) + 1}
        if columns.context:
            self.names = (*self.names, "context")
        self.widths = {name: widths[name] for name in self.names}
        self.table = nn.Parameter(torch.zeros(sum(self.widths.values()), config.dim))

    def forward(self, gaps_T: Tensor, context: Context | None) -> Tensor:
        """Return `[T, D]`.

        Raises:
            UsageError: if there is no context, or none of what the model reads.
        """
        if context is None:
            raise UsageError(f"the model reads {', '.join(self.names)} of every event; pass a Context")
        if "profile" in self.names and context.profiles_TF.shape[1] == 0:
            raise UsageError(
                "the model reads users' profiles and these data have none (profiles.parquet); give data that have, or "
                "train without profile in model.inputs"
            )
        if self.user_codes:
            context = replace(context, profiles_TF=self._chosen(context.profiles_TF))
        device = gaps_T.device.type
        kind = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else self.table.dtype
        codes, weights, first = [], [], 0
        for name in self.names:
            for code_TX, weight_TX in _CODES[name](gaps_T, context):
                codes.append(code_TX + first)
                weights.append(weight_TX.to(kind).expand_as(code_TX))
            first += self.widths[name]
        chosen_TC = torch.zeros(gaps_T.shape[0], first, dtype=kind, device=gaps_T.device)
        chosen_TC.scatter_(1, torch.cat(codes, dim=1), torch.cat(weights, dim=1))
        return chosen_TC @ self.table

    def _chosen(self, profiles_TF: Tensor) -> Tensor:
        """Leave out codes of columns that the model does not read."""
        read_P = torch.zeros(PROFILE_CODES, dtype=torch.bool, device=profiles_TF.device)
        read_P[list(self.user_codes)] = True
        codes_TF = profiles_TF.long()
        return torch.where((codes_TF > EVENT_CODES) | read_P[codes_TF.clamp_max(EVENT_CODES)], profiles_TF, 0)


class ItemAttributes(nn.Module):
    """A vector for each genre and period of release, added to the rows of the items that have them; zero at first."""

    attributes_VA: Tensor

    def __init__(self, dim: int, num_items: int) -> None:
        super().__init__()
        self.register_buffer("attributes_VA", torch.zeros(num_items + 1, ATTRIBUTE_COLUMNS))
        self.table = nn.Parameter(torch.zeros(ATTRIBUTE_COLUMNS, dim))

    def forward(self) -> Tensor:
        """Return `[V, D]`; row 0 is zero."""
        return self.attributes_VA.to(self.table.dtype) @ self.table

    def of_items(self, items_T: Tensor) -> Tensor:
        """Return the rows of these items, `[T, D]`: of a few items without the product for all of them."""
        # An exported program is for any number of items, so its way must not depend on that.
        many = not torch.compiler.is_exporting() and items_T.shape[0] >= self.attributes_VA.shape[0]
        if self.training or many:
            return F.embedding(items_T, self())
        return self.attributes_VA[items_T].to(self.table.dtype) @ self.table


Codes = Iterator[tuple[Tensor, Tensor]]
"""Codes `[T, X]` and their weights, which broadcast to them."""


def _rating(gaps_T: Tensor, context: Context) -> Codes:
    known_T = torch.isfinite(context.ratings_T)
    half_steps_T = (
        torch.round(2 * context.ratings_T.nan_to_num(0.0, 0.0, 0.0)).long().clamp(0, RATING_CODES - 2)
    )
    yield torch.where(known_T, half_steps_T + 1, 0)[:, None], known_T[:, None]


def _gap(gaps_T: Tensor, context: Context) -> Codes:
    yield (2 * torch.log2(1 + gaps_T)).long().clamp(0, GAP_CODES - 1)[:, None], gaps_T.new_ones(1, 1)


def _clock(gaps_T: Tensor, context: Context) -> Codes:
    hour_T = context.hours_T.long()
    yield torch.stack([hour_T % HOURS, HOURS + hour_T // HOURS % WEEKDAYS], dim=1), gaps_T.new_ones(1, 1)


def _date(gaps_T: Tensor, context: Context) -> Codes:
    place_T = (context.hours_T - FIRST_KNOT_HOUR).float() / KNOT_HOURS
    place_T = place_T.clamp(0.0, DATE_KNOTS - 1.001)
    knot_T = place_T.long()
    share_T = place_T - knot_T
    yield torch.stack([knot_T, knot_T + 1], dim=1), torch.stack([1 - share_T, share_T], dim=1)


def _profile(gaps_T: Tensor, context: Context) -> Codes:
    codes_TF = context.profiles_TF.long()
    own_TF = torch.where(codes_TF <= EVENT_CODES, codes_TF, 0)
    yield own_TF, own_TF > 0


def _context(gaps_T: Tensor, context: Context) -> Codes:
    codes_TF = (context.profiles_TF.long() - EVENT_CODES).clamp_min(0)
    yield codes_TF, codes_TF > 0


_CODES = {
    "rating": _rating,
    "gap": _gap,
    "clock": _clock,
    "date": _date,
    "profile": _profile,
    "context": _context,
}
