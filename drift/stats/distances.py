"""Distances between user-weighted histograms, for one pair or for thousands of permuted pairs at once.

Shapes: `M` pairs (permutations, bootstrap draws, windows), `K` bins of all signals side by side, `S` signals.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating[Any]]


class Binned(Protocol):
    """What a distance needs to know of a signal."""

    @property
    def size(self) -> int:
        """Number of bins."""

    @property
    def distance(self) -> str:
        """`w1`, `ks` or `js`."""

    @property
    def width(self) -> float:
        """Width of a bin in the signal's unit (for `w1`)."""


class Named(Binned, Protocol):
    """A signal with a name."""

    @property
    def name(self) -> str:
        """Name of the signal."""


def slices(signals: Sequence[Binned]) -> list[slice]:
    """Return where each signal's bins lie among the `K` columns."""
    ends = np.cumsum([signal.size for signal in signals]).tolist()
    return [slice(end - signal.size, end) for signal, end in zip(signals, ends, strict=True)]


def named_slices(signals: Sequence[Named]) -> dict[str, slice]:
    """Return `slices` by the signals' names."""
    return dict(zip((signal.name for signal in signals), slices(signals), strict=True))


def mean_histograms(sums_MK: Array, weights_MS: Array, signals: Sequence[Binned]) -> Array:
    """Divide summed user histograms by the number of users behind them; a signal nobody has is a row of zeros."""
    safe_MS = np.maximum(weights_MS, np.finfo(weights_MS.dtype).tiny)
    return np.asarray(sums_MK / np.repeat(safe_MS, [signal.size for signal in signals], axis=-1))


def distances(ref_MK: Array, cur_MK: Array, signals: Sequence[Binned]) -> Array:
    """Return `[M, S]` distances between mean histograms of reference and current users.

    `ks`: largest gap between the cumulated histograms (0 to 1). `w1`: area between them, in the signal's unit.
    `js`: Jensen-Shannon distance in base 2 (0 to 1), for labels without an order.
    """
    columns = []
    for signal, part in zip(signals, slices(signals), strict=True):
        if signal.distance == "js":
            columns.append(_jensen_shannon(ref_MK[..., part], cur_MK[..., part]))
            continue
        gap_MB = np.abs(np.cumsum(cur_MK[..., part] - ref_MK[..., part], axis=-1))
        columns.append(gap_MB.max(axis=-1) if signal.distance == "ks" else gap_MB.sum(axis=-1) * signal.width)
    return np.stack(columns, axis=-1)


def mean_shift(ref_MK: Array, cur_MK: Array, signals: Sequence[Binned]) -> Array:
    """Return `[M, S]` shifts of the mean bin, current minus reference, in the signal's unit; 0 for `js` signals."""
    shifts = []
    for signal, part in zip(signals, slices(signals), strict=True):
        position_B = np.arange(signal.size) * (0.0 if signal.distance == "js" else signal.width)
        shifts.append((cur_MK[..., part] - ref_MK[..., part]) @ position_B)
    return np.stack(shifts, axis=-1)


def _jensen_shannon(ref_MB: Array, cur_MB: Array) -> Array:
    """Square root of the Jensen-Shannon divergence in bits; an empty histogram differs from none (0)."""
    middle_MB = (ref_MB + cur_MB) / 2

    def divergence(part_MB: Array) -> Array:
        ratio_MB = np.divide(
            part_MB, middle_MB, out=np.ones_like(part_MB), where=(part_MB > 0) & (middle_MB > 0)
        )
        return np.asarray((part_MB * np.log2(ratio_MB)).sum(axis=-1))

    return np.asarray(np.sqrt(np.maximum((divergence(ref_MB) + divergence(cur_MB)) / 2, 0.0)))
