"""What a source says beside its ratings: about items and about users; and ids as they are kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

CONTEXT = "context."
"""Begins the role of a column that says something about the event, and its name in shards."""

CODES = "codes."
"""Begins the name of such a column where it holds what a model is told (`EventColumn.codes`)."""


def is_category(role: str) -> bool:
    """Return whether the values of a role are kept as texts: ids, and columns about the event."""
    return role in ("user", "item") or role.startswith(CONTEXT)


@dataclass(frozen=True)
class Catalogue:
    """What is known about items; may hold items that nobody rated and lack some that somebody did."""

    source_id: pa.Array
    """int64 or string."""
    title: pa.Array
    """string, null if unknown."""
    genres: pa.Array
    """list<string>, null if unknown."""
    features: pa.Table | None = None
    """Columns that people brought, already encoded."""

    def take(self, places: npt.NDArray[Any]) -> Catalogue:
        """Return the items at these places."""
        taken = pa.array(places)
        features = None if self.features is None else self.features.take(taken)
        return Catalogue(
            self.source_id.take(taken), self.title.take(taken), self.genres.take(taken), features
        )


@dataclass(frozen=True)
class UserProfiles:
    """What is known about users; may hold users who rated nothing and lack some who did."""

    source_id: pa.Array
    """int64 or string."""
    values: pa.Table
    """A string column for each property, null if unknown."""


def known_texts(values: pa.Array) -> pa.Array:
    """Return values of any plain type as texts; null where they are empty, or a number that is none (NaN)."""
    if pa.types.is_null(values.type):
        return pa.nulls(len(values), pa.string())
    texts = values.cast(pa.string())
    unknown = pc.is_nan(values) if pa.types.is_floating(values.type) else pc.equal(texts, "")
    if pc.any(unknown).as_py():
        texts = pc.if_else(unknown, pa.scalar(None, pa.string()), texts)
    return texts


def plain_ids(values: pa.Array) -> pa.Array:
    """Return string ids as int64 if that loses nothing ("7" but not "007"), else unchanged."""
    try:
        numbers = values.cast(pa.int64())
    except pa.ArrowInvalid:
        return values
    return numbers if numbers.cast(pa.string()).equals(values) else values
