"""Rows of a model's memory in less space: half of it as bfloat16, a quarter as 8-bit integers with a scale a group."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ss4rec.model.state import StateLayout

Precision = Literal["full", "bf16", "int8"]
GROUP = 64
"""Inputs of the convolution that share a scale; of the relation-aware states each channel has its own, since those of
different channels differ by orders of magnitude."""
LARGEST = 127
HEADROOM = 1.004
"""A scale is rounded to bfloat16, which may make it smaller by 1/256; the largest number must fit all the same."""


@dataclass(frozen=True)
class Packed:
    """Rows as they are kept.

    `int8` keeps the few states of the time-aware SSM, in which all of a history is added up, as bfloat16.
    """

    precision: Precision
    layout: StateLayout
    parts: tuple[Tensor, ...]
    """`full` and `bf16`: the rows. `int8`: time-aware states, codes and scales of inputs, codes and scales of
    relation-aware states; each `[B, ...]`."""

    @classmethod
    def of(cls, rows_BX: Tensor, precision: Precision, layout: StateLayout) -> Packed:
        """Pack rows."""
        if precision == "full":
            return cls(precision, layout, (rows_BX,))
        if precision == "bf16":
            return cls(precision, layout, (rows_BX.bfloat16(),))
        time_BX, past_BX, relation_BX = layout.by_kind(rows_BX)
        past = _to_codes(F.pad(past_BX, (0, -past_BX.shape[1] % GROUP)), GROUP)
        return cls(
            precision, layout, (time_BX.bfloat16(), *past, *_to_codes(relation_BX, layout.relation[1]))
        )

    def rows(self, kind: torch.dtype) -> Tensor:
        """Return the rows as numbers of a type, `[B, X]`."""
        if self.precision != "int8":
            return self.parts[0].to(kind)
        time_BX, past, past_scales, relation, relation_scales = self.parts
        past_BX = _from_codes(past, past_scales, kind)
        relation_BX = _from_codes(relation, relation_scales, kind)
        return self.layout.from_kinds(time_BX.to(kind), past_BX, relation_BX)

    def row(self, index: int) -> Packed:
        """Return one row with memory of its own."""
        rows = (part[index : index + 1].clone() for part in self.parts)
        return Packed(self.precision, self.layout, tuple(rows))

    @classmethod
    def join(cls, rows: Sequence[Packed]) -> Packed:
        """Put rows of the same precision and layout together."""
        parts = zip(*(row.parts for row in rows), strict=True)
        return cls(
            rows[0].precision,
            rows[0].layout,
            tuple(torch.cat(part) if len(part) > 1 else part[0] for part in parts),
        )

    @property
    def nbytes(self) -> int:
        """Bytes of all parts."""
        return sum(int(part.nbytes) for part in self.parts)


def _to_codes(values_BX: Tensor, group: int) -> tuple[Tensor, Tensor]:
    """Return whole numbers from -127 to 127, `[B, X]`, and the scale of each group, `[B, X / group]`."""
    groups_BGX = values_BX.unflatten(1, (-1, group))
    scales_BG = (groups_BGX.abs().amax(2) * (HEADROOM / LARGEST)).bfloat16()
    # A group of zeros stays zero.
    divisor_BG = torch.where(scales_BG > 0, scales_BG.to(values_BX.dtype), torch.inf)
    codes_BGX = torch.round(groups_BGX / divisor_BG[:, :, None]).clamp(-LARGEST, LARGEST)
    return codes_BGX.flatten(1).to(torch.int8), scales_BG


def _from_codes(codes_BX: Tensor, scales_BG: Tensor, kind: torch.dtype) -> Tensor:
    groups_BGX = codes_BX.to(kind).unflatten(1, (scales_BG.shape[1], -1))
    scaled_BGX: Tensor = groups_BGX * scales_BG.to(kind)[:, :, None]
    return scaled_BGX.flatten(1)
