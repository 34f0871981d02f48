"""Global cut in time: a prepared folder becomes the past that a model may train on, and the whole timeline.

DIR/past/                a prepared folder of the events at or before the cut; its vocabulary knows nothing later
DIR/timeline/            a prepared folder of all events; item indices 1..I are the vocabulary of `past`, then come
                         items that were seen by the cut but filtered out of it, then items never seen by then
DIR/past_events.parquet  a row for each user of `timeline`: `user`, `past_events` (events at or before the cut)
DIR/item_months.parquet  a row for each item of `timeline`: its first event, and its events by month
DIR/split.json           the cut and the two ends of those ranges of items

A folder prepared with a k-core cannot be cut: its vocabulary was chosen with the future in sight. Prepare with
`--k-core 0` and give the core here, where it is taken over the past alone.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, NonNegativeInt, PositiveInt, ValidationError

from ss4rec.data.batches.windows import ragged
from ss4rec.data.prepare.k_core_rows import k_core as k_core_rows
from ss4rec.data.prepare.memory import MIN_EVENTS, Sequences, order, write_prepared
from ss4rec.data.prepared.item_months import ITEM_MONTHS_NAME, item_months
from ss4rec.data.prepared.manifest import Filters, Manifest
from ss4rec.data.prepared.tables import read_items, read_shard, read_users, write_table
from ss4rec.data.prepared.user_profiles import read_back
from ss4rec.data.sources.rows import Catalogue, Ids, Rows
from ss4rec.errors import DataError, UsageError
from ss4rec.io.moments import last_second
from ss4rec.io.untrusted import read_json

PAST, TIMELINE, RECORD_NAME, PAST_EVENTS_NAME = "past", "timeline", "split.json", "past_events.parquet"


class SplitRecord(BaseModel):
    """The content of `split.json`."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    cut_s: NonNegativeInt
    """Last second of the past, unix time."""
    vocabulary: PositiveInt
    """Items 1..vocabulary are those of `past`."""
    seen: PositiveInt
    """Items up to this index have an event at or before the cut; later ones were never seen by then."""
    future_events: PositiveInt
    """Events after the cut."""
    future_users: PositiveInt
    """Users with an event after the cut."""

    @classmethod
    def load(cls, folder: Path) -> SplitRecord:
        """Read the record of a split folder.

        Raises:
            DataError: if there is none.
        """
        try:
            return cls.model_validate(read_json(folder / RECORD_NAME))
        except (OSError, ValueError, ValidationError) as error:
            raise DataError(
                f"{folder} was not written by `ss4rec data split` ({str(error).splitlines()[0]}); run it first"
            ) from None


def parse_cut(text: str) -> int:
    """Return the last second of the past: unix seconds, an ISO time (UTC), or a date, whose whole day is past.

    Raises:
        UsageError: if `text` is none of these.
    """
    try:
        return last_second(text)
    except ValueError:
        raise UsageError(
            f"--cutoff {text!r} is no date, ISO time or unix time; write e.g. 2015-03-31"
        ) from None


def split(data: Path, out: Path, cut_s: int, *, k_core: int = 0) -> SplitRecord:
    """Cut the prepared folder `data` after second `cut_s` and write `out` (see the module's text).

    Raises:
        DataError: if `data` was filtered with the future in sight, if `out` is taken, or if either side is empty.
    """
    manifest = Manifest.load(data)
    if manifest.filters.k_core:
        raise DataError(
            f"{data} was prepared with --k-core {manifest.filters.k_core}, so events after the cut decided what is in "
            "it; prepare it with --k-core 0 and give --k-core to this command"
        )
    if out.exists() and any(out.iterdir()):
        raise DataError(f"{out} is not empty; give another --out")
    rows = _rows(data, manifest)
    past_R = rows.times_R <= cut_s
    past_K = _core(rows, np.flatnonzero(past_R), k_core)
    if not len(past_K) or past_R.all():
        raise DataError(
            f"{data} has {past_R.sum():,} events at or before the cut ({len(past_K):,} after filters) and "
            f"{(~past_R).sum():,} after it; both must be more than 0: move --cutoff"
        )
    past = order(rows, past_K)
    timeline, vocabulary, seen = _timeline(rows, past_R, past_K)
    write = partial(write_prepared, source=manifest.source, rows_per_shard=manifest.shards[0].rows)
    dropped = {"after_the_cut": int((~past_R).sum()), "past_filters": int(past_R.sum()) - len(past_K)}
    dropped |= manifest.rows_dropped
    filters = Filters(k_core=k_core, cut_s=cut_s)
    write(out / PAST, past, name=f"{manifest.name}-past", filters=filters, rows_dropped=dropped)
    write(
        out / TIMELINE,
        timeline,
        name=f"{manifest.name}-timeline",
        filters=manifest.filters,
        rows_dropped=manifest.rows_dropped,
    )
    past_events_U = np.bincount(rows.users.codes_R[past_R], minlength=manifest.users).astype(np.int32)
    users_U = np.arange(manifest.users, dtype=np.int32)
    write_table(pa.table({"user": users_U, "past_events": past_events_U}), out / PAST_EVENTS_NAME)
    by_month = item_months(timeline.items_E, timeline.times_E, len(timeline.item_ids))
    write_table(by_month, out / ITEM_MONTHS_NAME)
    record = SplitRecord(
        cut_s=cut_s,
        vocabulary=vocabulary,
        seen=seen,
        future_events=int((~past_R).sum()),
        future_users=len(np.unique(rows.users.codes_R[~past_R])),
    )
    (out / RECORD_NAME).write_text(record.model_dump_json(indent=2) + "\n", encoding="utf-8")
    return record


def _rows(data: Path, manifest: Manifest) -> Rows:
    """Read a prepared folder back into rows, in its own order."""
    items, users = read_items(data), read_users(data)
    parts = [read_shard(path, manifest.items) for path in manifest.shard_paths(data)]
    lists = {name: [ragged(part[name])[0] for part in parts] for name in ("items", "timestamps", "ratings")}
    catalogue = Catalogue(*(items[name].combine_chunks() for name in ("source_id", "title", "genres")))
    return Rows(
        layout=manifest.source.layout,
        file=manifest.source.name,
        users=Ids(
            np.repeat(users["user"].to_numpy(), users["count"].to_numpy()),
            users["source_id"].combine_chunks(),
        ),
        items=Ids(np.concatenate(lists["items"]) - np.int32(1), catalogue.source_id),
        times_R=np.concatenate(lists["timestamps"]),
        ratings_R=np.concatenate(lists["ratings"]),
        catalogue=catalogue,
        profiles=read_back(data, manifest, users["source_id"].combine_chunks()),
    )


def _core(rows: Rows, past_P: np.ndarray, k_core: int) -> np.ndarray:
    """Return the rows of the past that stay: its k-core, and users with enough events for leave-one-out."""
    users_P, items_P = rows.users.codes_R[past_P], rows.items.codes_R[past_P]
    return past_P[k_core_rows(users_P, items_P, max(k_core, MIN_EVENTS), k_core)]


def _timeline(rows: Rows, past_R: np.ndarray, past_K: np.ndarray) -> tuple[Sequences, int, int]:
    """Return all events with items renumbered: vocabulary, seen by the cut, never seen by then."""
    everything = order(rows, np.arange(len(rows.times_R)))
    rank_V = np.full(len(everything.item_ids), 2)
    rank_V[rows.items.codes_R[past_R]] = 1
    rank_V[rows.items.codes_R[past_K]] = 0
    by_rank_V = np.argsort(rank_V, kind="stable")
    index_V = np.empty(len(rank_V), np.int32)
    index_V[by_rank_V] = np.arange(1, len(rank_V) + 1, dtype=np.int32)
    taken = pa.array(by_rank_V)
    timeline = Sequences(
        user_ids=everything.user_ids,
        item_ids=everything.item_ids.take(taken),
        titles=everything.titles.take(taken),
        genres=everything.genres.take(taken),
        offsets_U1=everything.offsets_U1,
        items_E=index_V[everything.items_E - 1],
        times_E=everything.times_E,
        ratings_E=everything.ratings_E,
        profiles=everything.profiles,
    )
    return timeline, int((rank_V == 0).sum()), int((rank_V <= 1).sum())
