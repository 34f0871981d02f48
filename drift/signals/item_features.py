"""Columns that people brought about items (`feature.NAME` of `items.parquet`), as signals beside those of genres.

Categories and lists of them have a bin for each of the most frequent values, numbers a bin for each tenth of the items.
Both come from items seen by the cut alone, so that no later item moves a bin. Texts and vectors have no bins.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from drift.signals.definitions import FEATURE, Signal, column_signal
from ss4rec.data.prepared.manifest import Feature
from ss4rec.data.prepared.tables import FEATURE_PREFIX

VALUES = 30
"""Most frequent values with a bin of their own."""
PARTS = 10
"""Bins of a number."""


@dataclass(frozen=True)
class ItemFeature:
    """One column."""

    signal: Signal
    bins_VB: NDArray[np.uint8]
    """1 where the item has the value; the first bin is `unknown`, entry 0 is padding."""
    single: bool
    """Whether an item has one value only."""


def read_item_features(items: pa.Table, meaning: Sequence[Feature], seen: int) -> tuple[ItemFeature, ...]:
    """Return the columns that have bins.

    Args:
        items: `items.parquet` of a timeline.
        meaning: what its manifest says of the columns.
        seen: items up to this index had an event by the cut.
    """
    found = []
    for feature in meaning:
        column = items[FEATURE_PREFIX + feature.name].combine_chunks()
        if feature.kind == "number":
            found.append(_number(feature, column, seen))
        elif feature.kind in ("categorical", "multi"):
            found.append(_values(feature, column, seen))
    return tuple(found)


def _number(feature: Feature, column: pa.Array, seen: int) -> ItemFeature:
    values_I = column.to_numpy(zero_copy_only=False).astype(np.float64)
    known_I = np.isfinite(values_I)
    past = values_I[:seen][known_I[:seen]]
    edges = np.unique(np.quantile(past, np.arange(1, PARTS) / PARTS)) if len(past) else np.zeros(0)
    bin_I = np.where(known_I, 1 + np.searchsorted(edges, np.nan_to_num(values_I), side="right"), 0)
    marks = [f"{edge:.4g}" for edge in edges.tolist()]
    labels = ("unknown", *([f"<{marks[0]}"] if marks else ["known"]), *(f"{mark}+" for mark in marks))
    return ItemFeature(
        column_signal(FEATURE, feature.name, labels, ordered=True), _one_hot(bin_I, len(labels)), True
    )


def _values(feature: Feature, column: pa.Array, seen: int) -> ItemFeature:
    """Return the bins of a categorical feature: the most frequent values by the cut, and two for the rest."""
    if feature.kind == "multi":
        lengths_I = np.diff(column.offsets.to_numpy())
        codes_N = column.flatten().to_numpy().astype(np.int64)
    else:
        lengths_I, codes_N = np.ones(len(column), np.int64), column.to_numpy().astype(np.int64)
    item_N = np.repeat(np.arange(len(lengths_I)), lengths_I)
    names = feature.values or ()
    counts = np.bincount(codes_N[item_N < seen], minlength=len(names) + 2)[1 : len(names) + 1]
    kept = np.sort(np.argsort(-counts, kind="stable")[:VALUES]) + 1
    bin_of = np.full(max(len(names) + 2, int(codes_N.max(initial=0)) + 1), len(kept) + 1)
    bin_of[0], bin_of[kept] = 0, np.arange(1, len(kept) + 1)
    labels = ("unknown", *(names[code - 1] for code in kept.tolist()), "other")
    bins_VB = np.zeros((len(lengths_I) + 1, len(labels)), np.uint8)
    bins_VB[item_N + 1, bin_of[codes_N]] = 1
    bins_VB[1:, 0] |= bins_VB[1:, 1:].sum(axis=1) == 0
    signal = column_signal(FEATURE, feature.name, labels, ordered=False)
    return ItemFeature(signal, bins_VB, single=feature.kind == "categorical")


def _one_hot(bin_I: NDArray[np.int64], size: int) -> NDArray[np.uint8]:
    bins_VB = np.zeros((len(bin_I) + 1, size), np.uint8)
    bins_VB[np.arange(1, len(bin_I) + 1), bin_I] = 1
    return bins_VB
