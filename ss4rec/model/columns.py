"""What the data of a run have that its model reads: sizes that weights take from data, kept in the run's record."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, NonNegativeInt

from ss4rec.data.prepared.manifest import Feature

EVENT_CODES = 255
"""Codes of users' profiles are up to this one; what is said about events follows."""
STEPS, STEPS_A_SCALE = 33, 4
"""Numbers about events are read in quarters of their scale, at most four scales from their median."""


class ItemColumns(BaseModel):
    """Features of items (`ss4rec.model.item_features`)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    names: tuple[str, ...]
    """As in `model.item_features`."""
    rows: NonNegativeInt
    """Rows of the table: values, buckets and numbers of all features."""
    pairs: NonNegativeInt
    """Pairs (item, row)."""
    dims: NonNegativeInt
    """Dimensions of all vectors."""
    meaning: tuple[Feature, ...] = ()
    """What the features are, in the order of their rows."""
    trained: NonNegativeInt = 0
    """Items that have training events."""


class EventColumn(BaseModel):
    """A column about events as whole numbers: each column has numbers of its own, so a row of them is a set."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    """As in `model.context`."""
    first: NonNegativeInt
    """Its numbers are `first + 1` to `first + size`; 0 is unknown."""
    values: tuple[str, ...] | None = None
    """Meaning of the numbers of a category; the last number is every other value. None: a column of numbers."""
    center: float = 0.0
    """Median of a column of numbers."""
    scale: float = 1.0
    """Half the distance of its quartiles."""

    @property
    def size(self) -> int:
        """How many numbers it takes."""
        return STEPS if self.values is None else len(self.values) + 1

    def codes(self, stored_E: npt.NDArray[Any]) -> npt.NDArray[np.int32]:
        """Return the numbers for values as shards hold them: codes, or numbers that are NaN where unknown."""
        if self.values is not None:
            return np.where(stored_E > 0, self.first + stored_E, 0).astype(np.int32)
        known_E = np.isfinite(stored_E)
        scaled_E = (np.where(known_E, stored_E, self.center) - self.center) / self.scale
        steps_E = np.clip(np.round(scaled_E * STEPS_A_SCALE), -(STEPS // 2), STEPS // 2) + STEPS // 2
        return np.where(known_E, self.first + 1 + steps_E, 0).astype(np.int32)

    def codes_of(self, values: Sequence[object]) -> npt.NDArray[np.int32]:
        """Return the numbers for values as people write them; None and what is not a number are unknown."""
        if self.values is not None:
            places = {value: code for code, value in enumerate(self.values, start=1)}
            known = [0 if v is None or v == "" else places.get(str(v), len(places) + 1) for v in values]
            return self.codes(np.array(known, np.int32))
        return self.codes(np.array([_number(value) for value in values], np.float32))


def _number(value: object) -> float:
    try:
        return float(str(value))
    except ValueError:
        return float("nan")


class DataColumns(BaseModel):
    """All columns beside user, item, time and rating."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    items: ItemColumns | None = None
    """None: the model reads no features of items."""
    users: tuple[str, ...] = ()
    """Columns of users' profiles that `model.user_features` chose."""
    user_codes: tuple[int, ...] = ()
    """Their codes in `RunRecord.profile_values`, from 1."""
    context: tuple[EventColumn, ...] = ()
    """Columns about events."""
