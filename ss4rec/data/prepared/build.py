"""How a prepared folder is put together: tables from columns, shards, and the manifest that describes them.

`ss4rec.data.prepare` ends here with the shards of its tasks; what already lies in memory (a cut in time, the intact
part of a damaged folder) is written by `write_prepared`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, wait
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ss4rec.data.batches.windows import ragged
from ss4rec.data.ids import look_up, ranks
from ss4rec.data.prepared import tables
from ss4rec.data.prepared.gap_median import LOW_BITS, GapCounts
from ss4rec.data.prepared.manifest import (
    MANIFEST_NAME,
    EventTargets,
    Feature,
    FileRecord,
    Filters,
    Manifest,
    ShardRecord,
    SourceRecord,
    file_record,
)
from ss4rec.data.prepared.user_profiles import profiles_table
from ss4rec.data.sources.checks import count_reasons
from ss4rec.data.sources.rows import CONTEXT, Catalogue, UserProfiles
from ss4rec.errors import DataError
from ss4rec.io.atomic import new_folder
from ss4rec.io.beside import begin
from ss4rec.io.paths import AnyPath

MIN_EVENTS = 3
"""Minimum events of a user: one to train on, one to validate, one to test."""
Mapper = Callable[[Callable[[Any], Any], Iterable[Any]], Iterator[Any]]
"""Yields `function(item)` of every item in order, wherever it runs; `map` is one."""


@dataclass(frozen=True)
class Sequences:
    """Events in memory: users concatenated in ascending id, each in the order (time, file order)."""

    user_ids: pa.Array
    """Source id of each user index, int64 or string, ascending."""
    items: Catalogue
    """Items 1, 2, ... with their source ids."""
    offsets_U1: npt.NDArray[Any]
    """First event of each user, and at the end the number of events."""
    items_E: npt.NDArray[Any]
    """int32 item index, from 1."""
    times_E: npt.NDArray[Any]
    """int64 unix seconds."""
    ratings_E: npt.NDArray[Any]
    """float32."""
    profiles: UserProfiles | None = None
    """What is known about users."""
    context: pa.Table | None = None
    """Columns about the event as in shards, a row an event."""

    @property
    def users_E(self) -> npt.NDArray[Any]:
        """Index of each event's user, int64."""
        return np.repeat(np.arange(len(self.user_ids)), np.diff(self.offsets_U1))

    def select(self, kept_E: npt.NDArray[Any]) -> Sequences:
        """Return the events of a mask, without the users and items that have none, in the same order."""
        lengths_U = np.bincount(self.users_E[kept_E], minlength=len(self.user_ids))
        used_V = np.bincount(self.items_E[kept_E] - 1, minlength=len(self.items.source_id)) > 0
        index_V = np.cumsum(used_V, dtype=np.int32)
        return replace(
            self,
            user_ids=self.user_ids.filter(pa.array(lengths_U > 0)),
            items=self.items.take(np.flatnonzero(used_V)),
            offsets_U1=np.concatenate([[0], lengths_U[lengths_U > 0].cumsum()]),
            items_E=index_V[self.items_E[kept_E] - 1],
            times_E=self.times_E[kept_E],
            ratings_E=self.ratings_E[kept_E],
            context=None if self.context is None else self.context.filter(pa.array(kept_E)),
        )

    def with_items(self, order_V: npt.NDArray[Any]) -> Sequences:
        """Return the same events with items in another order: item i+1 is what item `order_V[i]` + 1 was."""
        index_V = (ranks(order_V) + 1).astype(np.int32)
        return replace(self, items=self.items.take(order_V), items_E=index_V[self.items_E - 1])


@dataclass(frozen=True)
class WrittenShard:
    """A shard on disk, and what the manifest says about its events."""

    record: ShardRecord
    first_s: int
    last_s: int
    gaps: GapCounts


def written_shard(folder: AnyPath, name: str, table: pa.Table) -> WrittenShard:
    """Describe the shard `name` of a folder, whose content is `table`."""
    times_E, offsets_U1 = ragged(table["timestamps"])
    record = file_record(folder / name)
    return WrittenShard(
        ShardRecord(name=name, rows=table.num_rows, events=len(times_E), **record.model_dump()),
        int(times_E.min()),
        int(times_E.max()),
        GapCounts.of(training_gaps(times_E, offsets_U1)),
    )


def describe_items(item_ids: pa.Array, known: Catalogue | None) -> Catalogue:
    """Return title and genres of each item, null if the source does not know them."""
    if known is None:
        nothing = (pa.nulls(len(item_ids), pa.string()), pa.nulls(len(item_ids), pa.list_(pa.string())))
        return Catalogue(item_ids, *nothing)
    places = look_up(item_ids, known.source_id)
    return Catalogue(item_ids, known.title.take(places), known.genres.take(places))


def training_gaps(times_E: npt.NDArray[Any], offsets_U1: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return the seconds between consecutive training events (all but a user's last two) of all users."""
    gaps = np.diff(times_E)
    # The gap from event i to i+1 is a training gap if i+1 is none of its user's last two events or the next user's.
    # Of a user with fewer than three events this meets gaps of the users before that are left out in any case.
    training = np.ones(len(times_E), bool)
    for back in (1, 2, 3):
        places_U = offsets_U1[1:] - back
        training[places_U[places_U >= 0]] = False
    return np.asarray(gaps[training[:-1]])


def write_prepared(
    out: Path,
    sequences: Sequences,
    *,
    name: str,
    source: SourceRecord,
    filters: Filters,
    rows_dropped: Mapping[str, int],
    rows_per_shard: int = 2048,
    features: dict[Literal["items", "users"], tuple[Feature, ...]] | None = None,
    context: tuple[Feature, ...] | None = None,
    targets: EventTargets | None = None,
) -> Manifest:
    """Write a prepared folder that appears at `out`, which must be free, when it is complete.

    Raises:
        DataError: if `out` is taken or cannot be written; then nothing is left behind.
    """
    check_free(out, overwrite=False)
    try:
        with new_folder(out) as folder:
            return fill_folder(
                folder,
                sequences,
                name=name,
                source=source,
                filters=filters,
                rows_dropped=rows_dropped,
                rows_per_shard=rows_per_shard,
                features=features,
                context=context,
                targets=targets,
            )
    except OSError as error:
        raise DataError(f"cannot write {out}: {error}; give another --out") from None


def fill_folder(
    folder: AnyPath,
    sequences: Sequences,
    *,
    rows_dropped: Mapping[str, int],
    rows_per_shard: int = 2048,
    **facts: Any,
) -> Manifest:
    """Write all files of a prepared folder, the manifest last.

    Args:
        folder: where to; what is there of the same names is replaced.
        sequences: the events.
        rows_dropped: rows that were left out, by reason.
        rows_per_shard: users per shard.
        facts: `name`, `source`, `filters`, `features`, `context` and `targets` of the manifest.
    """
    context = (
        {}
        if sequences.context is None
        else {name: sequences.context[name].to_numpy() for name in sequences.context.column_names}
    )
    offsets_U1 = sequences.offsets_U1
    counts_V = np.bincount(sequences.items_E, minlength=len(sequences.items.source_id) + 1)[1:]
    shards = []
    for number, first in enumerate(range(0, len(sequences.user_ids), rows_per_shard)):
        bounds_S1 = offsets_U1[first : first + rows_per_shard + 1]
        events = slice(bounds_S1[0], bounds_S1[-1])
        table = tables.shard_table(
            first,
            sequences.items_E[events],
            sequences.times_E[events],
            sequences.ratings_E[events],
            bounds_S1 - bounds_S1[0],
            {name: values_E[events] for name, values_E in context.items()},
        )
        tables.write_table(table, folder / tables.shard_name(number))
        shards.append(written_shard(folder, tables.shard_name(number), table))
    return finish_folder(
        folder,
        shards,
        items=sequences.items,
        item_counts_V=counts_V,
        user_ids=sequences.user_ids,
        lengths_U=np.diff(offsets_U1),
        profiles=sequences.profiles,
        quarantine=None,
        rows_per_shard=rows_per_shard,
        rows_dropped=dict(rows_dropped),
        **facts,
    )


def finish_folder(
    folder: AnyPath,
    shards: Iterable[WrittenShard],
    *,
    items: Catalogue,
    item_counts_V: npt.NDArray[Any],
    user_ids: pa.Array,
    lengths_U: npt.NDArray[Any],
    profiles: UserProfiles | None,
    quarantine: pa.Table | None,
    rows_per_shard: int,
    source: SourceRecord | Future[SourceRecord],
    mapper: Mapper = map,
    **facts: Any,
) -> Manifest:
    """Write the tables beside the shards, and last the manifest.

    Args:
        folder: holds the shards, once all of `shards` are there.
        shards: in user order; may be written while they are asked for.
        items: id, title and genres of items 1, 2, ...
        item_counts_V: interactions of each.
        user_ids: source id of each user index, ascending.
        lengths_U: events of each user.
        profiles: what the source says about users.
        quarantine: rows that cannot be used.
        rows_per_shard: users per shard.
        source: where the rows came from; is waited for at the end.
        mapper: runs tasks that read shards again, if their gaps are long.
        facts: `name`, `filters`, `rows_dropped` and `features` of the manifest.
    """
    profile_table, profile_values = profiles_table(user_ids, profiles)
    written = {
        tables.ITEMS_NAME: tables.items_table(items, item_counts_V),
        tables.USERS_NAME: tables.users_table(user_ids, lengths_U, rows_per_shard),
    }
    if profile_table is not None:
        written[tables.PROFILES_NAME] = profile_table
    schemas = {table_name.removesuffix(".parquet"): table.schema for table_name, table in written.items()}
    schemas = {"items": schemas["items"], "users": schemas["users"], "shards": _shard_schema(facts)} | schemas
    if quarantine is not None and quarantine.num_rows:
        written[tables.QUARANTINE_NAME] = quarantine
    files = begin(partial(_write_tables, folder, written))
    try:
        records, gaps, first_s, last_s = _joined(shards)
    finally:
        wait([files])  # whoever cleans up after an error must not be followed by a thread that still writes
    names = [record.name for record in records]
    manifest = Manifest(
        users=len(user_ids),
        items=len(item_counts_V),
        interactions=int(lengths_U.sum()),
        quarantined=count_reasons(quarantine) if tables.QUARANTINE_NAME in written else {},
        first_time_s=first_s,
        last_time_s=last_s,
        training_gaps=gaps.total,
        zero_gaps=gaps.zero,
        median_gap_s=gaps.median(lambda bucket: mapper(partial(_gaps_within, folder, bucket), names)),
        mean_length=float(lengths_U.mean()),
        median_length=float(np.median(lengths_U)),
        p90_length=float(np.percentile(lengths_U, 90)),
        max_length=int(lengths_U.max()),
        profile_values=profile_values,
        columns={
            table_name: {field.name: str(field.type) for field in schema}
            for table_name, schema in schemas.items()
        },
        source=source if isinstance(source, SourceRecord) else source.result(),
        shards=records,
        files=files.result(),
        **facts,
    )
    manifest.save(folder)
    return manifest


def _write_tables(folder: AnyPath, written: Mapping[str, pa.Table]) -> dict[str, FileRecord]:
    """Write tables by name and describe their files."""
    for name, table in written.items():
        tables.write_table(table, folder / name)
    return {name: file_record(folder / name) for name in written}


def _joined(shards: Iterable[WrittenShard]) -> tuple[tuple[ShardRecord, ...], GapCounts, int, int]:
    """Return the records of shards, the counts of all their gaps, and their earliest and latest second."""
    records, gaps, firsts, lasts = [], GapCounts(), [], []
    for shard in shards:
        gaps.add(shard.gaps)
        records.append(shard.record)
        firsts.append(shard.first_s)
        lasts.append(shard.last_s)
    return tuple(records), gaps, min(firsts), max(lasts)


def _shard_schema(facts: Mapping[str, Any]) -> pa.Schema:
    """Return the schema of shards, with the columns about the event that the manifest describes."""
    kinds = {"categorical": pa.int32(), "number": pa.float32()}
    context = facts.get("context") or ()
    more = [pa.field(CONTEXT + feature.name, pa.list_(kinds[feature.kind])) for feature in context]
    return pa.schema([*tables.SHARD_SCHEMA, *more])


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
    known = {
        MANIFEST_NAME,
        tables.ITEMS_NAME,
        tables.USERS_NAME,
        tables.QUARANTINE_NAME,
        tables.SHARDS_FOLDER,
    }
    known.add(tables.PROFILES_NAME)
    if names - known or not (MANIFEST_NAME in names or unfinished):
        raise DataError(
            f"{out} holds other files ({', '.join(sorted(names - known or names)[:5])}); give an empty folder"
        )
    if MANIFEST_NAME in names and not overwrite:
        raise DataError(f"{out} is a prepared folder already; add --overwrite to replace it")


def _gaps_within(folder: AnyPath, bucket: int, name: str) -> npt.NDArray[Any]:
    """Return the training gaps of a written shard whose upper bits are `bucket`."""
    gaps = training_gaps(*ragged(tables.read_shard(folder / name)["timestamps"]))
    return np.asarray(gaps[gaps >> LOW_BITS == bucket])
