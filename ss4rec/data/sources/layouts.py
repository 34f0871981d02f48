"""The known layouts of ratings: the three of GroupLens, RecBole's `.inter`, and tables with named columns."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ss4rec.data.sources.archive import Archive
from ss4rec.data.sources.delimited import ID, header, read_delimited
from ss4rec.data.sources.rows import Catalogue, Place, Rows, make_rows, plain_ids
from ss4rec.errors import DataError
from ss4rec.files import refuse_bomb, unpacked_bytes

ROLES = ("user", "item", "time", "rating")
GUESSES = {
    "user": ("user_id", "user", "uid", "customer_id", "customer", "reviewer_id", "session_id"),
    "item": ("item_id", "item", "iid", "movie_id", "product_id", "product", "parent_asin", "asin", "sku"),
    "time": ("timestamp", "time", "ts", "unix_time", "unix_review_time", "event_time", "datetime", "date"),
    "rating": ("rating", "score", "stars", "overall"),
}
"""Column names that are recognised for each role, best first; case and underscores do not matter."""
GROUPLENS = ("user", "item", "rating", "time")
GROUPLENS_TYPES = {"user": ID, "item": ID, "rating": pa.float32(), "time": pa.int64()}
NO_GENRES = "(no genres listed)"


@dataclass(frozen=True)
class Layout:
    """One layout: the file that gives it away and the function that reads it."""

    name: str
    patterns: tuple[str, ...]
    read: Callable[[Archive, str], Rows]


def read_dat(archive: Archive, name: str) -> Rows:
    """Read GroupLens' `ratings.dat` and, beside it, `movies.dat` (`::`; titles in Latin-1)."""
    return _read_grouplens(archive, name, "grouplens-dat", "::", _movies_dat(archive, name))


def read_100k(archive: Archive, name: str) -> Rows:
    """Read MovieLens-100K's `u.data` (tabs) and, beside it, `u.item` (`|`, Latin-1, a 0/1 column per genre)."""
    return _read_grouplens(archive, name, "grouplens-100k", "\t", _u_item(archive, name))


def read_csv(archive: Archive, name: str) -> Rows:
    """Read GroupLens' `ratings.csv` and, beside it, `movies.csv`."""
    columns = {"user": "userId", "item": "movieId", "rating": "rating", "time": "timestamp"}
    missing = set(columns.values()) - set(header(archive, name, ","))
    if missing:
        raise DataError(
            f"{archive.where(name)} has no column {', '.join(sorted(missing))} and so is not GroupLens' ratings.csv; "
            "name its columns with --columns user=..,item=..,time=.."
        )
    types = {columns[role]: GROUPLENS_TYPES[role] for role in ROLES}
    table = read_delimited(archive, name, ",", types, quotes=True)
    found = {role: table[column] for role, column in columns.items()}
    place = Place(archive.where(name), first_row=2, quarantine=archive.quarantine)
    return make_rows("grouplens-csv", name, place, found, _movies_csv(archive, name), integers=True)


def read_recbole(archive: Archive, name: str) -> Rows:
    """Read RecBole's `.inter` (tabs; header such as `user_id:token`) and, beside it, `.item`."""
    columns = header(archive, name, "\t")
    if not all(":" in column for column in columns):
        raise DataError(
            f"{archive.where(name)} has the header {columns}; RecBole's has a type behind each name, "
            "as in user_id:token"
        )
    roles = choose_columns([column.split(":")[0] for column in columns], {}, archive.where(name))
    typed = {column.split(":")[0]: column for column in columns}
    types: dict[str, pa.DataType | None] = {
        typed[column]: ID if role in ("user", "item") else pa.float64() for role, column in roles.items()
    }
    table = read_delimited(archive, name, "\t", types)
    found = {role: table[typed[column]] for role, column in roles.items()}
    place = Place(archive.where(name), first_row=2, quarantine=archive.quarantine)
    return make_rows("recbole", name, place, found, _recbole_items(archive, name))


def read_table(archive: Archive, name: str, columns: Mapping[str, str]) -> Rows:
    """Read a CSV or Parquet file with named columns.

    Args:
        archive: the source.
        name: file in it.
        columns: column of each role; roles that are not named are guessed.
    """
    if name.lower().endswith(".parquet"):
        return _read_parquet(archive, name, columns)
    where = archive.where(name)
    roles = choose_columns(header(archive, name, ","), columns, where)
    types: dict[str, pa.DataType | None] = {
        column: ID if role in ("user", "item") else None for role, column in roles.items()
    }
    table = read_delimited(archive, name, ",", types, quotes=True)
    found = {role: table[column] for role, column in roles.items()}
    return make_rows("csv", name, Place(where, first_row=2, quarantine=archive.quarantine), found)


def choose_columns(names: list[str], asked: Mapping[str, str], where: str) -> dict[str, str]:
    """Return the column of each role: the one asked for, else the first recognised name.

    Raises:
        DataError: if a column that was asked for does not exist, or none is found for user, item or time.
    """
    plain = {name.replace("_", "").lower(): name for name in reversed(names)}
    chosen: dict[str, str] = {}
    for role in ROLES:
        guesses = [plain[key] for guess in GUESSES[role] if (key := guess.replace("_", "")) in plain]
        if role in asked:
            if asked[role] not in names:
                raise DataError(f"{where} has no column {asked[role]!r}; its columns are {', '.join(names)}")
            chosen[role] = asked[role]
        elif guesses:
            chosen[role] = guesses[0]
        elif role != "rating":
            raise DataError(
                f"{where} has the columns {', '.join(names)}; none is known to be the {role}: "
                f"name it with --columns {role}=.."
            )
    return chosen


LAYOUTS = (
    Layout("grouplens-dat", ("ratings.dat",), read_dat),
    Layout("grouplens-100k", ("u.data",), read_100k),
    Layout("grouplens-csv", ("ratings.csv",), read_csv),
    Layout("recbole", ("*.inter",), read_recbole),
    Layout("table", ("*.csv", "*.parquet"), lambda archive, name: read_table(archive, name, {})),
)
"""In the order in which they are looked for."""


def _read_grouplens(
    archive: Archive, name: str, layout: str, delimiter: str, items: Catalogue | None
) -> Rows:
    """Read four columns without a header."""
    table = read_delimited(archive, name, delimiter, dict(GROUPLENS_TYPES), names=list(GROUPLENS))
    columns = {role: table[role] for role in ROLES}
    return make_rows(
        layout,
        name,
        Place(archive.where(name), first_row=1, quarantine=archive.quarantine),
        columns,
        items,
        integers=True,
    )


def _read_parquet(archive: Archive, name: str, columns: Mapping[str, str]) -> Rows:
    """Read the chosen columns of one Parquet file."""
    where = archive.where(name)
    try:
        with archive.open(name) as stream, pq.ParquetFile(stream) as file:
            roles = choose_columns(file.schema_arrow.names, columns, where)
            refuse_bomb(where, stream.seek(0, os.SEEK_END), unpacked_bytes(file.metadata))
            table = file.read(list(roles.values()))
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        message = str(error).splitlines()[0]
        raise DataError(f"{where} is no complete Parquet file ({message}); write it again") from None
    found = {role: table[column] for role, column in roles.items()}
    return make_rows("parquet", name, Place(where, first_row=1, quarantine=archive.quarantine), found)


def _movies_dat(archive: Archive, ratings: str) -> Catalogue | None:
    """Read `movies.dat`."""
    name = archive.neighbour(ratings, "movies.dat")
    if name is None:
        return None
    names = ["item", "title", "genres"]
    types = {"item": pa.int64(), "title": pa.string(), "genres": pa.string()}
    table = read_delimited(archive, name, "::", types, names=names, encoding="latin-1")
    return _catalogue(table["item"], table["title"], _split(table["genres"], "|"))


def _movies_csv(archive: Archive, ratings: str) -> Catalogue | None:
    """Read `movies.csv`."""
    name = archive.neighbour(ratings, "movies.csv")
    if name is None:
        return None
    types = {"movieId": pa.int64(), "title": pa.string(), "genres": pa.string()}
    table = read_delimited(archive, name, ",", types, quotes=True)
    return _catalogue(table["movieId"], table["title"], _split(table["genres"], "|"))


def _u_item(archive: Archive, ratings: str) -> Catalogue | None:
    """Read `u.item`, whose genre columns are named by `u.genre`."""
    name, genre_file = (archive.neighbour(ratings, other) for other in ("u.item", "u.genre"))
    if name is None or genre_file is None:
        return None
    genre_types = {"genre": pa.string(), "number": pa.int64()}
    genre_table = read_delimited(archive, genre_file, "|", genre_types, names=list(genre_types))
    genres = genre_table["genre"].to_pylist()
    flags = [f"flag {genre}" for genre in genres]
    names = ["item", "title", "date", "video", "url", *flags]
    types = {"item": pa.int64(), "title": pa.string(), **dict.fromkeys(flags, pa.int8())}
    table = read_delimited(archive, name, "|", types, names=names, encoding="latin-1")
    flags_IG = np.stack([table[flag].to_numpy() for flag in flags], axis=1)
    offsets = np.concatenate([[0], (flags_IG != 0).sum(1).cumsum()])
    values = pa.array(genres).take(pa.array(np.nonzero(flags_IG)[1]))
    lists = pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), values)
    return _catalogue(table["item"], table["title"], lists)


def _recbole_items(archive: Archive, ratings: str) -> Catalogue | None:
    """Read `.item`: the id, a title if there is one, and genres (tokens between spaces)."""
    name = archive.neighbour(ratings, PurePosixPath(ratings).with_suffix(".item").name)
    if name is None:
        return None
    typed = {column.split(":")[0]: column for column in header(archive, name, "\t")}

    def pick(*wanted: str) -> str | None:
        return next((typed[column] for column in wanted if column in typed), None)

    item = pick("item_id", "movie_id")
    title, genres = pick("movie_title", "title", "name"), pick("genre", "genres", "class", "categories")
    if item is None:
        raise DataError(
            f"{archive.where(name)} has no column item_id:token; its columns are {list(typed.values())}"
        )
    types: dict[str, pa.DataType | None] = {
        column: pa.string() for column in (item, title, genres) if column is not None
    }
    table = read_delimited(archive, name, "\t", types)
    unknown = pa.chunked_array([pa.nulls(table.num_rows, pa.string())])
    return _catalogue(
        plain_ids(table[item].combine_chunks()),
        table[title] if title else unknown,
        _split(table[genres] if genres else unknown, " "),
    )


def _split(genres: pa.ChunkedArray, separator: str) -> pa.Array:
    """Split lists of genres; GroupLens' mark for none becomes an empty list, null stays null."""
    text = genres.combine_chunks()
    lists = pc.split_pattern(text, separator)
    empty = pa.scalar([], pa.list_(pa.string()))
    return pc.if_else(pc.equal(text, NO_GENRES), empty, lists)


def _catalogue(item: pa.Array | pa.ChunkedArray, title: pa.ChunkedArray, genres: pa.Array) -> Catalogue:
    """Join chunks."""
    ids = item.combine_chunks() if isinstance(item, pa.ChunkedArray) else item
    return Catalogue(ids, title.combine_chunks(), genres)
