"""The tables and the manifest of a prepared folder, made from columns; both engines of `prepare` end here."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ss4rec.data.prepared import tables
from ss4rec.data.prepared.manifest import FileRecord, Filters, Manifest, ShardRecord, SourceRecord
from ss4rec.data.sources.checks import count_reasons
from ss4rec.data.sources.rows import Catalogue


def describe_items(item_ids: pa.Array, known: Catalogue | None) -> tuple[pa.Array, pa.Array]:
    """Return title and genres of each item, null if the source does not know them."""
    if known is None:
        return pa.nulls(len(item_ids), pa.string()), pa.nulls(len(item_ids), pa.list_(pa.string()))
    # As text, since one side may be whole numbers only while the other is not.
    places = pc.index_in(item_ids.cast(pa.string()), known.source_id.cast(pa.string()))
    return known.title.take(places), known.genres.take(places)


def items_table(item_ids: pa.Array, titles: pa.Array, genres: pa.Array, counts_V: np.ndarray) -> pa.Table:
    """Return `items.parquet`: ids ascending, each with its number of kept interactions."""
    columns = {
        "item": np.arange(1, len(item_ids) + 1),
        "source_id": item_ids,
        "title": titles,
        "genres": genres,
        "count": counts_V,
    }
    return pa.table(columns, schema=tables.items_schema(item_ids.type))


def users_table(user_ids: pa.Array, lengths_U: np.ndarray, rows_per_shard: int) -> pa.Table:
    """Return `users.parquet`: ids ascending, each with its number of kept events."""
    users_U = np.arange(len(user_ids))
    columns = {
        "user": users_U,
        "source_id": user_ids,
        "count": lengths_U,
        "shard": users_U // rows_per_shard,
    }
    return pa.table(columns, schema=tables.users_schema(user_ids.type))


def folder_tables(
    items: pa.Table, users: pa.Table, bad: pa.Table | None, profiles: pa.Table | None = None
) -> dict[str, pa.Table]:
    """Return the tables beside the shards by file name."""
    found = {tables.ITEMS_NAME: items, tables.USERS_NAME: users}
    if profiles is not None:
        found[tables.PROFILES_NAME] = profiles
    return found | ({tables.BAD_NAME: bad} if bad is not None and bad.num_rows else {})


def training_gaps(times_E: np.ndarray, offsets_U1: np.ndarray) -> np.ndarray:
    """Return the seconds between consecutive training events (all but a user's last two) of all users."""
    gaps = np.diff(times_E)
    # The gap from event i to i+1 is a training gap if i+1 is none of its user's last two events or the next user's.
    end_E = np.repeat(offsets_U1[1:], np.diff(offsets_U1))
    return gaps[np.arange(1, len(times_E)) < end_E[:-1] - 2]


def make_manifest(
    tables: Mapping[str, pa.Table],
    *,
    name: str,
    rows_dropped: Mapping[str, int],
    times_s: tuple[int, int],
    gaps: tuple[int, int, float],
    source: SourceRecord,
    filters: Filters,
    shards: tuple[ShardRecord, ...],
    files: Mapping[str, FileRecord],
    profile_values: tuple[str, ...] | None = None,
) -> Manifest:
    """Put a manifest together.

    Args:
        tables: as `folder_tables` returned them.
        name: name of the data set.
        rows_dropped: rows that filters left out, by reason.
        times_s: earliest and latest event, unix seconds.
        gaps: number of training gaps, of those that are 0 s, and their median in seconds.
        source: where the rows came from.
        filters: what was asked to be left out.
        shards: the shards, in user order.
        files: size and checksum of each of `tables`.
        profile_values: meaning of the codes in `profiles.parquet`.
    """
    items, users = tables[_ITEMS], tables[_USERS]
    lengths_U = users["count"].to_numpy()
    return Manifest(
        name=name,
        users=users.num_rows,
        items=items.num_rows,
        interactions=int(lengths_U.sum()),
        rows_dropped=dict(rows_dropped),
        quarantined=count_reasons(tables[_BAD]) if _BAD in tables else {},
        first_time_s=times_s[0],
        last_time_s=times_s[1],
        training_gaps=gaps[0],
        zero_gaps=gaps[1],
        median_gap_s=gaps[2],
        mean_length=float(lengths_U.mean()),
        median_length=float(np.median(lengths_U)),
        p90_length=float(np.percentile(lengths_U, 90)),
        max_length=int(lengths_U.max()),
        source=source,
        filters=filters,
        profile_values=profile_values,
        columns={
            table: {field.name: str(field.type) for field in schema}
            for table, schema in (
                ("items", items.schema),
                ("users", users.schema),
                ("shards", _SHARD_SCHEMA),
                *([("profiles", _PROFILES_SCHEMA)] if profile_values is not None else []),
            )
        },
        shards=shards,
        files=dict(files),
    )


_ITEMS, _USERS, _BAD = tables.ITEMS_NAME, tables.USERS_NAME, tables.BAD_NAME
_SHARD_SCHEMA = tables.SHARD_SCHEMA
_PROFILES_SCHEMA = tables.PROFILES_SCHEMA
