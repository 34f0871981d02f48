"""What every reader returns: rows in file order as NumPy arrays, with dense codes instead of ids."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ss4rec.data.sources.quarantine import LATEST_S, WHOLE, Quarantine
from ss4rec.errors import DataError


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


@dataclass(frozen=True)
class Place:
    """Where a table comes from, for messages."""

    file: str
    """Path of the file."""
    first_row: int
    """Number of the first data row in the file: 1, or 2 below a header."""
    quarantine: Quarantine | None = None
    """Takes bad rows; None: the first one is an error."""

    def refuse(self, row: int, column: str, value: object, why: str) -> DataError:
        """Return the error about data row `row` (from 0)."""
        return DataError(f"{self.file}, row {row + self.first_row}: {column} is {value!r}, {why}")


def make_rows(
    layout: str,
    file: str,
    place: Place,
    columns: dict[str, pa.ChunkedArray],
    catalogue: Catalogue | None = None,
    *,
    integers: bool = False,
) -> Rows:
    """Check and convert the columns `user`, `item`, `time` and perhaps `rating`.

    Args:
        layout: name of the layout.
        file: the file with the ratings, relative to the source.
        place: the same for messages.
        columns: Arrow columns as read.
        catalogue: titles and genres.
        integers: whether ids must be whole numbers.

    Raises:
        DataError: naming the row and the value that cannot be used.
    """
    if place.quarantine is not None:
        columns = place.quarantine.filter(
            columns, file=place.file, first_row=place.first_row, integers=integers
        )
    times_R = _seconds(columns["time"], place)
    if not len(times_R):
        raise DataError(f"{place.file} has no rows; give a file with ratings")
    rating = columns.get("rating")
    return Rows(
        layout=layout,
        file=file,
        users=_encode(columns["user"], "user", place, integers),
        items=_encode(columns["item"], "item", place, integers),
        times_R=times_R,
        ratings_R=np.ones(len(times_R), np.float32) if rating is None else _ratings(rating, place),
        catalogue=catalogue,
    )


def plain_ids(values: pa.Array) -> pa.Array:
    """Return string ids as int64 if that loses nothing ("7" but not "007"), else unchanged."""
    try:
        numbers = values.cast(pa.int64())
    except pa.ArrowInvalid:
        return values
    return numbers if numbers.cast(pa.string()).equals(values) else values


def _encode(column: pa.ChunkedArray, name: str, place: Place, integers: bool) -> Ids:
    """Turn a column of integer, string or dictionary type into codes and distinct ids."""
    if pa.types.is_integer(column.type):
        column = column.cast(pa.int64())
    elif not pa.types.is_dictionary(column.type):
        if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
            raise DataError(f"{place.file}: {name} has type {column.type}; ids must be strings or integers")
        column = column.cast(pa.string())
    if column.null_count:
        raise place.refuse(_first(column.is_null()), name, None, "every row needs one")
    encoded = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
    encoded = encoded.combine_chunks()
    values = encoded.dictionary
    if values.type != pa.int64():
        values = plain_ids(values.cast(pa.string()))
    if integers and values.type != pa.int64():
        wrong = pc.invert(pc.match_substring_regex(values, WHOLE))
        row = _first(wrong.take(encoded.indices))
        raise place.refuse(
            row, name, encoded[row].as_py(), "ids of this layout are whole numbers; repair the row"
        )
    return Ids(encoded.indices.to_numpy(), values)


def _seconds(column: pa.ChunkedArray, place: Place) -> np.ndarray:
    """Turn numbers, timestamps (UTC if they have no zone) or dates into int64 unix seconds, rounding down."""
    kind = column.type
    if column.null_count and len(column):
        raise place.refuse(_first(column.is_null()), "time", None, "every row needs one")
    if pa.types.is_date(kind):
        column = column.cast(pa.timestamp("s"))
    elif pa.types.is_timestamp(kind):
        column = column.cast(pa.timestamp("s", kind.tz), safe=False)
    elif not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_null(kind)):
        example = column[0].as_py()
        raise DataError(
            f"{place.file}: time has type {kind} (first value {example!r}); give unix seconds or ISO 8601 dates"
        )
    whole = pc.floor(column) if pa.types.is_floating(kind) else column.cast(pa.int64())
    times_R = whole.to_numpy()
    for wrong_R, why in (
        (~(times_R >= 0), "times are unix seconds from 1970 on; repair or remove the row"),
        (times_R >= LATEST_S, "which is after the year 2242; are these milliseconds? Give seconds"),
    ):
        if wrong_R.any():
            row = int(wrong_R.argmax())
            raise place.refuse(row, "time", times_R[row].item(), why)
    return times_R.astype(np.int64)


def _ratings(column: pa.ChunkedArray, place: Place) -> np.ndarray:
    """Turn a column of numbers into float32."""
    if not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type)):
        raise DataError(f"{place.file}: rating has type {column.type}; ratings must be numbers")
    ratings_R = column.cast(pa.float64()).to_numpy().astype(np.float32)
    wrong_R = ~np.isfinite(ratings_R)
    if wrong_R.any():
        row = int(wrong_R.argmax())
        raise place.refuse(
            row, "rating", column[row].as_py(), "ratings are finite numbers; repair or remove the row"
        )
    return ratings_R


def _first(mask: pa.Array | pa.ChunkedArray) -> int:
    """Return the index of the first true value."""
    return pc.index(mask, True).as_py()
