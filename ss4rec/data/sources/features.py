"""Files of features that people bring beside ratings: an id and any columns, as CSV, TSV, Parquet or RecBole's."""

from __future__ import annotations

import csv
import math
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from ss4rec.data.sources.archive import Archive
from ss4rec.data.sources.columns import GUESSES
from ss4rec.data.sources.quotes import refuse_quotes_of_file
from ss4rec.data.sources.rows import UserProfiles, plain_ids
from ss4rec.errors import DataError
from ss4rec.io.paths import AnyPath

MAX_GROUPS = 8
"""Numbers of users become groups of about equal size, at most this many."""
SEQUENCES = ("token_seq", "float_seq")
"""RecBole's types of lists, whose parts are separated by blanks."""


@dataclass(frozen=True)
class FeatureTable:
    """What a file says about items or users, a row each."""

    where: str
    """What messages call the file."""
    source_id: pa.Array
    """int64 or string, each once."""
    columns: pa.Table
    """Any other columns."""


def read_features(path: AnyPath, id_names: tuple[str, ...], *, several: bool = False) -> FeatureTable:
    """Read a file of features.

    Args:
        path: `.csv`, `.tsv`, `.parquet`, or RecBole's `.item` and `.user`, whose header has types as in `price:float`;
            also in a zip, as in `shop.zip/items.csv`.
        id_names: names of the column of ids, best first; case and underscores do not matter. Without one of them it is
            the first column.
        several: whether an id may have several rows where a column says which user each comes from, as in a list of
            tags: each column of texts then has all values of an id; user, time and rating are left out.

    Raises:
        DataError: if it cannot be read, an id is missing or comes twice, or there is no other column.
    """
    return _features(lambda: read_plain(path), str(path), id_names, several)


def features_of(data: bytes, suffix: str, where: str, id_names: tuple[str, ...]) -> FeatureTable:
    """Read the content of such a file; `where` is what messages call it. Errors as of `read_features`."""
    return _features(lambda: parse_plain(data, suffix, where), where, id_names, several=False)


def _features(
    read: Callable[[], pa.Table], where: str, id_names: tuple[str, ...], several: bool
) -> FeatureTable:
    try:
        table = read()
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{where} cannot be read as a table of features ({str(error).splitlines()[0]}); give CSV, TSV or Parquet"
        ) from None
    plain = {name.replace("_", "").lower(): name for name in reversed(table.column_names)}
    wanted = [plain[name.replace("_", "")] for name in id_names if name.replace("_", "") in plain]
    id_name = wanted[0] if wanted else table.column_names[0]
    ids = table[id_name].combine_chunks()
    ids = (
        plain_ids(ids)
        if pa.types.is_string(ids.type)
        else ids.cast(pa.int64() if _whole(ids) else pa.string())
    )
    rest = table.drop_columns([id_name])
    if several and not ids.null_count and _said_by_users(rest) and len(ids.unique()) < len(ids):
        ids, rest = _gathered(where, ids, rest, id_names)
    if ids.null_count or len(ids.unique()) < len(ids):
        raise DataError(f"{where}: column {id_name} has empty or repeated ids; each needs one row")
    if not rest.num_columns:
        raise DataError(f"{where} has no column beside {id_name}; give a file with features")
    return FeatureTable(where, ids, rest)


def as_profiles(known: FeatureTable) -> UserProfiles:
    """Return features of users as profiles: a text for each column, numbers as groups of about equal size."""
    columns = {name: _grouped(known.columns[name]) for name in known.columns.column_names}
    return UserProfiles(known.source_id, pa.table(columns))


def join_profiles(said: UserProfiles | None, brought: UserProfiles | None) -> UserProfiles | None:
    """Return what a source and a file of features say about users; of two columns of one name the file's counts."""
    if said is None or brought is None:
        return said or brought
    ids = pa.concat_arrays([said.source_id.cast(pa.string()), brought.source_id.cast(pa.string())]).unique()
    columns: dict[str, pa.ChunkedArray] = {}
    for part in (said, brought):
        places = pc.index_in(ids, part.source_id.cast(pa.string()))
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


def _content(path: AnyPath) -> bytes:
    """Return the bytes of a file, or of a member of a zip.

    Raises:
        DataError: if the zip has no such member, or several.
    """
    if isinstance(path, Path) and not path.exists():
        for folder in path.parents:
            if folder.suffix.lower() == ".zip" and folder.is_file():
                archive, member = Archive(folder), path.relative_to(folder).as_posix()
                found = [name for name in archive.names if f"/{name}".endswith(f"/{member}")]
                if len(found) != 1:
                    raise DataError(
                        f"{folder} has {len(found)} files {member}; it has {', '.join(archive.names)}"
                    )
                with archive.open(found[0]) as stream:
                    return stream.read()
    return path.read_bytes()


def read_plain(path: AnyPath) -> pa.Table:
    """Read a CSV, TSV or Parquet file, or one of RecBole's, with plain types; raises what Arrow does.

    Raises:
        DataError: as `_content`.
    """
    return parse_plain(_content(path), PurePosixPath(str(path)).suffix.lower(), str(path))


def parse_plain(data: bytes, suffix: str, where: str) -> pa.Table:
    """Read the content of such a file; raises what Arrow does.

    Raises:
        DataError: if quotes do not say where a field ends; `where` is what messages call the file.
    """
    if suffix == ".parquet":
        return pq.read_table(pa.BufferReader(data))
    delimiter, quotes = (",", '"') if suffix == ".csv" else ("\t", False)
    if quotes:
        refuse_quotes_of_file(data, delimiter.encode(), where)
    names = next(csv.reader([data[: data.find(b"\n") + 1].decode("utf-8-sig")], delimiter=delimiter), [])
    # All as text first: what Arrow takes for numbers may be codes such as 007.
    texts = pacsv.read_csv(
        pa.BufferReader(data),
        parse_options=pacsv.ParseOptions(
            delimiter=delimiter, quote_char=quotes, newlines_in_values=bool(quotes)
        ),
        convert_options=pacsv.ConvertOptions(
            column_types=dict.fromkeys(names, pa.string()), null_values=[""], strings_can_be_null=True
        ),
    )
    typed = suffix in (".item", ".user")
    columns = {}
    for name in texts.column_names:
        plain, _, kind = name.partition(":") if typed else (name, "", "")
        column = texts[name].combine_chunks()
        if kind in SEQUENCES:
            parts = pc.split_pattern(column, " ")
            columns[plain] = parts.cast(pa.list_(pa.float32())) if kind == "float_seq" else parts
        else:
            columns[plain] = column if kind == "token" else _number_or_text(column)
    return pa.table(columns)


def _number_or_text(column: pa.Array) -> pa.Array:
    """Return a column of texts as numbers if that loses nothing; a code with a leading zero is no number."""
    whole = plain_ids(column)
    if whole.type == pa.int64() or pc.any(pc.match_substring_regex(column, r"^[+-]?0\d")).as_py():
        return whole
    try:
        return column.cast(pa.float64())
    except pa.ArrowInvalid:
        return column


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
