"""A prepared folder, opened once in a process and passed on: its path, its manifest, and its tables when asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ss4rec.data.batches.windows import ragged
from ss4rec.data.prepared import tables
from ss4rec.data.prepared.build import Sequences
from ss4rec.data.prepared.manifest import AGAIN, MANIFEST_NAME, FileRecord, Manifest
from ss4rec.data.prepared.user_profiles import read_back, read_profiles
from ss4rec.data.sources.rows import CONTEXT, Catalogue
from ss4rec.errors import DataError
from ss4rec.io.atomic import sha256_of
from ss4rec.io.paths import AnyPath, to_path

if TYPE_CHECKING:
    from torch import Tensor


class PreparedFolder:
    """What `ss4rec data prepare` or `ss4rec data split` left.

    Args:
        path: where it lies.
        manifest: what it says about itself.
    """

    def __init__(self, path: AnyPath, manifest: Manifest) -> None:
        self.path = path
        self.manifest = manifest

    @classmethod
    def open(cls, path: str | AnyPath | PreparedFolder) -> PreparedFolder:
        """Read the manifest of a folder; one that is open already is returned as it is.

        Raises:
            DataError: if there is no manifest, or one of another version.
        """
        if isinstance(path, PreparedFolder):
            return path
        folder = to_path(path)
        return cls(folder, Manifest.load(folder))

    def __reduce__(self) -> tuple[type[PreparedFolder], tuple[AnyPath, Manifest]]:
        """Travel without the tables: whoever needs one reads it there."""
        return PreparedFolder, (self.path, self.manifest)

    def __str__(self) -> str:
        return str(self.path)

    @property
    def shard_paths(self) -> list[AnyPath]:
        """Path of every shard, in user order."""
        return [self.path / shard.name for shard in self.manifest.shards]

    @cached_property
    def items(self) -> pa.Table:
        """`items.parquet`; row i-1 is item index i."""
        return tables.read_items(self.path)

    @cached_property
    def users(self) -> pa.Table:
        """`users.parquet`; row u is user index u.

        Raises:
            DataError: if it contradicts the manifest: sizes of arrays are taken from it.
        """
        users = tables.read_users(self.path)
        _check_users(self, users)
        return users

    @cached_property
    def profiles_UF(self) -> npt.NDArray[np.int32] | None:
        """Codes of all users' profiles, or None where the folder has none."""
        return read_profiles(self.path, self.manifest)

    @cached_property
    def attributes_VA(self) -> Tensor:
        """Genres and period of release of all items, 0/1, as `item_attributes` lays them out."""
        from ss4rec.data.prepared.item_attributes import item_attributes

        return item_attributes(self.items)

    def read_shard(self, number: int) -> pa.Table:
        """Read one shard: one row per user, columns as in `SHARD_SCHEMA`."""
        return tables.read_shard(self.shard_paths[number], self.manifest.items)

    def sequences(self, shards: Sequence[int] | None = None) -> Sequences:
        """Return the events of some shards, by default of all, in memory."""
        numbers = range(len(self.manifest.shards)) if shards is None else shards
        parts = [self.read_shard(number) for number in numbers]
        columns = [[ragged(part[name]) for part in parts] for name in ("items", "timestamps", "ratings")]
        items_E, times_E, ratings_E = (np.concatenate([v for v, _ in column]) for column in columns)
        lengths_U = np.concatenate([np.diff(offsets_S1) for _, offsets_S1 in columns[0]])
        user_ids, shard_U = self.users["source_id"].combine_chunks(), self.users["shard"].to_numpy()
        return Sequences(
            user_ids=user_ids.filter(pa.array(np.isin(shard_U, numbers))),
            items=self._catalogue(),
            offsets_U1=np.concatenate([[0], lengths_U.cumsum()]),
            items_E=items_E,
            times_E=times_E,
            ratings_E=ratings_E,
            profiles=read_back(self.path, self.manifest, user_ids),
            context=self._context(parts),
        )

    def _context(self, parts: Sequence[pa.Table]) -> pa.Table | None:
        """Return the columns about the event of some shards, a row an event."""
        names = [CONTEXT + feature.name for feature in self.manifest.context or ()]
        columns = {name: np.concatenate([ragged(part[name])[0] for part in parts]) for name in names}
        return pa.table(columns) if columns else None

    def _catalogue(self) -> Catalogue:
        """Return what the folder says about items."""
        names = [name for name in self.items.column_names if name.startswith(tables.FEATURE_PREFIX)]
        base = (self.items[name].combine_chunks() for name in ("source_id", "title", "genres"))
        features = self.items.select(names) if names else None
        return replace(Catalogue(*base), features=features)

    def quick_check(self) -> None:
        """Check that every file exists with its size; reads no content.

        Raises:
            DataError: naming the first file that is missing or has another size.
        """
        for name, record in self.manifest.records():
            _check_size(self.path / name, record)

    def verify(self) -> None:
        """Check size and SHA-256 of every file.

        Raises:
            DataError: naming the first file that differs, with what was expected and found.
        """
        for name, record in self.manifest.records():
            self.verify_file(name, record)

    def verify_file(self, name: str, record: FileRecord) -> None:
        """Check size and SHA-256 of one file; raises as `verify`."""
        path = self.path / name
        _check_size(path, record)
        found = sha256_of(path)
        if found != record.sha256:
            raise DataError(f"{path} is damaged: expected sha256 {record.sha256}, found {found}; {AGAIN}")


def _check_users(folder: PreparedFolder, users: pa.Table) -> None:
    """Refuse a table of users that contradicts the manifest.

    Raises:
        DataError: naming the first contradiction.
    """
    manifest = folder.manifest
    shard_U, count_U = users["shard"].to_numpy(), users["count"].to_numpy().astype(np.int64)
    rows = np.array([shard.rows for shard in manifest.shards])
    if users.num_rows != manifest.users or not np.array_equal(shard_U, np.repeat(np.arange(len(rows)), rows)):
        problem = f"{users.num_rows:,} users in {len(rows)} shards"
    elif count_U.min() < 1 or count_U.sum() != manifest.interactions:
        problem = f"{count_U.sum():,} events, of one user {count_U.min():,}"
    else:
        return
    raise DataError(f"{folder}: users.parquet has {problem}, which is not what manifest.json says; {AGAIN}")


def _check_size(path: AnyPath, record: FileRecord) -> None:
    """Refuse a missing file, one of another size, and a link, which may lead anywhere."""
    if isinstance(path, Path) and (
        path.is_symlink() or (path.parent.is_symlink() and path.parent.name == "shards")
    ):
        raise DataError(
            f"{path} is a symbolic link; a prepared folder holds files only: copy the file to its place"
        )
    if not path.is_file():
        raise DataError(f"{path} is missing although {MANIFEST_NAME} lists it; {AGAIN}")
    found = path.stat().st_size
    if found != record.bytes:
        raise DataError(f"{path} is damaged: expected {record.bytes:,} bytes, found {found:,}; {AGAIN}")
