"""Recommended lists beside ranks: the k best items of each user, and what is known of the moment they are asked for."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor

from ss4rec.data.batches.batch import EvalBatch
from ss4rec.evaluation.lists import (
    LIST_METRICS,
    ItemFacts,
    ListResult,
    Lists,
    ListTotals,
    calibration,
    history_shares,
    one_hot,
)
from ss4rec.evaluation.training import TrainingPart
from ss4rec.model.item_scores import ItemScores

LIST_K = 10
"""Places of the lists that every evaluation keeps."""
RECENT = 6
"""Events at the end of each history that are kept beside its list."""
FEATURE = "genres"
"""Column of `items.parquet` by which diversity and calibration are measured, where any item has it."""
LIST_COLUMNS = pa.schema(
    [
        ("repeat", pa.bool_()),
        ("unseen", pa.int64()),
        ("list", pa.list_(pa.int32(), LIST_K)),
        ("recent", pa.list_(pa.int32(), RECENT)),
        (calibration.name, pa.float64()),
    ]
)


@dataclass(frozen=True)
class ListSpec:
    """Which lists to make: those of the protocol's own setting."""

    item_facts: ItemFacts
    exclude_seen: bool
    target_time_known: bool
    """Whether the scorer may use the time of the target."""

    def columns(self, scores: ItemScores, batch: EvalBatch) -> dict[str, npt.NDArray[Any] | pa.Array]:
        """Return the columns `LIST_COLUMNS` of a batch.

        `repeat`: whether the target is in the history. `unseen`: items that are ranked when seen ones are excluded, the
        target among them. `list`: items, best first, 0 for an empty place. `recent`: the end of the history, oldest
        first, 0 where it is shorter. The last one: see `ss4rec.evaluation.lists`.
        """
        best_BK, items_BK = scores.top(LIST_K, exclude_seen=self.exclude_seen)
        items_BK = torch.where(best_BK > -torch.inf, items_BK, 0).cpu()
        lists_BK = torch.zeros(len(items_BK), LIST_K, dtype=torch.int64)
        lists_BK[:, : items_BK.shape[1]] = items_BK
        miscalibrated_B = np.full(len(lists_BK), np.nan)
        if self.item_facts.features_VG is not None:
            history_BG = history_shares(batch.seen_X, batch.seen_offsets_S1, self.item_facts.shares())
            lists = Lists(lists_BK, batch.targets_S, history_BG)
            miscalibrated_B = calibration.of(lists, self.item_facts).numpy()
        repeat_B, unseen_B = _seen_facts(batch, scores.width - 1)
        return {
            "repeat": repeat_B,
            "unseen": unseen_B,
            "list": _fixed(lists_BK.numpy()),
            "recent": _fixed(_recent(batch)),
            calibration.name: miscalibrated_B,
        }


def count_item_facts(items: pa.Table, parts: Iterable[TrainingPart]) -> ItemFacts:
    """Count training events and users of each item, and read the items' features.

    Args:
        items: the model's items (`items.parquet`).
        parts: training events of all users.
    """
    size = items.num_rows + 1
    events_V, users_V = np.zeros(size, np.int64), np.zeros(size, np.int64)
    num_users = 0
    for part in parts:
        counts_U = np.diff(part.offsets_U1)
        num_users += int((counts_U > 0).sum())
        events_V += np.bincount(part.items_E, minlength=size)
        pairs = np.unique(np.repeat(np.arange(len(counts_U)), counts_U) * size + part.items_E)
        users_V += np.bincount(pairs % size, minlength=size)
    values = items[FEATURE].to_pylist() if FEATURE in items.column_names else []
    features_VG = one_hot(values)[0] if any(values) else None
    return ItemFacts(torch.from_numpy(events_V), torch.from_numpy(users_V), max(num_users, 1), features_VG)


def summarise_lists(ranks: pa.Table, item_facts: ItemFacts, device: torch.device | str = "cpu") -> ListResult:
    """Return the list metrics of one scorer's table of ranks with `LIST_COLUMNS`."""
    totals = ListTotals(item_facts.to(device), LIST_METRICS, LIST_K)
    for batch in ranks.select(["list", "target", calibration.name]).to_batches(max_chunksize=1 << 16):
        known = {calibration.name: torch.from_numpy(batch[calibration.name].to_numpy().copy())}
        totals.update(
            Lists(lists_of(batch["list"]), torch.from_numpy(batch["target"].to_numpy().copy()), known=known)
        )
    return totals.result(FEATURE if item_facts.features_VG is not None else None)


def lists_of(column: pa.FixedSizeListArray) -> Tensor:
    """Return the lists of a column as int64 `[N, LIST_K]`."""
    return torch.from_numpy(column.flatten().to_numpy().astype(np.int64).reshape(len(column), LIST_K))


def _fixed(values_BK: npt.NDArray[Any]) -> pa.FixedSizeListArray:
    return pa.FixedSizeListArray.from_arrays(pa.array(values_BK.astype(np.int32).ravel()), values_BK.shape[1])


def _recent(batch: EvalBatch) -> npt.NDArray[Any]:
    """Return the last `RECENT` items of each history."""
    ends_B = batch.seen_offsets_S1[1:].numpy()
    places_BR = ends_B[:, None] - np.arange(RECENT, 0, -1)
    inside_BR = places_BR >= batch.seen_offsets_S1[:-1].numpy()[:, None]
    return np.where(inside_BR, batch.seen_X.numpy()[np.maximum(places_BR, 0)], 0)


def _seen_facts(batch: EvalBatch, num_items: int) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.int64]]:
    """Return whether each target was seen, and how many items its user has not seen, the target counted as one."""
    counts_B = batch.seen_offsets_S1.diff().numpy()
    row_X = np.repeat(np.arange(len(counts_B)), counts_B)
    seen_X, targets_B = batch.seen_X.numpy(), batch.targets_S.numpy()
    repeat_B = np.bincount(row_X[seen_X == targets_B[row_X]], minlength=len(counts_B)) > 0
    pairs = np.unique(row_X * (num_items + 1) + seen_X)
    distinct_B = np.bincount(pairs[pairs % (num_items + 1) > 0] // (num_items + 1), minlength=len(counts_B))
    return repeat_B, num_items - distinct_B + repeat_B
