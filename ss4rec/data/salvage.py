"""What is left of a prepared folder when damaged shards are left out: a prepared folder of its own.

Users are numbered anew and the manifest counts what is missing, so everything downstream reads an ordinary folder and
no figure can be mistaken for one of the whole data. Items keep their indices.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ss4rec.data.prepared.build import write_prepared
from ss4rec.data.prepared.folder import PreparedFolder
from ss4rec.data.prepared.manifest import Manifest, ShardRecord
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


def find_damage(folder: PreparedFolder) -> Damage:
    """Compare every file of a prepared folder with its manifest.

    Raises:
        DataError: if one of the tables beside the shards is damaged: these name users and items.
    """
    found: list[tuple[ShardRecord, str]] = []
    for name, record in folder.manifest.records():
        try:
            folder.verify_file(name, record)
        except DataError as error:
            if not isinstance(record, ShardRecord):
                raise
            found.append((record, str(error)))
    return Damage(tuple(shard for shard, _ in found), tuple(problem for _, problem in found), folder.manifest)


def write_intact(folder: PreparedFolder, damage: Damage, out: Path) -> PreparedFolder:
    """Write the prepared folder `out` of the shards of `folder` that are whole.

    Raises:
        DataError: if no shard is whole, or `out` is taken.
    """
    manifest, lost = damage.of, {shard.name for shard in damage.shards}
    kept = [number for number, shard in enumerate(manifest.shards) if shard.name not in lost]
    if not kept:
        raise DataError(f"no shard of {folder} is whole: {damage.problems[0]}")
    dropped = {f"quarantined_{reason}": rows for reason, rows in manifest.quarantined.items()}
    written = write_prepared(
        out,
        folder.sequences(kept),
        name=f"{manifest.name}-intact",
        source=manifest.source,
        filters=manifest.filters,
        rows_dropped=dict(manifest.rows_dropped) | dropped | {DROPPED: sum(s.events for s in damage.shards)},
        rows_per_shard=manifest.shards[0].rows,
        features=manifest.features,
        context=manifest.context,
        targets=manifest.targets,
    )
    return PreparedFolder(out, written)


def intact_folder(folder: PreparedFolder, out: Path) -> tuple[PreparedFolder, str]:
    """Return the folder to train on, and in words what is left out (empty: nothing, and `folder` itself is returned).

    A folder that an earlier attempt left at `out` is used again as it is, whatever has become of `folder` since: a run
    trains on one data set from beginning to end.

    Raises:
        DataError: as `find_damage` and `write_intact`, or if `out` was made from other data or is damaged itself.
    """
    if out.exists():
        kept = PreparedFolder.open(out)
        kept.verify()
        left, whole = kept.manifest, folder.manifest
        if left.source != whole.source or left.interactions >= whole.interactions:
            raise DataError(f"{out} was not made from {folder}; choose another --name")
        lost = whole.interactions - left.interactions
        return (
            kept,
            f"training goes on with {out}, which leaves out {lost:,} of {whole.interactions:,} events",
        )
    damage = find_damage(folder)
    if not damage.shards:
        return folder, ""
    return write_intact(folder, damage, out), str(damage)
