"""Warm start: rows of features, profiles and columns about events go where the new data have the same values.

Codes are numbers of values in one prepared folder; another folder numbers them anew. A row follows its value. A
number's row is stretched to the new scale: the same price says the same. What only the new data have begins fresh.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor

from ss4rec.data.prepared.manifest import Feature
from ss4rec.model.columns import DataColumns
from ss4rec.model.inputs import WIDTHS

Pairs = Iterator[tuple[int, int]]


@dataclass(frozen=True)
class Told:
    """What a run is told beside items."""

    columns: DataColumns
    inputs: tuple[str, ...]
    """`ModelConfig.inputs`."""
    profile_values: Sequence[str]

    @property
    def names(self) -> tuple[str, ...]:
        """Inputs in the order of the rows of `inputs.table`."""
        more = ("profile",) if self.columns.users and "profile" not in self.inputs else ()
        return (*self.inputs, *more, *(("context",) if self.columns.context else ()))

    @property
    def features(self) -> tuple[Feature, ...]:
        """Features of items."""
        return () if self.columns.items is None else self.columns.items.meaning


@dataclass(frozen=True)
class ColumnMoves:
    """From the numbers of one run to those of another."""

    old: Told
    new: Told

    def __call__(self, name: str, tensor: Tensor, fresh: Tensor, *, stretch: bool = True) -> Tensor | None:
        """Return a tensor of the new run's shape with the old rows; None where it has no rows of columns.

        Args:
            name: of the tensor.
            tensor: the old one.
            fresh: values of the new shape, for what only the new data have.
            stretch: rows of numbers to the new scale, as weights need it and moments of an optimizer must not.
        """
        leaf = name.split(".")[-2:]
        if leaf == ["features", "table"]:
            return self._features(tensor, fresh.clone(), stretch)
        if leaf == ["features", "vectors"]:
            return _copied(tensor, fresh.clone(), self._vectors())
        if leaf == ["inputs", "table"]:
            return _copied(tensor, fresh.clone(), self._inputs())
        return None

    def _features(self, tensor: Tensor, found: Tensor, stretch: bool) -> Tensor:
        """Fill `found` with the rows of features that both models read."""
        old = {feature.name: (feature, first) for feature, first in _places(self.old.features)}
        for feature, first in _places(self.new.features):
            before, begin = old.get(feature.name, (None, 0))
            if before is None or before.kind != feature.kind:
                continue
            if feature.kind == "number":
                # known + (v - c) / s * row stays what it was for every v
                shift = stretch * ((feature.center or 0.0) - (before.center or 0.0)) / (before.scale or 1.0)
                factor = (feature.scale or 1.0) / (before.scale or 1.0) if stretch else 1.0
                found[first] = tensor[begin] + shift * tensor[begin + 1]
                found[first + 1] = factor * tensor[begin + 1]
            elif feature.kind == "text":
                size = min(feature.size or 0, before.size or 0)
                found[first : first + size] = tensor[begin : begin + size]
            else:
                old_values, new_values = before.values or (), feature.values or ()
                found = _copied(tensor, found, _same(old_values, new_values, begin, first))
                found[first + len(new_values)] = tensor[begin + len(old_values)]
        return found

    def _vectors(self) -> Pairs:
        """Yield old and new row of each dimension of vectors of one name and size."""
        old, at = {}, 0
        for feature in self.old.features:
            if feature.kind == "vector":
                old[feature.name], at = (at, feature.size), at + (feature.size or 0)
        at = 0
        for feature in self.new.features:
            if feature.kind == "vector":
                begin, size = old.get(feature.name, (0, None))
                if size == feature.size:
                    yield from ((begin + row, at + row) for row in range(size or 0))
                at += feature.size or 0

    def _inputs(self) -> Pairs:
        """Yield old and new row of everything that is read of events."""
        old, at = {}, 0
        for name in self.old.names:
            old[name], at = at, at + WIDTHS.get(name, 0)
        at = 0
        for name in self.new.names:
            if name in old and name in WIDTHS and name != "profile":
                yield from ((old[name] + row, at + row) for row in range(WIDTHS[name]))
            elif name == "profile" and name in old:
                yield from _same(self.old.profile_values, self.new.profile_values, old[name] + 1, at + 1)
            elif name == "context" and name in old:
                yield from self._context(old[name] + 1, at + 1)
            at += WIDTHS.get(name, 0)

    def _context(self, begin: int, first: int) -> Pairs:
        old = {column.name: column for column in self.old.columns.context}
        for column in self.new.columns.context:
            before = old.get(column.name)
            if before is None or (before.values is None) != (column.values is None):
                continue
            places = (begin + before.first, first + column.first)
            if column.values is None or before.values is None:
                yield from ((places[0] + row, places[1] + row) for row in range(column.size))
            else:
                yield from _same(before.values, column.values, *places)
                yield places[0] + len(before.values), places[1] + len(column.values)


def _places(features: Sequence[Feature]) -> Iterator[tuple[Feature, int]]:
    """Yield each feature with a place in the table, and its first row."""
    first = 0
    for feature in features:
        if feature.kind != "vector":
            yield feature, first
            first += 2 if feature.kind == "number" else feature.size or len(feature.values or ()) + 1


def _same(old: Sequence[str], new: Sequence[str], begin: int, first: int) -> Pairs:
    """Yield old and new row of each value that both have."""
    places = {value: begin + place for place, value in enumerate(old)}
    yield from ((places[value], first + place) for place, value in enumerate(new) if value in places)


def _copied(tensor: Tensor, found: Tensor, pairs: Pairs) -> Tensor:
    for old, new in pairs:
        found[new] = tensor[old]
    return found
