"""Files that are given beside a run and its histories: lists of items, users, pairs, and columns of items."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ss4rec.data.ids import look_up
from ss4rec.errors import DataError, UsageError
from ss4rec.io.atomic import sha256_of
from ss4rec.io.paths import AnyPath
from ss4rec.recommendations.filters import ItemList, read_ids, read_list
from ss4rec.recommendations.items import Items
from ss4rec.recommendations.options import RecommendOptions
from ss4rec.recommendations.output import ListRecord


@dataclass(frozen=True)
class Beside:
    """Files that say more about what is wanted; each a table, see `filters.read_list`."""

    allow: tuple[AnyPath, ...] = ()
    """Items that may be recommended, to all users or to those in the file; others get nothing else."""
    deny: tuple[AnyPath, ...] = ()
    """Items that must not be recommended, to all users or to those in the file."""
    users: AnyPath | None = None
    """Users who are asked for; None: all."""
    items: AnyPath | None = None
    """Columns about items for `where`, limits and calibrated lists."""
    pairs: AnyPath | None = None
    """Pairs of user and item to score, and nothing else."""

    @property
    def paths(self) -> dict[str, tuple[AnyPath, ...]]:
        """All files by option."""
        single = {"users": self.users, "items": self.items, "pairs": self.pairs}
        found = {"allow": self.allow, "deny": self.deny}
        return {
            name: paths
            for name, paths in {**found, **{n: (p,) for n, p in single.items() if p is not None}}.items()
            if paths
        }


@dataclass(frozen=True)
class Wanted:
    """What the files beside say, by the run's numbers of items."""

    lists: dict[str, tuple[ItemList, ...]]
    users: pa.Array | None
    records: dict[str, tuple[ListRecord, ...]]


def sum_of(path: AnyPath) -> str:
    """Return the checksum of a file that was given.

    Raises:
        DataError: if it cannot be read.
    """
    try:
        return sha256_of(path)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from None


def read_beside(beside: Beside, items: Items) -> Wanted:
    """Read the files beside."""
    lists: dict[str, tuple[ItemList, ...]] = {}
    records: dict[str, tuple[ListRecord, ...]] = {}
    for name, paths in beside.paths.items():
        found = [read_list(path, items) if name in ("allow", "deny", "pairs") else None for path in paths]
        lists[name] = tuple(one for one in found if one is not None)
        records[name] = tuple(
            ListRecord(
                name=path.name,
                sha256=sha256_of(path),
                unknown_items=one.unknown_items if one is not None else 0,
            )
            for path, one in zip(paths, found, strict=True)
        )
    for pairs in lists.get("pairs", ()):
        if pairs.users is None:
            raise UsageError(f"{beside.pairs} has no column of users; name the columns `user` and `item`")
    return Wanted(lists, read_ids(beside.users, "user") if beside.users else None, records)


def candidates(items: Items, options: RecommendOptions, wanted: Wanted) -> npt.NDArray[np.bool_] | None:
    """Return which items may be recommended to anybody, None for all.

    Raises:
        UsageError: if none is left.
    """
    candidates_V = np.ones(len(items) + 1, bool)
    if options.where is not None:
        candidates_V = items.fulfilling(options.where)
    for name, keep in (("allow", True), ("deny", False)):
        common = [one.items for one in wanted.lists.get(name, ()) if one.users is None]
        if common:
            listed_V = np.zeros(len(items) + 1, bool)
            listed_V[np.concatenate(common)] = True
            candidates_V = candidates_V & (listed_V if keep else ~listed_V)
    if not candidates_V[1:].any():
        raise UsageError(
            "--where, --allow and --deny together leave no item to recommend; are the ids those of the ratings file?"
        )
    return None if candidates_V[1:].all() else candidates_V


def asked_for(wanted: Wanted, user_ids: pa.ChunkedArray) -> tuple[npt.NDArray[np.int64] | None, int]:
    """Return the users who are asked for, and how many of these are not in the data.

    Raises:
        UsageError: if none is.
    """
    if wanted.users is None:
        return None, 0
    found = look_up(wanted.users, user_ids)
    users_N = np.unique(found.drop_null().to_numpy()).astype(np.int64)
    if not len(users_N):
        raise UsageError(
            f"--users: none of these {len(wanted.users):,} users is in the data, whose ids are like "
            f"{', '.join(map(str, user_ids.slice(0, 5).to_pylist()))}"
        )
    return users_N, found.null_count
