"""From a source of ratings to a prepared folder: k-core, order, tables, shards, manifest. One machine, all in memory.

All work is done on whole columns (Arrow, NumPy). The folder appears at once, complete, or not at all.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ss4rec.data.prepare.k_core_rows import k_core as k_core_rows
from ss4rec.data.prepared import tables
from ss4rec.data.prepared.build import (
    describe_items,
    folder_tables,
    items_table,
    make_manifest,
    training_gaps,
    users_table,
)
from ss4rec.data.prepared.manifest import MANIFEST_NAME, Filters, Manifest, SourceRecord, file_record
from ss4rec.data.prepared.user_profiles import profiles_table
from ss4rec.data.sources import Archive, Rows, Rules, read_source
from ss4rec.data.sources.event_order import sorted_places
from ss4rec.data.sources.rows import Profiles
from ss4rec.data.sources.ties import Ties, hash_order
from ss4rec.errors import DataError
from ss4rec.io.paths import AnyPath

MIN_EVENTS = 3
"""Least events of a user: one to train on, one to validate, one to test."""


@dataclass(frozen=True)
class Sequences:
    """The events that stay, users behind one another in ascending id, each in the order (time, file order)."""

    user_ids: pa.Array
    """Source id of each user index, int64 or string, ascending."""
    item_ids: pa.Array
    """Source id of item 1, 2, ...; int64 or string, ascending."""
    titles: pa.Array
    """Title of item 1, 2, ...; null if unknown."""
    genres: pa.Array
    """list<string> of item 1, 2, ...; null if unknown."""
    offsets_U1: np.ndarray
    """First event of each user, and at the end the number of events."""
    items_E: np.ndarray
    """int32 item index, from 1."""
    times_E: np.ndarray
    """int64 unix seconds."""
    ratings_E: np.ndarray
    """float32."""
    profiles: Profiles | None = None
    """What is known about users."""


def prepare(
    source: Path,
    out: Path,
    *,
    k_core: int = 5,
    name: str | None = None,
    columns: Mapping[str, str] | None = None,
    rows_per_shard: int = 2048,
    overwrite: bool = False,
    rules: Rules | None = None,
    ties: Ties = "file",
    progress: Callable[[str], None] = lambda message: None,
) -> Manifest:
    """Read `source`, keep its k-core, and write a prepared folder.

    Args:
        source: a zip, a folder or a file in one of the known layouts (`ss4rec.data.sources`).
        out: folder to write; may not exist, or be empty, unless `overwrite`.
        k_core: least interactions of every user and item. Users with fewer than 3 events are dropped in any case.
        name: name of the data set; by default the source's, without its suffix.
        columns: column name of `user`, `item`, `time`, `rating` in a CSV or Parquet file.
        rows_per_shard: users a shard.
        overwrite: replace a folder that was prepared before.
        rules: what a row must be; rows that are not are left out and listed in `quarantine.parquet`, up to the share
            that the rules set. By default every row must be usable.
        ties: what decides between events of one user and second.
        progress: is told what is being done.

    Raises:
        DataError: if the source cannot be used, nothing is left, or `out` is taken; then nothing is written.
    """
    check_free(out, overwrite)
    archive = Archive(source)
    progress(f"reading {source}")
    rows = read_source(archive, columns, rules)
    progress(f"{k_core}-core of {len(rows.times_R):,} rows")
    rows_K, dropped = _kept_rows(rows, k_core)
    if not len(rows_K):
        raise none_left(source, rows.rows, k_core)
    sequences = order(rows, rows_K, ties)
    size, sha256 = archive.identity(rows.file)
    record = SourceRecord(
        name=source.resolve().name, layout=rows.layout, rows=rows.rows, bytes=size, sha256=sha256
    )
    progress(f"writing {out}")
    return write_prepared(
        out,
        sequences,
        name=name or source.resolve().stem,
        source=record,
        filters=Filters(k_core=k_core, ties="hash" if ties == "hash" else None),
        rows_dropped=dropped,
        rows_per_shard=rows_per_shard,
        overwrite=overwrite,
        bad=rows.bad,
    )


def none_left(source: object, rows: int, k_core: int) -> DataError:
    """Return the error about a source of which the filters leave nothing."""
    return DataError(
        f"{source}: of {rows:,} rows none is left with --k-core {k_core} and at least "
        f"{MIN_EVENTS} events a user; ask for a smaller core or give more data"
    )


def check_free(out: AnyPath, overwrite: bool, unfinished: bool = False) -> None:
    """Refuse an existing `out`, unless it is empty or, with `overwrite`, a prepared folder and nothing else.

    With `unfinished`, parts of a prepared folder may stand there without a manifest: an earlier attempt left them.

    Raises:
        DataError: saying what stands there.
    """
    if not out.exists():
        return
    if not out.is_dir():
        raise DataError(f"{out} is a file; give a folder that does not exist yet")
    names = {path.name for path in out.iterdir()}
    if not names:
        return
    known = {MANIFEST_NAME, tables.ITEMS_NAME, tables.USERS_NAME, tables.BAD_NAME, tables.SHARDS_FOLDER}
    known.add(tables.PROFILES_NAME)
    if names - known or not (MANIFEST_NAME in names or unfinished):
        raise DataError(
            f"{out} holds other files ({', '.join(sorted(names - known or names)[:5])}); give an empty folder"
        )
    if MANIFEST_NAME in names and not overwrite:
        raise DataError(f"{out} is a prepared folder already; add --overwrite to replace it")


def order(rows: Rows, rows_K: np.ndarray, ties: Ties = "file") -> Sequences:
    """Number users and items of the rows `rows_K` by ascending id and sort by user, time, and file order or hash."""
    user_ids, users_K = _renumber(rows.users.codes_R[rows_K], rows.users.values)
    item_ids, items_K = _renumber(rows.items.codes_R[rows_K], rows.items.values)
    times_K = rows.times_R[rows_K]
    by_hash = ties == "hash"
    order_K = hash_order(users_K, items_K + 1, times_K) if by_hash else sorted_places(users_K, times_K)
    titles, genres = describe_items(item_ids, rows.catalogue)
    return Sequences(
        user_ids=user_ids,
        item_ids=item_ids,
        titles=titles,
        genres=genres,
        offsets_U1=np.concatenate([[0], np.bincount(users_K).cumsum()]),
        items_E=items_K[order_K] + np.int32(1),
        times_E=times_K[order_K],
        ratings_E=rows.ratings_R[rows_K][order_K],
        profiles=rows.profiles,
    )


def write_prepared(
    out: Path,
    sequences: Sequences,
    *,
    name: str,
    source: SourceRecord,
    filters: Filters,
    rows_dropped: Mapping[str, int],
    rows_per_shard: int = 2048,
    overwrite: bool = False,
    bad: pa.Table | None = None,
) -> Manifest:
    """Write a prepared folder beside `out` and move it there when it is complete.

    Raises:
        DataError: if `out` is taken or cannot be written; then nothing is left behind.
    """
    check_free(out, overwrite)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as temporary:
            folder = Path(temporary) / "new"
            folder.mkdir()
            records = tables.write_shards(
                folder,
                items_E=sequences.items_E,
                times_E=sequences.times_E,
                ratings_E=sequences.ratings_E,
                offsets_U1=sequences.offsets_U1,
                rows_per_shard=rows_per_shard,
            )
            counts_V = np.bincount(sequences.items_E, minlength=len(sequences.item_ids) + 1)[1:]
            lengths_U = np.diff(sequences.offsets_U1)
            profiles, profile_values = profiles_table(sequences.user_ids, sequences.profiles)
            beside = folder_tables(
                items_table(sequences.item_ids, sequences.titles, sequences.genres, counts_V),
                users_table(sequences.user_ids, lengths_U, rows_per_shard),
                bad,
                profiles,
            )
            for file_name, table in beside.items():
                tables.write_table(table, folder / file_name)
            gaps = training_gaps(sequences.times_E, sequences.offsets_U1)
            manifest = make_manifest(
                beside,
                name=name,
                rows_dropped=rows_dropped,
                times_s=(int(sequences.times_E.min()), int(sequences.times_E.max())),
                gaps=(len(gaps), int((gaps == 0).sum()), float(np.median(gaps)) if len(gaps) else 0.0),
                source=source,
                filters=filters,
                shards=records,
                files={file_name: file_record(folder / file_name) for file_name in beside},
                profile_values=profile_values,
            )
            manifest.save(folder)
            if out.exists():
                out.rename(Path(temporary) / "old")
            folder.rename(out)
    except OSError as error:
        raise DataError(f"cannot write {out}: {error}; give another --out") from None
    return manifest


def _kept_rows(rows: Rows, k_core: int) -> tuple[np.ndarray, dict[str, int]]:
    """Return the rows that stay, rising, and how many were dropped for which reason."""
    users_R, items_R = rows.users.codes_R, rows.items.codes_R
    core_K = k_core_rows(users_R, items_R, k_core, k_core)
    long_K = core_K[k_core_rows(users_R[core_K], items_R[core_K], max(k_core, MIN_EVENTS), k_core)]
    return long_K, {"k_core": len(users_R) - len(core_K), "short_users": len(core_K) - len(long_K)}


def _renumber(codes_K: np.ndarray, values: pa.Array) -> tuple[pa.Array, np.ndarray]:
    """Return the ids in use, ascending, and the place of each row's id among them (int32)."""
    used_V = np.flatnonzero(np.bincount(codes_K))
    ids = values.take(pa.array(used_V))
    ascending_V = pc.sort_indices(ids).to_numpy()
    rank = np.zeros(len(values), np.int32)
    rank[used_V[ascending_V]] = np.arange(len(used_V), dtype=np.int32)
    return ids.take(pa.array(ascending_V)), rank[codes_K]
