"""What is left of a prepared folder when damaged shards are left out: a prepared folder of its own.

Users are numbered anew and the manifest counts what is missing, so everything downstream reads an ordinary folder and
no figure can be mistaken for one of the whole data. Items keep their indices.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from ss4rec.data.batches.windows import ragged
from ss4rec.data.prepare.memory import Sequences, write_prepared
from ss4rec.data.prepared.manifest import Manifest, ShardRecord
from ss4rec.data.prepared.tables import read_items, read_shard, read_users
from ss4rec.data.prepared.user_profiles import read_back
from ss4rec.errors import DataError

DROPPED = "damaged_shards"
"""Name of the events of damaged shards in `Manifest.rows_dropped`."""


@dataclass(frozen=True)
class Damage:
    """The shards of a folder that are not what its manifest says."""

    shards: tuple[ShardRecord, ...]
    problems: tuple[str, ...]
    """One sentence a shard."""
    of: Manifest

    def __str__(self) -> str:
        users, events = sum(s.rows for s in self.shards), sum(s.events for s in self.shards)
        return (
            f"{len(self.shards)} of {len(self.of.shards)} shards are damaged and left out, with {users:,} of "
            f"{self.of.users:,} users and {events:,} of {self.of.interactions:,} events "
            f"({events / self.of.interactions:.2%}): {', '.join(shard.name for shard in self.shards)}"
        )


def find_damage(folder: Path) -> Damage:
    """Compare every file of a prepared folder with its manifest.

    Raises:
        DataError: if the manifest or one of the tables beside the shards is damaged: these name users and items.
    """
    manifest = Manifest.load(folder)
    found: list[tuple[ShardRecord, str]] = []
    for name, record in manifest.records():
        try:
            manifest.verify_file(folder, name, record)
        except DataError as error:
            if not isinstance(record, ShardRecord):
                raise
            found.append((record, str(error)))
    return Damage(tuple(shard for shard, _ in found), tuple(problem for _, problem in found), manifest)


def write_intact(folder: Path, damage: Damage, out: Path) -> Manifest:
    """Write the prepared folder `out` of the shards of `folder` that are whole.

    Raises:
        DataError: if no shard is whole, or `out` is taken.
    """
    manifest, lost = damage.of, {shard.name for shard in damage.shards}
    kept = [number for number, shard in enumerate(manifest.shards) if shard.name not in lost]
    if not kept:
        raise DataError(f"no shard of {folder} is whole: {damage.problems[0]}")
    items, users = read_items(folder), read_users(folder)
    tables = [read_shard(folder / manifest.shards[number].name, manifest.items) for number in kept]
    columns = {name: [ragged(table[name]) for table in tables] for name in ("items", "timestamps", "ratings")}
    values = {name: np.concatenate([value for value, _ in parts]) for name, parts in columns.items()}
    lengths_U = np.concatenate([np.diff(offsets) for _, offsets in columns["items"]])
    sequences = Sequences(
        user_ids=users.filter(pa.array(np.isin(users["shard"].to_numpy(), kept)))[
            "source_id"
        ].combine_chunks(),
        item_ids=items["source_id"].combine_chunks(),
        titles=items["title"].combine_chunks(),
        genres=items["genres"].combine_chunks(),
        offsets_U1=np.concatenate([[0], lengths_U.cumsum()]),
        items_E=values["items"],
        times_E=values["timestamps"],
        ratings_E=values["ratings"],
        profiles=read_back(folder, manifest, users["source_id"].combine_chunks()),
    )
    dropped = {f"quarantined_{reason}": rows for reason, rows in manifest.quarantined.items()}
    return write_prepared(
        out,
        sequences,
        name=f"{manifest.name}-intact",
        source=manifest.source,
        filters=manifest.filters,
        rows_dropped=dict(manifest.rows_dropped) | dropped | {DROPPED: sum(s.events for s in damage.shards)},
        rows_per_shard=manifest.shards[0].rows,
    )


def intact_folder(folder: Path, out: Path) -> tuple[Path, str]:
    """Return the folder to train on, and in words what is left out (empty: nothing, and `folder` itself is returned).

    A folder that an earlier attempt left at `out` is used again as it is, whatever has become of `folder` since: a run
    trains on one data set from beginning to end.

    Raises:
        DataError: as `find_damage` and `write_intact`, or if `out` was made from other data or is damaged itself.
    """
    if out.exists():
        manifest, whole = Manifest.load(out), Manifest.load(folder)
        manifest.verify(out)
        if manifest.source != whole.source or manifest.interactions >= whole.interactions:
            raise DataError(f"{out} was not made from {folder}; choose another --name")
        lost = whole.interactions - manifest.interactions
        return out, f"training goes on with {out}, which leaves out {lost:,} of {whole.interactions:,} events"
    damage = find_damage(folder)
    if not damage.shards:
        return folder, ""
    write_intact(folder, damage, out)
    return out, str(damage)
