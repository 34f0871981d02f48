"""Fills packed batches up to one of a few fixed shapes, so that a GPU can replay whole steps as CUDA graphs.

A batch is one row of 32-bit words: the token columns, the tokens that have a target, the offsets. One copy brings it
from page-locked memory to the device, another into the buffer that a graph reads. What fills it up are tokens of item
0 (a zero embedding) in sequences of their own, which have no target.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ss4rec.data.batches.batch import PackedBatch
from ss4rec.model.inputs import Context
from ss4rec.model.segments import FixedSegments, Segments

TOKEN_COLUMNS = ("items_T", "targets_T", "hours_T", "gaps_T", "ratings_T")
"""The columns of `PackedBatch` with an entry for every token; those of the profile follow."""
_FLOATS = ("gaps_T", "ratings_T")
SHAPES = 32
"""Numbers of tokens and of targets are rounded up to about this share of the most that a batch can have."""
LEAST_STEP = 256


@dataclass(frozen=True)
class BatchShape:
    """Sizes of a filled-up batch."""

    tokens: int
    rows: int
    sequences: int
    columns: int
    """Words of a token."""

    @property
    def words(self) -> int:
        """Number of 32-bit words."""
        return self.columns * self.tokens + self.rows + self.sequences + 1


@dataclass(frozen=True)
class StepInputs:
    """What the objective takes, on the device."""

    items_T: Tensor
    gaps_T: Tensor
    targets_T: Tensor
    segments: Segments
    rows_R: Tensor
    """Tokens that have a target; -1 fills up."""
    context: Context

    @classmethod
    def of(cls, batch: PackedBatch, segments: Segments) -> StepInputs:
        """Take a batch as it is."""
        context = Context.of(batch)
        return cls(batch.items_T, batch.gaps_T, batch.targets_T, segments, batch.rows_R, context)

    def tensors(self) -> list[Tensor]:
        """Return all tensors."""
        plain = [self.items_T, self.gaps_T, self.targets_T, self.rows_R, self.segments.offsets_S1]
        return [*plain, self.context.hours_T, self.context.ratings_T, self.context.profiles_TF]


class Stager:
    """Chooses shapes and fills them.

    Args:
        max_windows: most windows of a batch.
        max_len: most tokens of a window.
    """

    def __init__(self, max_windows: int, max_len: int) -> None:
        self.max_len = max_len
        most = max_windows * max_len
        self.step = max(LEAST_STEP, 1 << (most // SHAPES - 1).bit_length())
        self.most = self._up(most)
        """Tokens of the largest shape."""
        self.sequences = max_windows + -(-self.step // max_len)

    def shape(self, batch: PackedBatch) -> BatchShape:
        """Return the smallest shape that holds `batch`."""
        columns = len(TOKEN_COLUMNS) + batch.profiles_TF.shape[1]
        return BatchShape(self._up(batch.num_tokens), self._up(batch.num_targets), self.sequences, columns)

    def fill(self, batch: PackedBatch, shape: BatchShape, words_W: Tensor) -> None:
        """Write `batch` into `words_W`, int32 `[shape.words]` on the host."""
        target = self.views(words_W, shape)
        columns = (
            (target.items_T, batch.items_T),
            (target.targets_T, batch.targets_T),
            (target.gaps_T, batch.gaps_T),
            (target.context.hours_T, batch.hours_T),
            (target.context.ratings_T, batch.ratings_T),
            (target.context.profiles_TF, batch.profiles_TF),
        )
        for column_T, values_T in columns:
            column_T[: batch.num_tokens] = values_T
            column_T[batch.num_tokens :] = 0
        target.rows_R[: batch.num_targets] = batch.rows_R
        target.rows_R[batch.num_targets :] = -1
        offsets_S1 = target.segments.offsets_S1
        offsets_S1[: batch.num_sequences + 1] = batch.offsets_S1
        rest_S = batch.num_tokens + self.max_len * torch.arange(1, shape.sequences - batch.num_sequences + 1)
        offsets_S1[batch.num_sequences + 1 :] = rest_S.clamp_max(shape.tokens)

    def views(self, words_W: Tensor, shape: BatchShape) -> StepInputs:
        """Return the parts of `words_W` by name, without a copy."""
        columns, rows_R, offsets_S1 = words_W.split(
            [shape.columns * shape.tokens, shape.rows, shape.sequences + 1]
        )
        columns_CT = columns.view(shape.columns, shape.tokens)
        named = dict(zip(TOKEN_COLUMNS, columns_CT, strict=False))
        named |= {name: named[name].view(torch.float32) for name in _FLOATS}
        context = Context(named["hours_T"], named["ratings_T"], columns_CT[len(TOKEN_COLUMNS) :].T)
        return StepInputs(
            items_T=named["items_T"],
            targets_T=named["targets_T"],
            gaps_T=named["gaps_T"],
            segments=FixedSegments(offsets_S1, shape.tokens, self.max_len),
            rows_R=rows_R,
            context=context,
        )

    def _up(self, count: int) -> int:
        return max(1, -(-count // self.step)) * self.step
