"""Small tables that people bring, read whole: delimited text, JSON lines, Parquet, packed or in a zip, or RecBole's.

They are read by the rules of `--source`: the same delimiters, quotes and packings, and refused where those are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from ss4rec.data.sources.archive import Archive
from ss4rec.data.sources.columns import GUESSES
from ss4rec.data.sources.delimited import read_delimited
from ss4rec.data.sources.head import find_head, first_bytes, look, unique_names
from ss4rec.data.sources.packed import bare_name, unreadable_kind
from ss4rec.data.sources.plan_table import JSON_SUFFIXES, PARQUET_SUFFIXES, SUFFIXES, TEXT_SUFFIXES
from ss4rec.data.sources.quotes import UTF8_BOM
from ss4rec.data.sources.rows import plain_ids
from ss4rec.data.sources.table import decoded, open_parquet
from ss4rec.data.sources.times import is_bytes, is_text
from ss4rec.errors import DataError
from ss4rec.io.paths import AnyPath
from ss4rec.io.untrusted import parse_json

DELIMITERS = (",", "\t", ";", "|", "::")
"""What may separate columns; blanks stand within titles."""
RECBOLE = (".item", ".user")
SEQUENCES = ("token_seq", "float_seq")
"""RecBole's types of lists, whose parts are separated by blanks."""
MAX_INT = 2**63 - 1


@dataclass(frozen=True)
class SmallTable:
    """A table with plain columns: int64, float64 (null for NaN), string, lists of these."""

    where: str
    """What messages call the file."""
    table: pa.Table
    left_out: tuple[str, ...] = ()
    """Columns of structures, which are not read."""


def read_small(path: AnyPath) -> SmallTable:
    """Read a file.

    Args:
        path: delimited text, JSON lines or Parquet, packed or not; RecBole's `.item` and `.user`, whose header has
            types as in `price:float`; also in a zip, as in `shop.zip/items.csv`.

    Raises:
        DataError: if it cannot be read.
    """
    archive, name = _opened(path)
    return small_table(archive, name)


def small_table(archive: Archive, name: str) -> SmallTable:
    """Read a file of an archive; see `read_small`."""
    where, suffix = archive.where(name), PurePosixPath(bare_name(name)).suffix
    if suffix in PARQUET_SUFFIXES:
        with open_parquet(archive, name) as file:
            table = file.read()
        unique_names(table.column_names, where)
        return _plain(where, dict(zip(table.column_names, table.columns, strict=True)))
    data = first_bytes(archive, name)
    if suffix in JSON_SUFFIXES or data.removeprefix(UTF8_BOM).lstrip()[:1] == b"{":
        return _plain(where, _json_columns(archive, name))
    if suffix in RECBOLE:
        return SmallTable(where, _recbole_table(archive, name, data))
    return SmallTable(where, _text_table(archive, name, data, TEXT_SUFFIXES.get(suffix, ",")))


def id_column(names: Sequence[str], id_names: Sequence[str]) -> str | None:
    """Return the column of ids by its name, best first; case and underscores do not matter."""
    plain = {name.strip().replace("_", "").lower(): name for name in reversed(names)}
    return next((plain[key] for name in id_names if (key := name.replace("_", "")) in plain), None)


def _opened(path: AnyPath) -> tuple[Archive, str]:
    """Return the archive and the name of a file in it.

    Raises:
        DataError: if there is none, or several may be meant.
    """
    if isinstance(path, Path) and not path.exists():
        for folder in path.parents:
            if folder.suffix.lower() == ".zip" and folder.is_file():
                return _member(Archive(folder), path.relative_to(folder).as_posix())
    if not path.exists():
        raise DataError(f"{path} does not exist; give a file with a table, as CSV, JSON lines or Parquet")
    kind = None if path.suffix.lower() == ".zip" else unreadable_kind(path.name)
    if kind:
        raise DataError(f"{path} {kind}")
    archive = Archive(path)
    names = archive.given if archive.is_file else archive.find_table(SUFFIXES)
    if len(names) != 1:
        raise DataError(
            f"{path} has {len(names)} files that may be the table; give one file, of a zip as in x.zip/items.csv"
        )
    return archive, names[0]


def _member(archive: Archive, member: str) -> tuple[Archive, str]:
    """Return the one member of a zip whose path ends so."""
    found = [name for name in archive.names if f"/{name}".endswith(f"/{member}")]
    if len(found) != 1:
        raise DataError(f"{archive.path} has {len(found)} files {member}; it has {', '.join(archive.names)}")
    return archive, found[0]


def _text_table(archive: Archive, name: str, data: bytes, first: str) -> pa.Table:
    """Read delimited text whose header has names."""
    where = archive.where(name)
    known = (*GUESSES["item"], *GUESSES["user"])
    head = find_head(data, first, lambda names: id_column(names, known) is not None, 2, where, DELIMITERS)
    labels = list(unique_names(head.rows[0], where))
    types: dict[str, pa.DataType | None] = dict.fromkeys(labels, pa.string())
    table = read_delimited(archive, name, head.delimiter, types, names=labels, quotes=head.quotes).slice(1)
    blanks = len(labels) > 1 and all(label.startswith(" ") for label in head.rows[0][1:])
    ids = {id_column(labels, GUESSES["item"]), id_column(labels, GUESSES["user"])}
    ids = ids - {None} or {labels[0]}
    columns = {}
    for label in labels:
        texts = table[label].combine_chunks()
        texts = pc.utf8_trim_whitespace(texts) if blanks else texts
        columns[label] = plain_ids(texts) if label in ids else _number_or_text(texts)
    return pa.table(columns)


def _recbole_table(archive: Archive, name: str, data: bytes) -> pa.Table:
    """Read RecBole's `.item` and `.user`: tabs, no quotes, a type behind each name."""
    labels = list(unique_names(look(data, "\t").rows[0], archive.where(name)))
    types: dict[str, pa.DataType | None] = dict.fromkeys(labels, pa.string())
    table = read_delimited(archive, name, "\t", types, names=labels).slice(1)
    columns = {}
    for label in labels:
        plain, _, kind = label.partition(":")
        texts = table[label].combine_chunks()
        if kind in SEQUENCES:
            parts = pc.split_pattern(texts, " ")
            try:
                columns[plain] = parts.cast(pa.list_(pa.float32())) if kind == "float_seq" else parts
            except pa.ArrowInvalid as error:
                raise DataError(
                    f"{archive.where(name)}: {label} is no list of numbers ({str(error).splitlines()[0]}); "
                    "repair it, or call it token_seq"
                ) from None
        else:
            columns[plain] = texts if kind == "token" else _number_or_text(texts)
    return pa.table(columns)


def _number_or_text(texts: pa.Array) -> pa.Array:
    """Return a column of texts as numbers if that loses nothing; a code with a leading zero is no number."""
    whole = plain_ids(texts)
    if whole.type == pa.int64() or pc.any(pc.match_substring_regex(texts, r"^[+-]?0\d")).as_py():
        return whole
    try:
        return _without_nan(pc.utf8_trim_whitespace(texts).cast(pa.float64()))
    except pa.ArrowInvalid:
        return texts


def _json_columns(archive: Archive, name: str) -> dict[str, list[Any]]:
    """Return the values of each key of JSON lines.

    Raises:
        DataError: naming the first line that is no object.
    """
    where = archive.where(name)
    with archive.open(name) as stream:
        lines = stream.read().removeprefix(UTF8_BOM).split(b"\n")
    columns: dict[str, list[Any]] = {}
    count = 0
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            found = parse_json(line)
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise DataError(
                f"{where}, line {number}: {line[:60]!r} is no JSON object; write one object per line "
                "(pandas: to_json(orient='records', lines=True))"
            )
        for key, value in found.items():
            # A key that earlier lines lack is unknown there.
            columns.setdefault(key, [None] * count).append(value)
        count += 1
        for values in columns.values():
            values.extend([None] * (count - len(values)))
    return columns


def _plain(where: str, columns: dict[str, Any]) -> SmallTable:
    """Return columns of any kind as plain ones, without those that hold structures."""
    kept: dict[str, pa.Array] = {}
    left_out = []
    for name, values in columns.items():
        try:
            column = _plain_list(values) if isinstance(values, list) else _plain_array(values)
        except (pa.ArrowException, UnicodeEncodeError) as error:
            raise DataError(
                f"{where}: column {name} cannot be read ({str(error).splitlines()[0]}); write it as numbers or texts"
            ) from None
        if column is None:
            left_out.append(name)
        else:
            kept[name] = column
    return SmallTable(where, pa.table(kept), tuple(left_out))


def _plain_list(values: list[Any]) -> pa.Array | None:
    """Return JSON's values as an array; None for objects, and for lists of other things than texts and numbers."""
    kinds = {type(value) for value in values if value is not None}
    if dict in kinds or (list in kinds and len(kinds) > 1):
        return None
    if kinds == {list}:
        inner = {type(part) for value in values for part in value or ()}
        if inner <= {int, float} and float in inner:
            return pa.array(values, pa.list_(pa.float64()))
        if inner & {list, dict}:
            return None
        texts = [value and [str(part) for part in value if part is not None] for value in values]
        return pa.array(texts, pa.list_(pa.string()))
    if kinds == {int} and all(value is None or abs(value) <= MAX_INT for value in values):
        return pa.array(values, pa.int64())
    if float in kinds and kinds <= {int, float}:
        return _without_nan(pa.array([None if v is None else float(v) for v in values], pa.float64()))
    texts = [str(v).lower() if isinstance(v, bool) else None if v in (None, "") else str(v) for v in values]
    return pa.array(texts, pa.string())


def _plain_array(column: pa.ChunkedArray) -> pa.Array | None:
    """Return a column of Parquet in a plain type; None for structures, maps, and lists of lists."""
    values = decoded(column)
    kind = values.type
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return _plain_lists(values)
    if pa.types.is_nested(kind):
        return None
    if pa.types.is_null(kind):
        return pa.nulls(len(values), pa.string())
    if is_text(kind) or is_bytes(kind) or pa.types.is_boolean(kind):
        texts = values.cast(pa.string())
        return pc.if_else(pc.equal(texts, ""), pa.scalar(None, pa.string()), texts)
    if pa.types.is_uint64(kind) and (pc.max(values).as_py() or 0) > MAX_INT:
        return values.cast(pa.string())
    if pa.types.is_integer(kind):
        return values.cast(pa.int64())
    if pa.types.is_date(kind) or pa.types.is_timestamp(kind):
        seconds = values.cast(pa.timestamp("s"), safe=False)
        return seconds.cast(pa.int64()).cast(pa.float64())
    return _without_nan(values.cast(pa.float64(), safe=False))


def _plain_lists(values: pa.Array) -> pa.Array | None:
    """Return lists of texts or numbers; None where they hold anything else."""
    inner = values.type.value_type
    if pa.types.is_nested(inner):
        return None
    if pa.types.is_floating(inner) or pa.types.is_decimal(inner):
        return values.cast(pa.list_(pa.float64()), safe=False)
    if pa.types.is_dictionary(inner):
        return pa.array(values.to_pylist(), pa.list_(pa.string()))
    return values.cast(pa.list_(pa.string()))


def _without_nan(values: pa.Array) -> pa.Array:
    return pc.if_else(pc.is_nan(values), pa.scalar(None, values.type), values)
