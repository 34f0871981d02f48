"""Columns about the event that people brought (`context.NAME` of shards): device, price, kind of event and the like.

Numbers have bins around their median, values a bin each, or an alphabetic range of them where there are too many. A
later report on grown data keeps the bins of the first one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drift.signals.definitions import Signal, column_signal
from ss4rec.data.prepared.manifest import Feature
from ss4rec.data.sources.rows import CONTEXT

VALUES = 30
"""Bins of values at most."""
STEPS = (-2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0, 4.0)
"""Edges of numbers: half distances of quartiles from the median."""


@dataclass(frozen=True)
class ContextColumn:
    """One column and its bins; bin 0 is `unknown`."""

    signal: Signal
    edges: tuple[float, ...] = ()
    """Of a number."""
    firsts: tuple[str, ...] = ()
    """Of values: the first value of each bin."""
    ranges: bool = False
    """Whether a bin holds all values up to the next one's first."""
    bin_of_C: NDArray[np.int64] | None = None
    """Bin of each code of this data; None: a number."""

    def bins(self, values_E: NDArray[Any]) -> NDArray[np.int64]:
        """Return the bin of each event."""
        if self.bin_of_C is not None:
            return np.asarray(self.bin_of_C[values_E])
        place_E = 1 + np.searchsorted(self.edges, np.nan_to_num(values_E), side="right")
        return np.where(np.isfinite(values_E), place_E, 0)

    def record(self) -> dict[str, Any]:
        """Return what a later report needs to make the same bins."""
        return {"edges": list(self.edges), "firsts": list(self.firsts), "ranges": self.ranges}


def context_columns(
    meaning: Sequence[Feature], before: Mapping[str, Any] | None = None
) -> tuple[ContextColumn, ...]:
    """Return the columns that a manifest describes, with the bins of an earlier report if there is one."""
    earlier = before or {}
    return tuple(
        _number(feature, earlier.get(feature.name))
        if feature.kind == "number"
        else _values(feature, earlier.get(feature.name))
        for feature in meaning
    )


def _number(feature: Feature, before: Mapping[str, Any] | None) -> ContextColumn:
    center, scale = feature.center or 0.0, feature.scale or 1.0
    edges = tuple(before["edges"]) if before else tuple(center + step * scale for step in STEPS)
    marks = [f"{edge:.4g}" for edge in edges]
    labels = ("unknown", f"<{marks[0]}", *(f"{mark}+" for mark in marks))
    return ContextColumn(column_signal(CONTEXT, feature.name, labels, ordered=True), edges=edges)


def _values(feature: Feature, before: Mapping[str, Any] | None) -> ContextColumn:
    values = feature.values or ()
    size = math.ceil(len(values) / VALUES) if len(values) > VALUES else 1
    firsts = tuple(before["firsts"]) if before else tuple(sorted(values)[::size])
    ranges = bool(before["ranges"]) if before else size > 1
    bin_of = {first: number for number, first in enumerate(firsts, start=1)}
    other = len(firsts) + 1
    if ranges:
        found = [max(1, int(np.searchsorted(firsts, value, side="right"))) for value in values]
    else:
        found = [bin_of.get(value, other) for value in values]
    labels = ("unknown", *(f"{first} .." if ranges else first for first in firsts), "other")
    signal = column_signal(CONTEXT, feature.name, labels, ordered=False)
    return ContextColumn(signal, firsts=firsts, ranges=ranges, bin_of_C=np.array([0, *found, other]))
