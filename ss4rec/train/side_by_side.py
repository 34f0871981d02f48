"""Pieces of work side by side on one card, each on a stream of its own.

A step of one small model does not fill a large card: its kernels are many and short, and each waits for the one before.
Members of an ensemble share nothing but the batch, so the card may run their kernels at the same time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


class SideBySide:
    """Streams for pieces of work that do not need one another.

    Autograd runs backward passes on the streams of the forward passes and joins them, so both directions run side by
    side. Meant for work that is captured as a CUDA graph: a host that launches kernel by kernel keeps no two streams
    busy. What the pieces share must be there before they begin: a value that the first of them computes and keeps may
    be read by another before it is written.

    Args:
        pieces: how many run at the same time.
        device: the card.
    """

    def __init__(self, pieces: int, device: torch.device) -> None:
        self._streams = [torch.cuda.Stream(device) for _ in range(pieces - 1)]

    def run(self, pieces: Sequence[Callable[[], Tensor]]) -> list[Tensor]:
        """Run the pieces, the first on the current stream, and return their results once all can be read there."""
        current = torch.cuda.current_stream()
        first, *others = pieces
        results = []
        for stream, piece in zip(self._streams, others, strict=True):
            stream.wait_stream(current)
            with torch.cuda.stream(stream):
                results.append(piece())
        results.insert(0, first())
        for stream in self._streams:
            current.wait_stream(stream)
        return results
