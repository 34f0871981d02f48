"""Features of items as a second row beside the learned one: what an item is, for items that training never saw too.

A feature is pairs (row of a table, weight): one for a category, several for tags and words, the value of a number as a
weight. Vectors go through a matrix. Both parts are added to the item's own learned row. In training a share of the
learned rows is left out at each step (`ModelConfig.id_dropout`), so that the features learn to stand alone; an item
that never trained has them alone.

Items 1 to `trained` have training events; cold items follow (`ss4rec.protocol.plan`), so that training sees a prefix.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ss4rec.errors import CheckpointError
from ss4rec.model.columns import ItemColumns


@dataclass(frozen=True)
class ItemCodes:
    """Features of all items as numbers, on the host; item 0 is padding and has none."""

    columns: ItemColumns
    offsets_V1: Tensor
    """Where the pairs of each item begin and end, int32."""
    codes_N: Tensor
    """Row of the table, int32."""
    weights_N: Tensor
    """float32."""
    vectors_VF: Tensor
    """All vectors beside one another, float32; zero where unknown."""

    def described(self) -> Tensor:
        """Return which items have any feature, bool `[V]`."""
        return (self.offsets_V1.diff() > 0) | (self.vectors_VF != 0).any(1)


class ItemFeatures(nn.Module):
    """Rows of all items by their features. What features items have is in its buffers.

    Args:
        dim: width of a row.
        num_items: items 1..num_items.
        columns: sizes.
        init_std: standard deviation of weights at the start: not 0, since a row may have to be scaled to length 1.
    """

    offsets_V1: Tensor
    codes_N: Tensor
    weights_N: Tensor
    vectors_VF: Tensor
    trained: Tensor
    back_offsets_C1: Tensor
    back_items_N: Tensor
    back_weights_N: Tensor
    described_V: Tensor

    def __init__(self, dim: int, num_items: int, columns: ItemColumns, init_std: float) -> None:
        super().__init__()
        rows, pairs = columns.rows, columns.pairs
        with torch.random.fork_rng([]):  # other weights begin as they do without features
            self.table = nn.Parameter(init_std * torch.randn(rows, dim))
            vectors = nn.Parameter(init_std * torch.randn(columns.dims, dim))
        self.vectors = vectors if columns.dims else None
        self.register_buffer("offsets_V1", torch.zeros(num_items + 2, dtype=torch.int32))
        self.register_buffer("codes_N", torch.zeros(pairs, dtype=torch.int32))
        self.register_buffer("weights_N", torch.zeros(pairs))
        self.register_buffer("vectors_VF", torch.zeros(num_items + 1, columns.dims))
        self.register_buffer("trained", torch.tensor(num_items, dtype=torch.int32))
        self.num_trained = num_items
        """Items that training has seen, as a number on the host."""
        self.register_buffer("described_V", torch.zeros(num_items + 1, dtype=torch.bool), persistent=False)
        # The same pairs by row of the table: the gradient is a sum over them, in a fixed order.
        self.register_buffer("back_offsets_C1", torch.zeros(rows + 1, dtype=torch.int32), persistent=False)
        self.register_buffer("back_items_N", torch.zeros(pairs, dtype=torch.int32), persistent=False)
        self.register_buffer("back_weights_N", torch.zeros(pairs), persistent=False)

    @torch.no_grad()
    def fill(self, codes: ItemCodes, trained: int) -> None:
        """Say which features each item has, and how many items have training events."""
        self.offsets_V1.copy_(codes.offsets_V1)
        self.codes_N.copy_(codes.codes_N)
        self.weights_N.copy_(codes.weights_N)
        self.vectors_VF.copy_(codes.vectors_VF)
        self.trained.fill_(trained)
        self._index()

    def forward(self) -> Tensor:
        """Return `[V, D]`; row 0 is zero."""
        forth = (self.codes_N, self.offsets_V1, self.weights_N)
        back = (self.back_items_N, self.back_offsets_C1, self.back_weights_N)
        rows_VD: Tensor = _BagSums.apply(self.table, *forth, *back)  # type: ignore[no-untyped-call]  # torch leaves it so
        if self.vectors is not None:
            rows_VD = rows_VD + self.vectors_VF.to(self.vectors.dtype) @ self.vectors
        return rows_VD

    def kept(self, dropout: float) -> Tensor:
        """Return which learned rows count now, bool `[V, 1]`: those that trained, less a share left out by chance.

        An item without features keeps its learned row, for it has nothing else.
        """
        size = len(self.vectors_VF)
        kept_V = torch.arange(size, device=self.trained.device) <= self.trained
        if dropout:
            left_out_V = torch.rand(size, device=kept_V.device) < dropout
            kept_V = kept_V & ~(left_out_V & self.described_V)
        return kept_V[:, None]

    def _index(self) -> None:
        """Sort the pairs by row of the table.

        Raises:
            CheckpointError: if they are no pairs of these items and rows.
        """
        offsets_V1, codes_N = self.offsets_V1.long(), self.codes_N.long()
        lengths_V, rows, trained = offsets_V1.diff(), len(self.table), int(self.trained)
        in_order = (
            int(offsets_V1[0]) == 0 and int(offsets_V1[-1]) == len(codes_N) and bool((lengths_V >= 0).all())
        )
        if not in_order or (len(codes_N) and not 0 <= int(codes_N.min()) <= int(codes_N.max()) < rows):
            raise CheckpointError("features of items: offsets or codes are out of range; it is damaged")
        if not 0 <= trained < len(lengths_V):
            raise CheckpointError(
                f"features of items: {trained} of {len(lengths_V) - 1} items trained; it is damaged"
            )
        self.num_trained = trained
        items_N = torch.repeat_interleave(torch.arange(len(lengths_V), device=codes_N.device), lengths_V)
        order_N = codes_N.argsort(stable=True)
        self.back_items_N.copy_(items_N[order_N])
        self.back_weights_N.copy_(self.weights_N[order_N])
        counts_C = torch.bincount(codes_N, minlength=rows)
        self.back_offsets_C1[1:] = counts_C.cumsum(0)
        self.described_V.copy_((lengths_V > 0) | (self.vectors_VF != 0).any(1))

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        missing, wrong = args[4], args[6]
        if not missing and not wrong:  # else torch says what does not fit
            self._index()


class _BagSums(torch.autograd.Function):
    """Weighted sums of rows; the gradient is one too, by the pairs in their other order, so in a fixed order."""

    @staticmethod
    def forward(
        ctx: Any,
        table_CD: Tensor,
        codes_N: Tensor,
        offsets_V1: Tensor,
        weights_N: Tensor,
        items_N: Tensor,
        offsets_C1: Tensor,
        back_weights_N: Tensor,
    ) -> Tensor:
        """Return each item's sum of rows, `[V, D]`."""
        ctx.save_for_backward(items_N, offsets_C1, back_weights_N)
        return _sums(table_CD, codes_N, offsets_V1, weights_N)

    @staticmethod
    def backward(ctx: Any, grad_VD: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradient of the table, `[C, D]`."""
        return _sums(grad_VD.contiguous(), *ctx.saved_tensors), *[None] * 6


def _sums(rows_XD: Tensor, index_N: Tensor, offsets_Y1: Tensor, weights_N: Tensor) -> Tensor:
    """Return Σ weight * row over each stretch of the index, `[Y, D]`."""
    found: Tensor = F.embedding_bag(
        index_N,
        rows_XD,
        offsets_Y1,
        mode="sum",
        per_sample_weights=weights_N.to(rows_XD.dtype),
        include_last_offset=True,
    )
    return found
