"""Genres and year of release of a prepared folder's items as the columns that the model has vectors for."""

from __future__ import annotations

import re
from collections import Counter

import pyarrow as pa
import torch
from torch import Tensor

from ss4rec.model.inputs import ATTRIBUTE_COLUMNS, GENRE_COLUMNS, PERIOD_COLUMNS

_YEAR = re.compile(r"\((\d{4})(?:-\d{0,4})?\)\s*$")
"""GroupLens' titles end in the year of release, or the first and last year of a series."""
FIRST_YEAR, PERIOD_YEARS = 1880, 5


def genre_columns(items: pa.Table) -> dict[str, int]:
    """Return the column of each genre that has one: the most common ones (ties: by name), in order of name.

    Args:
        items: `items.parquet`.
    """
    counts = Counter(genre for found in items["genres"].to_pylist() for genre in found or [])
    common = sorted(counts, key=lambda genre: (-counts[genre], genre))[:GENRE_COLUMNS]
    return {genre: place for place, genre in enumerate(sorted(common))}


def item_attributes(items: pa.Table) -> Tensor:
    """Return a 0/1 matrix `[V, ATTRIBUTE_COLUMNS]` (float32); row 0 is padding.

    Genres (`genre_columns`) come first; then the period of release, where the title
    ends in a year. What is unknown is 0.

    Args:
        items: `items.parquet`.
    """
    genres = [found or [] for found in items["genres"].to_pylist()]
    column = genre_columns(items)
    attributes_VA = torch.zeros(items.num_rows + 1, ATTRIBUTE_COLUMNS)
    for item, (found, title) in enumerate(zip(genres, items["title"].to_pylist(), strict=True), start=1):
        for genre in found:
            if genre in column:
                attributes_VA[item, column[genre]] = 1
        year = release_year(title)
        if year is not None:
            period = (year - FIRST_YEAR) // PERIOD_YEARS
            attributes_VA[item, GENRE_COLUMNS + min(max(period, 0), PERIOD_COLUMNS - 1)] = 1
    return attributes_VA


def release_year(title: str | None) -> int | None:
    """Return the year in which a title ends, as in `Heat (1995)`, of a series the first; None if there is none."""
    year = _YEAR.search(title or "")
    return int(year[1]) if year else None
