"""Columns about the event: each block holds them as codes of its own values; here they get one meaning for all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ss4rec.data.prepare.block import BlockFile
from ss4rec.data.prepared.features import MAX_WHOLE
from ss4rec.data.prepared.manifest import EventTargets, Feature, Kind
from ss4rec.data.sources.rows import CONTEXT
from ss4rec.errors import DataError

MAX_VALUES = 250
"""Values of a column with a code of their own; all rarer ones share the last code."""
NUMBERS = 0.95
"""From this share of rows on, values that are numbers make a column of numbers."""
LARGEST = 3e38
"""Of float32."""
KINDS: tuple[Kind, ...] = ("categorical", "number")


@dataclass(frozen=True)
class ContextColumn:
    """One column of the shards."""

    feature: Feature
    lookups: tuple[npt.NDArray[Any], ...]
    """Of each block: what stands for each of its codes, int32 or float32; entry 0 is unknown."""

    @property
    def name(self) -> str:
        """Name in the shards."""
        return CONTEXT + self.feature.name


def describe_context(
    blocks: Sequence[BlockFile], kinds: Mapping[str, str], keep: Sequence[str] = ()
) -> tuple[ContextColumn, ...]:
    """Return what the columns about events mean, and how the codes of each block are read.

    Args:
        blocks: all blocks.
        kinds: `categorical` or `number` by name, where the guess is not what is meant.
        keep: names of columns that are categories whatever they look like, as kinds of events are.

    Raises:
        DataError: for another kind.
    """
    columns = []
    for role in blocks[0].context:
        tables, name = [block.context[role] for block in blocks], role.removeprefix(CONTEXT)
        kind = kinds.get(name)
        if kind is not None and kind not in KINDS:
            raise DataError(f"--feature-kinds {name}={kind}: columns about events are {' or '.join(KINDS)}")
        counts = pa.concat_tables(tables).group_by("value").aggregate([("count", "sum")]).sort_by("value")
        texts, counts_X = counts["value"].to_pylist(), counts["count_sum"].to_numpy()
        numbers_X = _numbers(counts["value"])
        if kind == "number" or (kind is None and name not in keep and _are_numbers(numbers_X, counts_X)):
            feature = _number_feature(name, numbers_X, counts_X)
        else:
            order_X = sorted(range(len(texts)), key=lambda place: (-counts_X[place], texts[place]))
            values = tuple(sorted(texts[place] for place in order_X[:MAX_VALUES]))
            feature = Feature(name=name, kind="categorical", values=values)
        columns.append(ContextColumn(feature, tuple(_lookup(feature, table) for table in tables)))
    return tuple(columns)


def known_targets(targets: EventTargets, context: Sequence[ContextColumn]) -> EventTargets:
    """Return the targets if the data have such events.

    Raises:
        DataError: if one never happens.
    """
    values = next(column.feature.values or () for column in context if column.feature.name == targets.column)
    wrong = [value for value in targets.values if value not in values]
    if wrong:
        raise DataError(
            f"--targets {targets.column}={'|'.join(targets.values)}: no event is {', '.join(wrong)}; there are "
            f"{', '.join(values[:20])}"
        )
    return targets


def _are_numbers(numbers_X: npt.NDArray[np.float64], counts_X: npt.NDArray[np.int64]) -> bool:
    """Return whether nearly all rows hold numbers, and too many different ones for categories."""
    finite_X = np.isfinite(numbers_X)
    return bool(
        len(np.unique(numbers_X[finite_X])) > MAX_WHOLE
        and counts_X[finite_X].sum() >= NUMBERS * counts_X.sum()
    )


def _number_feature(
    name: str, numbers_X: npt.NDArray[np.float64], counts_X: npt.NDArray[np.int64]
) -> Feature:
    """Return the meaning of a column of numbers: median, and half the distance of the quartiles."""
    finite_X = np.isfinite(numbers_X)
    order_X = np.argsort(numbers_X[finite_X], kind="stable")
    values_X, ends_X = numbers_X[finite_X][order_X], np.cumsum(counts_X[finite_X][order_X])
    if not len(values_X):
        return Feature(name=name, kind="number", center=0.0, scale=1.0)
    low, center, high = (
        float(values_X[np.searchsorted(ends_X, share * ends_X[-1], side="left")])
        for share in (0.25, 0.5, 0.75)
    )
    return Feature(name=name, kind="number", center=center, scale=(high - low) / 2 or 1.0)


def _lookup(feature: Feature, table: pa.Table) -> npt.NDArray[Any]:
    """Return what stands in shards for each code of a block."""
    if feature.kind == "number":
        return np.append(np.nan, _numbers(table["value"])).astype(np.float32)
    places = pc.index_in(table["value"], pa.array(feature.values or (), pa.string()))
    codes = pc.fill_null(places, len(feature.values or ())).to_numpy().astype(np.int32) + 1
    return np.concatenate([np.zeros(1, np.int32), codes])


def _numbers(texts: pa.ChunkedArray) -> npt.NDArray[np.float64]:
    """Return texts as finite numbers; NaN where one is none."""
    try:
        found = texts.cast(pa.float64()).to_numpy()
    except pa.ArrowInvalid:
        found = np.array([_number(text) for text in texts.to_pylist()], np.float64)
    return np.where(np.abs(found) < LARGEST, found, np.nan)


def _number(text: str) -> float:
    """Return a text as a number; NaN if it is none."""
    try:
        return float(text)
    except ValueError:
        return float("nan")
