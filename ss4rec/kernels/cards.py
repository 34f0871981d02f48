"""What a GPU can hold, by its compute capability, and the tiles of the softmax kernels that fit it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Card:
    """A kind of GPU.

    Sources: CUDA C++ Programming Guide, "Technical Specifications per Compute Capability"; memory rates and matrix
    rates (dense bf16) are the vendor's.
    """

    arch: int
    """Compute capability, as in sm_86."""
    example: str
    """A card of this kind."""
    shared_bytes: int
    """Shared memory that one program may ask for."""
    registers: int = 65_536
    """32-bit registers of a multiprocessor, which the threads of a program share."""


CARDS = tuple(
    Card(arch, example, kib << 10)
    for arch, example, kib in (
        (80, "A100", 163),
        (86, "A6000", 99),
        (89, "L40S", 99),
        (90, "H100", 227),
        (100, "B200", 227),
        (120, "RTX PRO 6000", 99),
    )
)
"""The kinds of card that every kernel is compiled for in tests."""

HOPPER = 90
"""From here to `CONSUMER` matrix instructions read shared memory. Elsewhere their operands are registers, and tiles are
smaller."""
BLACKWELL = 100
CONSUMER = 120

Tile = tuple[int, int, int, int]
"""Rows, items, stages, warps of a program."""

WIDE_SHARED: dict[tuple[torch.dtype, bool], dict[int, Tile]] = {
    (torch.bfloat16, True): {64: (128, 64, 3, 4), 256: (64, 64, 2, 4), 512: (64, 32, 2, 8)},
    (torch.bfloat16, False): {128: (128, 64, 2, 4), 256: (64, 64, 2, 4), 512: (64, 32, 2, 8)},
    (torch.float32, True): {128: (64, 32, 1, 4), 256: (32, 32, 1, 4), 512: (16, 16, 1, 4)},
    (torch.float32, False): {128: (64, 32, 1, 4), 256: (32, 32, 1, 4), 512: (16, 16, 1, 4)},
}
"""By type and whether the kernel walks over items: the tile up to each width. Up to 256 measured on an H100."""
SMALL_SHARED: dict[tuple[torch.dtype, bool], dict[int, Tile]] = {
    (torch.bfloat16, True): {
        32: (64, 64, 2, 4),
        64: (64, 32, 3, 4),
        128: (64, 64, 2, 8),
        256: (32, 32, 2, 4),
        512: (16, 32, 2, 4),
    },
    (torch.bfloat16, False): {
        32: (64, 64, 2, 4),
        64: (64, 32, 2, 4),
        128: (64, 64, 2, 4),
        256: (32, 32, 2, 4),
        512: (32, 16, 2, 8),
    },
    (torch.float32, True): {64: (32, 32, 1, 4), 128: (16, 32, 1, 4), 512: (16, 16, 1, 4)},
    (torch.float32, False): {64: (32, 32, 1, 4), 128: (32, 16, 1, 4), 512: (16, 16, 1, 4)},
}
"""The same for cards whose programs have 99 KiB and whose matrix instructions read registers: the largest tiles whose
values the compiler keeps in registers (compiled for sm_86; not timed on such a card)."""
BLACKWELL_FORWARD: dict[torch.dtype, dict[int, Tile]] = {
    torch.bfloat16: {64: (64, 64, 2, 8), 128: (64, 64, 2, 4)},
    torch.float32: {64: (64, 32, 1, 4), 128: (32, 32, 1, 4)},
}
"""For narrow rows on sm_100, where the compiler spills the H100's tiles (compiled; not timed on such a card)."""
MAX_WIDTH = 512
NARROW = 128
"""Up to this width the softmax is faster with logits in registers, if no items are held."""
PART_LOGITS = 1 << 27
"""Logits of the softmax in memory at a time: 256 MiB of bfloat16. Four times as many would be 6 % faster."""


def stores_logits(dim: int, narrow_products: bool, held: bool) -> bool:
    """Return whether the softmax is faster with logits in memory than in registers; measured on an H100.

    Args:
        dim: width of hidden states and item rows.
        narrow_products: whether the matrix products' inputs are bfloat16.
        held: whether held items have a logit of their own.
    """
    return narrow_products and (held or dim > NARROW)


def softmax_tile(dim: int, dtype: torch.dtype, *, walks_items: bool, arch: int) -> dict[str, Any]:
    """Return the shape of a program of the softmax kernels: its sums and one tile of logits must stay in registers.

    Args:
        dim: width of hidden states and item rows.
        dtype: type of the matrix products' inputs, float32 or bfloat16.
        walks_items: the forward kernel, which walks over items; else the items' gradient.
        arch: compute capability of the card, as in 86.

    Raises:
        ValueError: if `dim` is above `MAX_WIDTH` (`resolve_loss_backend` refuses it before).
    """
    tiles = WIDE_SHARED if HOPPER <= arch < CONSUMER else SMALL_SHARED
    widths = tiles[dtype, walks_items]
    if BLACKWELL <= arch < CONSUMER and walks_items:
        widths = BLACKWELL_FORWARD[dtype] | {width: tile for width, tile in widths.items() if width > 128}
    rows, items, stages, warps = widths[min(width for width in widths if width >= dim)]
    return {
        "BLOCK_R": rows,
        "BLOCK_V": items,
        "num_stages": stages,
        "num_warps": warps,
        "PRECISION": "ieee" if dtype == torch.bfloat16 else "tf32x3",
    }
