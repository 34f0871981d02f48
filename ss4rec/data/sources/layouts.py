"""The known layouts of ratings: the three of GroupLens, RecBole's `.inter`, and tables with named columns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ss4rec.data.sources.archive import Archive
from ss4rec.data.sources.columns import GUESSES, ROLES, choose_columns
from ss4rec.data.sources.delimited import header, read_delimited
from ss4rec.data.sources.features import FeatureTable, as_profiles, features_of
from ss4rec.data.sources.head import (
    HEAD_BYTES,
    SAMPLE_ROWS,
    Head,
    first_bytes,
    look,
    read_fully,
    unique_names,
)
from ss4rec.data.sources.parts import Part
from ss4rec.data.sources.quotes import UTF8_BOM, field_quotes, refuse_quotes_of_file
from ss4rec.data.sources.rows import CONTEXT, Catalogue, UserProfiles, is_category, plain_ids
from ss4rec.data.sources.text import ID, TextPlan
from ss4rec.data.sources.times import choose_rule, parsed_or_null, refuse_few_digits
from ss4rec.errors import DataError

GROUPLENS = ("user", "item", "rating", "time")
GROUPLENS_TYPES = {"user": pa.int64(), "item": pa.int64(), "time": pa.int64(), "rating": pa.float32()}
NO_GENRES = "(no genres listed)"
AGE_GROUPS = (1, 18, 25, 35, 45, 50, 56)
"""First year of ML-1M's age groups; 1 is "under 18"."""


@dataclass(frozen=True)
class Layout:
    """One layout: the files that give it away, how their ratings lie, and what is known about items and users."""

    name: str
    patterns: tuple[str, ...]
    """Names of its file of ratings, in lower case; none for the last, which is any table."""
    plan: Callable[[Archive, str], TextPlan | None]
    """None: the file is of another layout."""
    catalogue: Callable[[Archive, str], Catalogue | None]
    profiles: Callable[[Archive, str], UserProfiles | None]
    features: Callable[[Archive, str], FeatureTable | None]
    """Other columns about items."""


def plan_dat(archive: Archive, name: str) -> TextPlan:
    """Plan GroupLens' `ratings.dat`."""
    return _plan_grouplens(archive, name, "grouplens-dat", "::")


def plan_100k(archive: Archive, name: str) -> TextPlan:
    """Plan MovieLens-100K's `u.data` (tabs)."""
    return _plan_grouplens(archive, name, "grouplens-100k", "\t")


def plan_csv(archive: Archive, name: str) -> TextPlan | None:
    """Plan GroupLens' `ratings.csv`; others give a file this name too."""
    columns = {"user": "userId", "item": "movieId", "rating": "rating", "time": "timestamp"}
    data = first_bytes(archive, name)
    head = look(data, ",")
    names = [column.strip() for column in head.rows[0]]
    if not set(columns.values()) <= set(names):
        return None
    start = _row_start(head, data)
    refuse_quotes_of_file(data[:start], b",", archive.where(name))
    return TextPlan(
        layout="grouplens-csv",
        parts=(Part(name, start),),
        where=archive.where(name),
        delimiter=",",
        quotes=True,
        names=unique_names(names, archive.where(name)),
        roles={role: columns[role] for role in ROLES},
        types=dict(GROUPLENS_TYPES),
        first_row=2,
        newline=head.newline,
        quoted=len(field_quotes(data[start:], b",")) > 0 or head.newline != b"\n",
    )


def plan_recbole(archive: Archive, name: str) -> TextPlan:
    """Plan RecBole's `.inter` (tabs; header such as `user_id:token`)."""
    names, start = header(archive, name, "\t")
    where = archive.where(name)
    if not all(":" in column for column in names):
        raise DataError(
            f"{where} has the header {names}; RecBole's has a type behind each name, as in user_id:token"
        )
    typed = {column.split(":")[0]: column for column in unique_names(names, where)}
    roles = {role: typed[plain] for role, plain in choose_columns(list(typed), {}, where).items()}
    more = [column for column in typed.values() if column not in roles.values()]
    roles |= {
        CONTEXT + column.split(":")[0]: column for column in more if column.endswith((":token", ":float"))
    }
    types = {role: ID if is_category(role) else pa.float64() for role in roles}
    place = names.index(roles["time"])
    with archive.open(name) as stream:
        read_fully(stream, start)
        lines = read_fully(stream, HEAD_BYTES).decode("utf-8", "replace").split("\n")[:SAMPLE_ROWS]
    fields = (line.split("\t") for line in lines)
    texts = [row[place] for row in fields if len(row) == len(names)]
    refuse_few_digits(texts, where)
    numbers = parsed_or_null(pa.array(texts, pa.string()), pa.float64())
    times, notes = choose_rule(numbers, None, None, where)
    return TextPlan(
        layout="recbole",
        parts=(Part(name, start),),
        where=where,
        delimiter="\t",
        quotes=False,
        names=tuple(names),
        roles=roles,
        types=types,
        first_row=2,
        times=times,
        notes=tuple(notes),
    )


def _plan_grouplens(archive: Archive, name: str, layout: str, delimiter: str) -> TextPlan:
    """Plan four columns without a header."""
    roles = {role: role for role in ROLES}
    data = first_bytes(archive, name, may_be_empty=True)
    newline = look(data, delimiter).newline
    return TextPlan(
        layout=layout,
        parts=(Part(name, len(UTF8_BOM) if data.startswith(UTF8_BOM) else 0),),
        where=archive.where(name),
        delimiter=delimiter,
        quotes=False,
        names=GROUPLENS,
        roles=roles,
        types=dict(GROUPLENS_TYPES),
        newline=newline,
        quoted=newline != b"\n",
    )


def _row_start(head: Head, data: bytes) -> int:
    """Return the first byte behind the header."""
    return head.starts[1] if len(head.starts) > 1 else len(data)


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


def _users_dat(archive: Archive, ratings: str) -> UserProfiles | None:
    """Read `users.dat` (`::`): gender, age group, occupation, zip code."""
    return _people(archive, ratings, "users.dat", "::", ["user", "gender", "age", "occupation", "zip"])


def _u_user(archive: Archive, ratings: str) -> UserProfiles | None:
    """Read `u.user` (`|`): age in years, gender, occupation, zip code."""
    return _people(archive, ratings, "u.user", "|", ["user", "age", "gender", "occupation", "zip"])


def _people(
    archive: Archive, ratings: str, file: str, delimiter: str, names: list[str]
) -> UserProfiles | None:
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
    return UserProfiles(table["user"].combine_chunks(), pa.table(values))


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


def _recbole_features(archive: Archive, ratings: str) -> FeatureTable | None:
    """Read all columns of `.item`."""
    return _recbole_columns(archive, ratings, ".item", GUESSES["item"])


def _recbole_users(archive: Archive, ratings: str) -> UserProfiles | None:
    """Read all columns of `.user`."""
    found = _recbole_columns(archive, ratings, ".user", GUESSES["user"])
    return None if found is None else as_profiles(found)


def _recbole_columns(
    archive: Archive, ratings: str, suffix: str, ids: tuple[str, ...]
) -> FeatureTable | None:
    """Read a file beside `.inter`; None where it has ids only."""
    name = archive.neighbour(ratings, PurePosixPath(ratings).with_suffix(suffix).name)
    if name is None or len(header(archive, name, "\t")[0]) < 2:
        return None
    return features_of(archive, name, ids)


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


def _unknown(archive: Archive, ratings: str) -> None:
    """Know nothing about items, or users."""


LAYOUTS = (
    Layout("grouplens-dat", ("ratings.dat",), plan_dat, _movies_dat, _users_dat, _unknown),
    Layout("grouplens-100k", ("u.data",), plan_100k, _u_item, _u_user, _unknown),
    Layout("grouplens-csv", ("ratings.csv",), plan_csv, _movies_csv, _unknown, _unknown),
    Layout("recbole", ("*.inter",), plan_recbole, _recbole_items, _recbole_users, _recbole_features),
)
"""In the order in which they are looked for."""
TABLE = Layout("table", (), _unknown, _unknown, _unknown, _unknown)
"""Everything else."""
