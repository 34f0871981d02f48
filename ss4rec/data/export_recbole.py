"""Writes a prepared folder as RecBole's atomic files: NAME.inter, NAME.item, NAME.user; reading them is a layout of
`prepare`.

What does not come back: a genre's spaces (RecBole splits tokens at them; they become underscores), and the
difference between no genres and unknown genres.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ss4rec.data.batches.windows import ragged
from ss4rec.data.prepared.folder import PreparedFolder
from ss4rec.data.prepared.tables import read_shard
from ss4rec.errors import DataError
from ss4rec.io.atomic import new_folder
from ss4rec.io.paths import AnyPath


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
    with new_folder(out) as folder:
        _write(folder / f"{name}.item", [_item_table(items)])
        _write(folder / f"{name}.user", [users.select(["source_id"]).rename_columns(["user_id:token"])])
        parts = (_inter_table(read_shard(path), items, users) for path in prepared.shard_paths)
        _write(folder / f"{name}.inter", parts)
    return {"inter": prepared.manifest.interactions, "item": items.num_rows, "user": users.num_rows}


def _inter_table(shard: pa.Table, items: pa.Table, users: pa.Table) -> pa.Table:
    """Return a line an event, in the order of the shard."""
    items_T, offsets_S1 = ragged(shard["items"])
    times_T, ratings_T = ragged(shard["timestamps"])[0], ragged(shard["ratings"])[0]
    users_T = np.repeat(shard["user"].to_numpy(), np.diff(offsets_S1))
    return pa.table(
        {
            "user_id:token": users["source_id"].take(pa.array(users_T)),
            "item_id:token": items["source_id"].take(pa.array(items_T - 1)),
            "rating:float": pa.array(ratings_T),
            "timestamp:float": pa.array(times_T),
        }
    )


def _item_table(items: pa.Table) -> pa.Table:
    """Return a line an item; what is unknown is empty."""
    genres = [
        " ".join(genre.replace(" ", "_") for genre in found or ()) for found in items["genres"].to_pylist()
    ]
    return pa.table(
        {
            "item_id:token": items["source_id"],
            "movie_title:token_seq": pc.fill_null(items["title"], ""),
            "genre:token_seq": pa.array(genres, pa.string()),
        }
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
