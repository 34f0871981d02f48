"""The known layouts of ratings: the three of GroupLens, RecBole's `.inter`, and tables with named columns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ss4rec.data.sources.archive import Archive
from ss4rec.data.sources.delimited import header, read_delimited
from ss4rec.data.sources.rows import Catalogue, Profiles, plain_ids
from ss4rec.data.sources.table import ParquetPlan, open_parquet
from ss4rec.data.sources.text import ID, TextPlan, infer_type, read_head
from ss4rec.errors import DataError

ROLES = ("user", "item", "time", "rating")
GUESSES = {
    "user": ("user_id", "user", "uid", "customer_id", "customer", "reviewer_id", "session_id"),
    "item": ("item_id", "item", "iid", "movie_id", "product_id", "product", "parent_asin", "asin", "sku"),
    "time": ("timestamp", "time", "ts", "unix_time", "unix_review_time", "event_time", "datetime", "date"),
    "rating": ("rating", "score", "stars", "overall"),
}
"""Column names that are recognised for each role, best first; case and underscores do not matter."""
GROUPLENS = ("user", "item", "rating", "time")
GROUPLENS_TYPES = {"user": pa.int64(), "item": pa.int64(), "time": pa.int64(), "rating": pa.float32()}
TIME_TYPES = (pa.int64(), pa.float64(), pa.timestamp("ns"), pa.timestamp("ns", "UTC"))
"""What a CSV's times may be, tried in this order."""
NO_GENRES = "(no genres listed)"
AGE_GROUPS = (1, 18, 25, 35, 45, 50, 56)
"""First year of ML-1M's age groups; 1 is "under 18"."""


@dataclass(frozen=True)
class Layout:
    """One layout: the files that give it away, how their ratings lie, and what is known about items and users."""

    name: str
    patterns: tuple[str, ...]
    plan: Callable[[Archive, str], TextPlan | ParquetPlan]
    catalogue: Callable[[Archive, str], Catalogue | None]
    profiles: Callable[[Archive, str], Profiles | None]


def plan_dat(archive: Archive, name: str) -> TextPlan:
    """Plan GroupLens' `ratings.dat`."""
    return _plan_grouplens(archive, name, "grouplens-dat", "::")


def plan_100k(archive: Archive, name: str) -> TextPlan:
    """Plan MovieLens-100K's `u.data` (tabs)."""
    return _plan_grouplens(archive, name, "grouplens-100k", "\t")


def plan_csv(archive: Archive, name: str) -> TextPlan:
    """Plan GroupLens' `ratings.csv`."""
    columns = {"user": "userId", "item": "movieId", "rating": "rating", "time": "timestamp"}
    names, start = header(archive, name, ",")
    missing = set(columns.values()) - set(names)
    if missing:
        raise DataError(
            f"{archive.where(name)} has no column {', '.join(sorted(missing))} and so is not GroupLens' ratings.csv; "
            "name its columns with --columns user=..,item=..,time=.."
        )
    roles = {role: columns[role] for role in ROLES}
    where = archive.where(name)
    return TextPlan(
        "grouplens-csv", name, where, ",", True, tuple(names), roles, dict(GROUPLENS_TYPES), start
    )


def plan_recbole(archive: Archive, name: str) -> TextPlan:
    """Plan RecBole's `.inter` (tabs; header such as `user_id:token`)."""
    names, start = header(archive, name, "\t")
    where = archive.where(name)
    if not all(":" in column for column in names):
        raise DataError(
            f"{where} has the header {names}; RecBole's has a type behind each name, as in user_id:token"
        )
    typed = {column.split(":")[0]: column for column in names}
    roles = {role: typed[plain] for role, plain in choose_columns(list(typed), {}, where).items()}
    types = {role: ID if role in ("user", "item") else pa.float64() for role in roles}
    return TextPlan("recbole", name, where, "\t", False, tuple(names), roles, types, start)


def plan_table(archive: Archive, name: str, columns: Mapping[str, str]) -> TextPlan | ParquetPlan:
    """Plan a CSV or Parquet file with named columns.

    Args:
        archive: the source.
        name: file in it.
        columns: column of each role; roles that are not named are guessed.
    """
    where = archive.where(name)
    if name.lower().endswith(".parquet"):
        with open_parquet(archive, name) as file:
            roles = choose_columns(file.schema_arrow.names, columns, where)
        return ParquetPlan("parquet", name, where, roles)
    names, start = header(archive, name, ",")
    roles = choose_columns(names, columns, where)
    types = dict.fromkeys(("user", "item"), ID)
    plan = TextPlan("csv", name, where, ",", True, tuple(names), roles, types, start)
    with archive.open(name) as stream:
        stream.read(start)
        head = read_head(stream, plan)
    for role, kinds, wanted in (
        ("time", TIME_TYPES, "give unix seconds or ISO 8601 dates"),
        ("rating", (pa.float64(),), "ratings must be numbers"),
    ):
        if role in roles:
            kind = infer_type(head[roles[role]], kinds) if head.num_rows else kinds[0]
            if kind is None:
                example = head[roles[role]][0].as_py()
                raise DataError(f"{where}: {role} has type string (first value {example!r}); {wanted}")
            types[role] = kind
    return replace(plan, types=types)


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


def _plan_grouplens(archive: Archive, name: str, layout: str, delimiter: str) -> TextPlan:
    """Plan four columns without a header."""
    roles = {role: role for role in ROLES}
    where = archive.where(name)
    return TextPlan(layout, name, where, delimiter, False, GROUPLENS, roles, dict(GROUPLENS_TYPES), 0)


def _movies_dat(archive: Archive, ratings: str) -> Catalogue | None:
    """Read `movies.dat` (`::`; titles in Latin-1)."""
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
    """Read `u.item` (`|`, Latin-1, a 0/1 column per genre), whose genres are named by `u.genre`."""
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


def _users_dat(archive: Archive, ratings: str) -> Profiles | None:
    """Read `users.dat` (`::`): gender, age group, occupation, zip code."""
    return _people(archive, ratings, "users.dat", "::", ["user", "gender", "age", "occupation", "zip"])


def _u_user(archive: Archive, ratings: str) -> Profiles | None:
    """Read `u.user` (`|`): age in years, gender, occupation, zip code."""
    return _people(archive, ratings, "u.user", "|", ["user", "age", "gender", "occupation", "zip"])


def _people(archive: Archive, ratings: str, file: str, delimiter: str, names: list[str]) -> Profiles | None:
    """Read a file of users; ages become the groups of ML-1M, zip codes their first digit (a region of the US)."""
    name = archive.neighbour(ratings, file)
    if name is None:
        return None
    types = {"user": pa.int64(), **dict.fromkeys(names[1:], pa.string()), "age": pa.int64()}
    table = read_delimited(archive, name, delimiter, types, names=names, encoding="latin-1")
    group = np.searchsorted(AGE_GROUPS, table["age"].fill_null(0).to_numpy(), side="right")
    region = pc.utf8_slice_codeunits(table["zip"], 0, 1)
    values = {
        "gender": table["gender"],
        "age": pa.array([None, *(str(age) for age in AGE_GROUPS)]).take(pa.array(group)),
        "occupation": table["occupation"],
        "zip_region": pc.if_else(pc.utf8_is_digit(region), region, pa.scalar(None, pa.string())),
    }
    return Profiles(table["user"].combine_chunks(), pa.table(values))


def _recbole_items(archive: Archive, ratings: str) -> Catalogue | None:
    """Read `.item`: the id, a title if there is one, and genres (tokens between spaces)."""
    name = archive.neighbour(ratings, PurePosixPath(ratings).with_suffix(".item").name)
    if name is None:
        return None
    typed = {column.split(":")[0]: column for column in header(archive, name, "\t")[0]}

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


def _plan_guessed(archive: Archive, name: str) -> TextPlan | ParquetPlan:
    """Plan a CSV or Parquet file whose columns have common names."""
    return plan_table(archive, name, {})


def _unknown(archive: Archive, ratings: str) -> None:
    """Know nothing about items, or users."""


LAYOUTS = (
    Layout("grouplens-dat", ("ratings.dat",), plan_dat, _movies_dat, _users_dat),
    Layout("grouplens-100k", ("u.data",), plan_100k, _u_item, _u_user),
    Layout("grouplens-csv", ("ratings.csv",), plan_csv, _movies_csv, _unknown),
    Layout("recbole", ("*.inter",), plan_recbole, _recbole_items, _unknown),
    Layout("table", ("*.csv", "*.parquet"), _plan_guessed, _unknown, _unknown),
)
"""In the order in which they are looked for."""
