"""Which items may be recommended to whom: lists of allowed and denied items, of all users or of one."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from ss4rec.data.batches.windows import ranges
from ss4rec.data.ids import look_up
from ss4rec.data.sources.columns import GUESSES
from ss4rec.data.sources.small_tables import read_small
from ss4rec.errors import DataError
from ss4rec.io.paths import AnyPath
from ss4rec.model.item_scores import ItemScores, SeenItems
from ss4rec.recommendations.items import Items

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class UserItems:
    """Some items of some users."""

    users_N: IntArray
    """Users who have a list, ascending."""
    offsets_N1: IntArray
    """Where each one's items begin and end."""
    items_X: IntArray
    """Items, user after user."""

    @classmethod
    def of_pairs(cls, users_X: IntArray, items_X: IntArray) -> UserItems:
        """Group pairs by user; an item 0 gives its user a list and is not in it."""
        order_X = np.argsort(users_X, kind="stable")
        users_N, places_X = np.unique(users_X[order_X], return_inverse=True)
        known_X = items_X[order_X] > 0
        counts_N = np.bincount(places_X[known_X], minlength=len(users_N))
        return cls(users_N, np.concatenate([[0], np.cumsum(counts_N)]), items_X[order_X][known_X])

    def of_users(self, users_S: IntArray) -> tuple[npt.NDArray[np.bool_], IntArray, IntArray]:
        """Return whether each user has a list, the items of the lists, and where each one's begin and end."""
        if not len(self.users_N):
            return np.zeros(len(users_S), bool), np.zeros(0, np.int64), np.zeros(len(users_S) + 1, np.int64)
        place_S = np.minimum(np.searchsorted(self.users_N, users_S), len(self.users_N) - 1)
        has_S = self.users_N[place_S] == users_S
        lengths_S = np.where(has_S, np.diff(self.offsets_N1)[place_S], 0)
        places_X, offsets_S1 = ranges(self.offsets_N1[place_S], lengths_S)
        return has_S, self.items_X[places_X], offsets_S1

    @property
    def longest(self) -> int:
        """Items of the longest list."""
        return int(np.diff(self.offsets_N1).max(initial=0))


@dataclass(frozen=True)
class ItemList:
    """The content of a file of items, or of users and items."""

    items: IntArray
    """Index of each item, 0 for one that the run does not know."""
    users: pa.Array | None
    """Source id of each row's user; None: the items are meant for all users."""
    unknown_items: int
    """Rows whose item the run does not know."""


def read_list(path: AnyPath, items: Items) -> ItemList:
    """Read a file with a column of items, and perhaps one of users.

    Args:
        path: a table with a header, as `read_small` takes; columns are recognised by the common names. A single
            column of any name is the items.
        items: the run's.

    Raises:
        DataError: if it cannot be read or has no column of items.
    """
    table = read_small(path).table
    user, item = (_column(table, role) for role in ("user", "item"))
    if item is None and table.num_columns == 1:
        item, user = table.column_names[0], None
    if item is None:
        raise DataError(
            f"{path} has the columns {', '.join(table.column_names)}; name the one with ids of items `item`"
        )
    if table[item].null_count or (user and table[user].null_count):
        raise DataError(f"{path} has a row without an id; leave it out")
    found = items.find(table[item])
    owners = None if user is None else pa.concat_arrays(table[user].chunks)
    return ItemList(found, owners, int((found == 0).sum()))


def read_ids(path: AnyPath, role: str) -> pa.Array:
    """Read a column of ids from a file as `read_list` takes; raises as there."""
    table = read_small(path).table
    name = _column(table, role) or (table.column_names[0] if table.num_columns == 1 else None)
    if name is None:
        raise DataError(
            f"{path} has the columns {', '.join(table.column_names)}; name the one with ids `{role}`"
        )
    return pa.concat_arrays(table[name].chunks).drop_null()


def _column(table: pa.Table, role: str) -> str | None:
    plain = {name.replace("_", "").lower(): name for name in reversed(table.column_names)}
    return next((plain[key] for guess in GUESSES[role] if (key := guess.replace("_", "")) in plain), None)


@dataclass(frozen=True)
class Filters:
    """What may be recommended."""

    candidates_V: npt.NDArray[np.bool_] | None = None
    """Whether each item may be recommended to anybody; None: all."""
    allowed: UserItems | None = None
    """Users with a list here get nothing else."""
    denied: UserItems | None = None
    """What single users must not get."""

    def on(self, scores: ItemScores, users_S: Tensor, exclude_seen: bool) -> ItemScores:
        """Return the scores with -inf for all that may not be recommended; who has seen what is in them too.

        Args:
            scores: of a batch.
            users_S: user of each row.
            exclude_seen: whether items of the history may not be recommended.
        """
        device, width, owners = scores.seen.device, scores.width, users_S.cpu().numpy()
        barred = [scores.seen] if exclude_seen else []
        if self.denied is not None:
            _, items_X, offsets_S1 = self.denied.of_users(owners)
            barred.append(SeenItems(torch.from_numpy(items_X), torch.from_numpy(offsets_S1), width, device))
        only = None
        if self.allowed is not None:
            has_S, items_X, offsets_S1 = self.allowed.of_users(owners)
            pairs = SeenItems(torch.from_numpy(items_X), torch.from_numpy(offsets_S1), width, device)
            only = (torch.from_numpy(~has_S).to(device), pairs)
        candidates_V = None
        if self.candidates_V is not None:
            candidates_V = torch.from_numpy(self.candidates_V).to(device)

        def score(first: int, stop: int) -> Tensor:
            scores_BC = scores.score(first, stop)
            nothing = scores_BC.new_tensor(-torch.inf)
            for pairs in barred:
                scores_BC = scores_BC.index_put(pairs.between(first, stop), nothing)
            if only is not None:
                free_S, pairs = only
                may_BC = free_S[:, None].expand(scores_BC.shape).clone()
                may_BC[pairs.between(first, stop)] = True
                scores_BC = torch.where(may_BC, scores_BC, nothing)
            if candidates_V is not None:
                scores_BC = torch.where(candidates_V[first:stop], scores_BC, nothing)
            return scores_BC

        return replace(scores, score=score)


def user_items(lists: list[ItemList], user_ids: pa.Array | pa.ChunkedArray) -> tuple[UserItems | None, int]:
    """Return the lists of single users by their index, and how many rows are of users that are not there.

    Args:
        lists: those with users.
        user_ids: source id of user 0, 1, ...
    """
    if not lists:
        return None, 0
    found = [look_up(one.users, user_ids) for one in lists if one.users is not None]
    users_X = np.concatenate([pc.fill_null(one, -1).to_numpy(zero_copy_only=False) for one in found])
    items_X = np.concatenate([one.items for one in lists])
    there_X = users_X >= 0
    return UserItems.of_pairs(users_X[there_X].astype(np.int64), items_X[there_X]), int((~there_X).sum())
