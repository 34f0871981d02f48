"""What a source is once it is read: rows in file order as NumPy arrays, with dense codes instead of ids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa

from ss4rec.data.sources.checks import BAD_SCHEMA, Parsed, bad_table, repeat_sentence
from ss4rec.data.sources.event_order import repeated, sorted_places


@dataclass(frozen=True)
class Ids:
    """A column of ids: `values[codes_R[r]]` is the id of row r."""

    codes_R: np.ndarray
    """int32 `[R]`."""
    values: pa.Array
    """The distinct ids, int64 or string, in no particular order."""


@dataclass(frozen=True)
class Catalogue:
    """What is known about items; may hold items that nobody rated and lack some that somebody did."""

    source_id: pa.Array
    """int64 or string."""
    title: pa.Array
    """string, null if unknown."""
    genres: pa.Array
    """list<string>, null if unknown."""


@dataclass(frozen=True)
class Profiles:
    """What is known about users; may hold users who rated nothing and lack some who did."""

    source_id: pa.Array
    """int64 or string."""
    values: pa.Table
    """A string column for each property, null if unknown."""


@dataclass(frozen=True)
class Rows:
    """The rows of a source in file order."""

    layout: str
    """Name of the layout."""
    file: str
    """The file with the ratings, relative to the source."""
    users: Ids
    """User of each row."""
    items: Ids
    """Item of each row."""
    times_R: np.ndarray
    """int64 unix seconds."""
    ratings_R: np.ndarray
    """float32; all 1 if the source has no ratings."""
    catalogue: Catalogue | None
    """Titles and genres, if the source has them."""
    profiles: Profiles | None = None
    """What the source says about users."""
    bad: pa.Table = field(default_factory=BAD_SCHEMA.empty_table)
    """Rows that were put aside (`checks.BAD_SCHEMA`)."""

    @property
    def rows(self) -> int:
        """Rows of the source, with those that were put aside."""
        return len(self.times_R) + self.bad.num_rows


def join_blocks(
    parts: Sequence[Parsed],
    layout: str,
    file: str,
    catalogue: Catalogue | None,
    first_row: int,
    *,
    repeats: bool,
) -> Rows:
    """Join the blocks of a source in their order.

    Args:
        parts: at least one.
        layout: name of the layout.
        file: the file with the ratings, relative to the source.
        catalogue: titles and genres.
        first_row: number of the first row as a person counts.
        repeats: whether the same user, item and second may come twice.
    """
    firsts = np.cumsum([first_row, *(part.rows for part in parts)])
    numbers_R = np.concatenate([part.numbers_R + first for part, first in zip(parts, firsts, strict=False)])
    bad = pa.concat_tables(
        [shift_rows(part.bad, int(first)) for part, first in zip(parts, firsts, strict=False)]
    )
    users, items = (_encode([getattr(part, role) for part in parts]) for role in ("users", "items"))
    times_R = np.concatenate([part.times_R for part in parts])
    ratings_R = np.concatenate([part.ratings_R for part in parts])
    rows = Rows(layout, file, users, items, times_R, ratings_R, catalogue, bad=bad)
    if repeats:
        return rows
    order_R = sorted_places(users.codes_R, times_R)
    again = repeated(users.codes_R, items.codes_R, times_R, order_R)
    return _without(rows, again, numbers_R) if len(again) else rows


def plain_ids(values: pa.Array) -> pa.Array:
    """Return string ids as int64 if that loses nothing ("7" but not "007"), else unchanged."""
    try:
        numbers = values.cast(pa.int64())
    except pa.ArrowInvalid:
        return values
    return numbers if numbers.cast(pa.string()).equals(values) else values


def shift_rows(bad: pa.Table, first: int) -> pa.Table:
    """Add `first` to the row numbers."""
    rows = pa.array(bad["row"].to_numpy() + first, pa.int64())
    return bad.set_column(0, "row", rows)


def _encode(arrays: list[pa.Array]) -> Ids:
    """Turn blocks of int64 or dictionaries of strings into codes and distinct ids."""
    encoded = pa.chunked_array(arrays)
    if not pa.types.is_dictionary(encoded.type):
        encoded = encoded.dictionary_encode()
    joined = encoded.combine_chunks()
    values = joined.dictionary
    return Ids(joined.indices.to_numpy(), values if values.type == pa.int64() else plain_ids(values))


def _without(rows: Rows, again: np.ndarray, numbers_R: np.ndarray) -> Rows:
    """Put the repeated rows `again` aside."""
    user_ids, item_ids = (
        column.values.take(pa.array(column.codes_R[again])).to_pylist() for column in (rows.users, rows.items)
    )
    aside = [
        (int(number), "repeated", repeat_sentence(user, item, int(time_s)))
        for number, user, item, time_s in zip(
            numbers_R[again], user_ids, item_ids, rows.times_R[again], strict=True
        )
    ]
    return replace(
        rows,
        users=Ids(np.delete(rows.users.codes_R, again), rows.users.values),
        items=Ids(np.delete(rows.items.codes_R, again), rows.items.values),
        times_R=np.delete(rows.times_R, again),
        ratings_R=np.delete(rows.ratings_R, again),
        bad=pa.concat_tables([rows.bad, bad_table(aside)]).sort_by("row"),
    )
