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
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict, NonNegativeInt, PositiveInt, ValidationError

from ss4rec.data.prepare.k_core import core_of_events
from ss4rec.data.prepared.build import Sequences, write_prepared
from ss4rec.data.prepared.folder import PreparedFolder
from ss4rec.data.prepared.item_months import ITEM_MONTHS_NAME, item_months
from ss4rec.data.prepared.manifest import Filters
from ss4rec.data.prepared.tables import write_table
from ss4rec.errors import DataError, UsageError
from ss4rec.io.atomic import new_folder
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


def parse_cut(text: str, option: str = "--cutoff") -> int:
    """Return the last second of the past: unix seconds, an ISO time (UTC), or a date, whose whole day is past.

    Args:
        text: the moment.
        option: where it was given.

    Raises:
        UsageError: if `text` is none of these.
    """
    try:
        return last_second(text)
    except ValueError:
        raise UsageError(
            f"{option} {text!r} is no date, ISO time or unix time; write e.g. 2015-03-31"
        ) from None


def split(data: Path, out: Path, cut_s: int, *, k_core: int = 0) -> SplitRecord:
    """Cut the prepared folder `data` after second `cut_s` and write `out` (see the module's text), whole or not at all.

    Raises:
        DataError: if `data` was filtered with the future in sight, if `out` is taken, or if either side is empty.
    """
    folder = PreparedFolder.open(data)
    manifest = folder.manifest
    if manifest.filters.k_core:
        raise DataError(
            f"{data} was prepared with --k-core {manifest.filters.k_core}, so events after the cut decided what is in "
            "it; prepare it with --k-core 0 and give --k-core to this command"
        )
    if out.exists() and any(out.iterdir()):
        raise DataError(f"{out} is not empty; give another --out")
    with new_folder(out) as draft:
        return _write_split(folder, draft, cut_s, k_core)


def _write_split(folder: PreparedFolder, out: Path, cut_s: int, k_core: int) -> SplitRecord:
    """Write the files of a cut into the empty folder `out`."""
    manifest = folder.manifest
    events = folder.sequences()
    events = events.with_items(pc.sort_indices(events.items.source_id).to_numpy())
    past_E = events.times_E <= cut_s
    kept_E = past_E.copy()
    kept_E[past_E] = core_of_events(events.select(past_E), k_core)
    if not kept_E.any() or past_E.all():
        raise DataError(
            f"{folder.path} has {past_E.sum():,} events at or before the cut ({kept_E.sum():,} after filters) and "
            f"{(~past_E).sum():,} after it; both must be more than 0: move --cutoff"
        )
    timeline, vocabulary, seen = _timeline(events, past_E, kept_E)
    write = partial(
        write_prepared,
        source=manifest.source,
        rows_per_shard=manifest.shards[0].rows,
        features=manifest.features,
        context=manifest.context,
        targets=manifest.targets,
    )
    dropped = {"after_the_cut": int((~past_E).sum()), "past_filters": int(past_E.sum() - kept_E.sum())}
    dropped |= manifest.rows_dropped
    filters = Filters(k_core=k_core, cut_s=cut_s)
    write(
        out / PAST,
        events.select(kept_E),
        name=f"{manifest.name}-past",
        filters=filters,
        rows_dropped=dropped,
    )
    write(
        out / TIMELINE,
        timeline,
        name=f"{manifest.name}-timeline",
        filters=manifest.filters,
        rows_dropped=manifest.rows_dropped,
    )
    past_events_U = np.bincount(events.users_E[past_E], minlength=manifest.users).astype(np.int32)
    users_U = np.arange(manifest.users, dtype=np.int32)
    write_table(pa.table({"user": users_U, "past_events": past_events_U}), out / PAST_EVENTS_NAME)
    by_month = item_months(timeline.items_E, timeline.times_E, manifest.items)
    write_table(by_month, out / ITEM_MONTHS_NAME)
    record = SplitRecord(
        cut_s=cut_s,
        vocabulary=vocabulary,
        seen=seen,
        future_events=int((~past_E).sum()),
        future_users=len(np.unique(events.users_E[~past_E])),
    )
    (out / RECORD_NAME).write_text(record.model_dump_json(indent=2) + "\n", encoding="utf-8")
    return record


def _timeline(
    events: Sequences, past_E: npt.NDArray[Any], kept_E: npt.NDArray[Any]
) -> tuple[Sequences, int, int]:
    """Return all events with items renumbered: vocabulary, seen by the cut, never seen by then."""
    rank_V = np.full(len(events.items.source_id), 2)
    rank_V[events.items_E[past_E] - 1] = 1
    rank_V[events.items_E[kept_E] - 1] = 0
    timeline = events.with_items(np.argsort(rank_V, kind="stable"))
    return timeline, int((rank_V == 0).sum()), int((rank_V <= 1).sum())
