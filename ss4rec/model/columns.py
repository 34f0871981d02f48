"""What the data of a run have that its model reads: sizes that weights take from data, kept in the run's record."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, NonNegativeInt


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


class DataColumns(BaseModel):
    """All columns beside user, item, time and rating."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    items: ItemColumns | None = None
    """None: the model reads no features of items."""
    users: tuple[str, ...] = ()
    """Columns of users' profiles that `model.user_features` chose."""
    user_codes: tuple[int, ...] = ()
    """Their codes in `RunRecord.profile_values`, from 1."""
