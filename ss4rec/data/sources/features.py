"""Files of features that people bring beside ratings: an id and any columns."""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass
from typing import Literal, overload

import pyarrow as pa
import pyarrow.compute as pc

from ss4rec.data.ids import look_up
from ss4rec.data.sources.archive import Archive
from ss4rec.data.sources.columns import GUESSES
from ss4rec.data.sources.rows import UserProfiles, plain_ids
from ss4rec.data.sources.small_tables import SmallTable, id_column, read_small, small_table
from ss4rec.errors import DataError
from ss4rec.io.paths import AnyPath

MAX_GROUPS = 8
"""Numbers of users become groups of about equal size, at most this many."""


@dataclass(frozen=True)
class FeatureTable:
    """What a file says about items or users, a row each."""

    where: str
    """What messages call the file."""
    source_id: pa.Array
    """int64 or string, each once."""
    columns: pa.Table
    """Any other columns: int64, float64, string, or lists of numbers or texts."""
    notes: tuple[str, ...] = ()
    """What the user should know about how it was read."""


def read_features(path: AnyPath, id_names: tuple[str, ...], *, several: bool = False) -> FeatureTable:
    """Read a file of features.

    Args:
        path: a table as `read_small` takes: delimited text, JSON lines, Parquet, RecBole's `.item` and `.user`, packed
            or in a zip, as in `shop.zip/items.csv`.
        id_names: names of the column of ids, best first; case and underscores do not matter. Without one of them it is
            the first column.
        several: whether an id may have several rows where a column says which user each comes from, as in a list of
            tags: each column of texts then has all values of an id; user, time and rating are left out.

    Raises:
        DataError: if it cannot be read, an id is missing or comes twice, or there is no other column.
    """
    return _features(read_small(path), id_names, several)


def read_brought(path: AnyPath, role: Literal["item", "user"]) -> FeatureTable:
    """Read a file that is brought beside ratings; errors as of `read_features`. An item may have rows by many users."""
    return read_features(path, GUESSES[role], several=role == "item")


def features_of(archive: Archive, name: str, id_names: tuple[str, ...]) -> FeatureTable:
    """Read such a file of an archive; errors as of `read_features`."""
    return _features(small_table(archive, name), id_names, several=False)


def _features(read: SmallTable, id_names: tuple[str, ...], several: bool) -> FeatureTable:
    """Return ids and features of a small table; raises DataError as its caller says."""
    where, table = read.where, read.table
    if not table.num_columns:
        raise DataError(f"{where} has no column of texts or numbers; give a file with features")
    id_name = id_column(table.column_names, id_names) or table.column_names[0]
    ids = table[id_name].combine_chunks()
    ids = plain_ids(ids) if pa.types.is_string(ids.type) else ids
    if pa.types.is_list(ids.type):
        raise DataError(f"{where}: column {id_name} holds lists; ids are texts or whole numbers")
    ids = ids if _whole(ids) else ids.cast(pa.string())
    rest = table.drop_columns([id_name])
    if several and not ids.null_count and _said_by_users(rest) and len(ids.unique()) < len(ids):
        ids, rest = _gathered(where, ids, rest, id_names)
    if ids.null_count or len(ids.unique()) < len(ids):
        raise DataError(f"{where}: column {id_name} has empty or repeated ids; each needs one row")
    if not rest.num_columns:
        structures = f" but for structures ({', '.join(read.left_out)})" if read.left_out else ""
        raise DataError(f"{where} has no column beside {id_name}{structures}; give a file with features")
    if not rest.num_rows:
        raise DataError(f"{where} has no rows; give a file with features")
    names = ", ".join(read.left_out)
    notes = (f"{where}: columns of structures are not read: {names}",) if names else ()
    return FeatureTable(where, ids, rest, notes)


@overload
def as_profiles(known: FeatureTable) -> UserProfiles: ...
@overload
def as_profiles(known: FeatureTable | None) -> UserProfiles | None: ...
def as_profiles(known: FeatureTable | None) -> UserProfiles | None:
    """Return features of users as profiles: a text for each column, numbers as groups of about equal size."""
    if known is None:
        return None
    columns = {name: _grouped(known.columns[name]) for name in known.columns.column_names}
    return UserProfiles(known.source_id, pa.table(columns))


def join_profiles(said: UserProfiles | None, brought: UserProfiles | None) -> UserProfiles | None:
    """Return what a source and a file of features say about users; of two columns of one name the file's counts."""
    if said is None or brought is None:
        return said or brought
    ids = pa.concat_arrays([said.source_id.cast(pa.string()), brought.source_id.cast(pa.string())]).unique()
    columns: dict[str, pa.ChunkedArray] = {}
    for part in (said, brought):
        places = look_up(ids, part.source_id)
        columns |= {name: part.values[name].take(places) for name in part.values.column_names}
    return UserProfiles(ids, pa.table(columns))


def _said_by_users(rest: pa.Table) -> bool:
    """Whether a column names users."""
    users = {name.replace("_", "") for name in GUESSES["user"]}
    return any(name.replace("_", "").lower() in users for name in rest.column_names)


def _gathered(
    where: str, ids: pa.Array, rest: pa.Table, id_names: tuple[str, ...]
) -> tuple[pa.Array, pa.Table]:
    """Return each id once, with all values of each column of texts.

    Raises:
        DataError: for a column of numbers, which cannot be several.
    """
    others = (role for role, names in GUESSES.items() if names != id_names)
    events = {name.replace("_", "") for role in others for name in GUESSES[role]}
    different = ids.unique()
    place_R = pc.index_in(ids, different).to_pylist()
    columns: dict[str, pa.Array] = {}
    for name in rest.column_names:
        if name.replace("_", "").lower() in events:
            continue
        if not pa.types.is_string(rest[name].type):
            raise DataError(
                f"{where}: ids come several times, so {name} would have several numbers; give each id one row, or texts"
            )
        values: list[list[str]] = [[] for _ in range(len(different))]
        for place, text in zip(place_R, rest[name].to_pylist(), strict=True):
            if text is not None:
                values[place].append(text)
        columns[name] = pa.array(values, pa.list_(pa.string()))
    return different, pa.table(columns)


def _grouped(column: pa.ChunkedArray) -> pa.ChunkedArray | pa.Array:
    """Return the texts of a column; many different numbers become groups such as `18 to below 25`."""
    if pa.types.is_list(column.type):
        texts = ["|".join(map(str, value)) if value else None for value in column.to_pylist()]
        return pa.array(texts, pa.string())
    if not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type)):
        return column.cast(pa.string())
    known = sorted(value for value in column.to_pylist() if value is not None and not math.isnan(value))
    if len(set(known)) <= MAX_GROUPS:
        return column.cast(pa.string())
    lows = sorted({known[len(known) * part // MAX_GROUPS] for part in range(MAX_GROUPS)})
    ends = [f" to below {low:g}" for low in lows[1:]] + [" and more"]
    labels = [f"{low:g}{end}" for low, end in zip(lows, ends, strict=True)]
    found = [
        None if value is None or math.isnan(value) else labels[bisect_right(lows, value) - 1]
        for value in column.to_pylist()
    ]
    return pa.array(found, pa.string())


def _whole(ids: pa.Array) -> bool:
    return bool(pa.types.is_integer(ids.type))
