"""Writes a prepared folder as RecBole's atomic files: NAME.inter, NAME.item, NAME.user; reading them is a layout of
`prepare`.

Columns that people brought go along: about items into `.item`, about users into `.user`, about events into `.inter`.

What does not come back: spaces in genres and tags (RecBole splits tokens at them; they become underscores), the
difference between no genres and unknown genres, and features of hashed words, of which only buckets are known.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ss4rec.data.batches.windows import ragged
from ss4rec.data.prepared.folder import PreparedFolder
from ss4rec.data.prepared.item_codes import brought
from ss4rec.data.prepared.manifest import Feature, Manifest
from ss4rec.data.prepared.tables import FEATURE_PREFIX, read_shard
from ss4rec.data.sources.rows import CONTEXT
from ss4rec.errors import DataError
from ss4rec.io.atomic import new_folder
from ss4rec.io.paths import AnyPath

OTHER = "other"
"""Stands for all values that are too rare to have a code."""


def export_recbole(data: PreparedFolder | AnyPath, out: Path, name: str | None = None) -> dict[str, int]:
    """Write `out`, a folder as RecBole looks for it (`data_path/NAME/NAME.inter`), one shard at a time.

    Args:
        data: prepared folder.
        out: new folder.
        name: name of the files; by default that of the folder `out`, as RecBole wants it.

    Returns:
        Lines of each file.

    Raises:
        DataError: if `data` cannot be read, `out` is taken, or an id or a title holds a tab or a line break.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"{out} is taken; give a new --out")
    name = name or out.name
    prepared = PreparedFolder.open(data)
    items, users = prepared.items, prepared.users
    context = prepared.manifest.context or ()
    with new_folder(out) as folder:
        _write(folder / f"{name}.item", [_item_table(items, brought(prepared.manifest))])
        _write(folder / f"{name}.user", [_user_table(prepared)])
        parts = (_inter_table(read_shard(path), items, users, context) for path in prepared.shard_paths)
        _write(folder / f"{name}.inter", parts)
    return {"inter": prepared.manifest.interactions, "item": items.num_rows, "user": users.num_rows}


def not_exported(manifest: Manifest) -> tuple[str, ...]:
    """Return the features of items that RecBole's files do not get: of hashed words."""
    return tuple(feature.name for feature in brought(manifest) if feature.kind == "text")


def _inter_table(shard: pa.Table, items: pa.Table, users: pa.Table, context: tuple[Feature, ...]) -> pa.Table:
    """Return a line an event, in the order of the shard."""
    items_T, offsets_S1 = ragged(shard["items"])
    times_T, ratings_T = ragged(shard["timestamps"])[0], ragged(shard["ratings"])[0]
    users_T = np.repeat(shard["user"].to_numpy(), np.diff(offsets_S1))
    own = {
        "user_id:token": users["source_id"].take(pa.array(users_T)),
        "item_id:token": items["source_id"].take(pa.array(items_T - 1)),
        "rating:float": pa.array(ratings_T),
        "timestamp:float": pa.array(times_T),
    }
    return pa.table(
        own
        | dict(_column(feature, pa.array(ragged(shard[CONTEXT + feature.name])[0])) for feature in context)
    )


def _user_table(prepared: PreparedFolder) -> pa.Table:
    """Return a line a user, with what is known of users."""
    columns = {"user_id:token": prepared.users["source_id"]}
    values = prepared.manifest.profile_values or ()
    codes_UF = prepared.profiles_UF
    if codes_UF is None:
        return pa.table(columns)
    names = list(dict.fromkeys(value.partition("=")[0] for value in values))
    texts = pa.array(["", *(value.partition("=")[2] for value in values)])
    owners = np.array([-1, *(names.index(value.partition("=")[0]) for value in values)])
    for place, name in enumerate(names):
        codes_U = np.where(owners[codes_UF] == place, codes_UF, 0).max(axis=1, initial=0)
        columns[f"{name}:token"] = texts.take(pa.array(codes_U))
    return pa.table(columns)


def _column(feature: Feature, values: pa.Array) -> tuple[str, pa.Array]:
    """Return a column as RecBole has it, with its type; what is unknown is empty."""
    texts = pa.array(["", *(feature.values or ()), OTHER])
    if feature.kind == "number":
        known = pc.if_else(pc.is_nan(values), pa.scalar(None, values.type), values)
        return f"{feature.name}:float", pc.fill_null(known.cast(pa.string()), "")
    if feature.kind == "categorical":
        return f"{feature.name}:token", texts.take(values)
    if feature.kind == "vector":
        numbers = (" ".join(f"{part:g}" for part in row) for row in values.to_pylist())
        return f"{feature.name}:float_seq", pa.array(numbers, pa.string())
    parts = texts.to_pylist()
    rows = (" ".join(parts[code].replace(" ", "_") for code in row) for row in values.to_pylist())
    return f"{feature.name}:token_seq", pa.array(rows, pa.string())


def _item_table(items: pa.Table, features: tuple[Feature, ...]) -> pa.Table:
    """Return a line an item; what is unknown is empty."""
    genres = [
        " ".join(genre.replace(" ", "_") for genre in found or ()) for found in items["genres"].to_pylist()
    ]
    own = {
        "item_id:token": items["source_id"],
        "movie_title:token_seq": pc.fill_null(items["title"], ""),
        "genre:token_seq": pa.array(genres, pa.string()),
    }
    # Of data that came from RecBole title and genres are features too.
    taken = [name.partition(":")[0] for name in own]
    more = [feature for feature in features if feature.kind != "text" and feature.name not in taken]
    return pa.table(
        own
        | dict(_column(feature, items[FEATURE_PREFIX + feature.name].combine_chunks()) for feature in more)
    )


def _write(path: Path, tables: Iterable[pa.Table]) -> None:
    """Write tables of one schema with tabs between fields; RecBole knows no quotes, so a quote is as any character."""
    with path.open("wb") as stream:
        for number, table in enumerate(tables):
            if number == 0:
                stream.write(("\t".join(table.column_names) + "\n").encode())
            columns = [column.combine_chunks().cast(pa.string()) for column in table.columns]
            for name, column in zip(table.column_names, columns, strict=True):
                broken = column.filter(pc.match_substring_regex(column, r"[\t\r\n]"))
                if len(broken):
                    raise DataError(
                        f"{path.name} cannot hold {name} {broken[0].as_py()!r}: fields of RecBole's files end at "
                        "tabs and line breaks; rename it"
                    )
            lines = pc.binary_join_element_wise(*columns, "\t")
            ended = pc.binary_join_element_wise(lines, "", "\n")
            stream.write(memoryview(ended.buffers()[2])[: _bytes_of(ended)] if len(ended) else b"")


def _bytes_of(texts: pa.Array) -> int:
    """Return the bytes of all strings of an array that is no slice."""
    return int(pc.sum(pc.binary_length(texts)).as_py())
