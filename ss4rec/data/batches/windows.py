"""From histories to training windows and evaluation sequences: pure Arrow and NumPy, no loop over users.

A shard is one row a user (`docs/architecture.md`). All ragged columns are handled as (values, offsets), so that
nothing here ever becomes an array of Python objects.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ss4rec.errors import ConfigError, DataError

Split = Literal["valid", "test"]
IntArray = npt.NDArray[np.int64]
HOUR_S = 3600


def ragged(column: pa.ChunkedArray) -> tuple[npt.NDArray, IntArray]:
    """Return a list column's flat values `[T]` (a view if it is one chunk) and int64 offsets `[S + 1]` from 0."""
    # `combine_chunks` copies even a single chunk.
    array = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
    offsets_S1 = array.offsets.to_numpy().astype(np.int64)
    values_T = array.values.to_numpy(zero_copy_only=True)[offsets_S1[0] : offsets_S1[-1]]
    return values_T, offsets_S1 - offsets_S1[0]


def list_array(values_T: npt.NDArray, offsets_S1: IntArray) -> pa.ListArray:
    """Return the list array with these flat values and offsets."""
    return pa.ListArray.from_arrays(pa.array(offsets_S1.astype(np.int32)), pa.array(values_T))


def num_train_windows(counts_U: npt.ArrayLike, max_len: int, overlap: int, holdout: int = 2) -> IntArray:
    """Return how many windows `train_windows` makes of each user, from the numbers of events alone.

    Args:
        counts_U: events of each user, held-out ones included.
        max_len: most pairs in a window.
        overlap: pairs that a window repeats from the one before it.
        holdout: events at the end of each history that training never sees.

    Raises:
        ConfigError: if `overlap` is not below `max_len`.
    """
    if overlap >= max_len:
        raise ConfigError(
            f"data.overlap is {overlap}, data.max_len {max_len}: each window has to add something to the one "
            f"before it; set data.overlap below {max_len}"
        )
    pairs_U = np.asarray(counts_U, dtype=np.int64) - holdout - 1
    more_U = -(-np.maximum(pairs_U - max_len, 0) // (max_len - overlap))
    return np.where(pairs_U > 0, 1 + more_U, 0)


def train_windows(
    shard: pa.Table, *, max_len: int, overlap: int, target_time: bool, holdout: int = 2
) -> pa.Table:
    """Cut the training events of each user of `shard` into windows, users and windows in ascending order.

    Every pair (event, next event) of the training events is a target exactly once; pairs that the window only repeats
    as context have target 0.

    Returns:
        One row a window: `user` int32, `items`, `targets` list<int32>, `gaps` list<float32> (seconds), `hours`
        list<int32> (unix hour of the next event if `target_time`, else of the event), `ratings` list<float32>.
    """
    items_E, offsets_U1 = ragged(shard["items"])
    counts_U = np.diff(offsets_U1)
    windows_U = num_train_windows(counts_U, max_len, overlap, holdout)
    row_W = np.repeat(np.arange(len(counts_U)), windows_U)
    later_W = np.cumsum(windows_U)[row_W] - 1 - np.arange(len(row_W))  # windows of this user after this one
    end_W = counts_U[row_W] - holdout - 1 - later_W * (max_len - overlap)
    start_W = np.maximum(end_W - max_len, 0)
    fresh_W = np.where(start_W == 0, 0, start_W + overlap)  # first pair that no earlier window has as target

    token_T, window_offsets_W1 = _ranges(offsets_U1[row_W] + start_W, end_W - start_W)
    is_target_T = token_T >= np.repeat(offsets_U1[row_W] + fresh_W, end_W - start_W)
    targets_T = np.where(is_target_T, items_E[token_T + 1], np.int32(0))
    columns = {
        "user": shard["user"].to_numpy()[row_W],
        "items": list_array(items_E[token_T], window_offsets_W1),
        "targets": list_array(targets_T, window_offsets_W1),
        **_beside(shard, token_T, window_offsets_W1, target_time),
    }
    return pa.table(columns)


def eval_sequences(shard: pa.Table, *, split: Split, max_len: int, target_time: bool) -> pa.Table:
    """Return one row a user: the end of the history before the held-out event of `split`, and that event.

    Returns:
        `user` int32, `items` list<int32>, `gaps` list<float32>, `hours` list<int32> and `ratings` list<float32> (last
        `max_len` events, as in `train_windows`), `target` int32, `target_time` and `last_time` int64 (unix seconds),
        `seen` list<int32> (every item before the target).

    Raises:
        DataError: if a user has fewer than 3 events.
    """
    items_E, offsets_U1 = ragged(shard["items"])
    times_E, _ = ragged(shard["timestamps"])
    counts_U = np.diff(offsets_U1)
    if (counts_U < 3).any():
        short = int(np.argmax(counts_U < 3))
        raise DataError(
            f"user {shard['user'][short]} has {counts_U[short]} events; leave-one-out needs 3: "
            "prepare the data again with a k-core of at least 3"
        )
    target_U = offsets_U1[1:] - (2 if split == "valid" else 1)
    history_U = target_U - offsets_U1[:-1]
    length_U = np.minimum(history_U, max_len)
    token_T, sequence_offsets_U1 = _ranges(target_U - length_U, length_U)
    seen_X, seen_offsets_U1 = _ranges(offsets_U1[:-1], history_U)
    columns = {
        "user": shard["user"],
        "items": list_array(items_E[token_T], sequence_offsets_U1),
        **_beside(shard, token_T, sequence_offsets_U1, target_time),
        "target": items_E[target_U],
        "target_time": times_E[target_U],
        "last_time": times_E[target_U - 1],
        "seen": list_array(items_E[seen_X], seen_offsets_U1),
    }
    return pa.table(columns)


def _beside(
    shard: pa.Table, token_T: IntArray, offsets_S1: IntArray, target_time: bool
) -> dict[str, pa.ListArray]:
    """Return what is known of each token beside its item; of the next event at most its time, never its rating."""
    times_E, _ = ragged(shard["timestamps"])
    ratings_E, _ = ragged(shard["ratings"])
    values = {
        "gaps": _gaps(shard, token_T, target_time),
        "hours": (times_E[token_T + 1 if target_time else token_T] // HOUR_S).astype(np.int32),
        "ratings": ratings_E[token_T],
    }
    return {name: list_array(values_T, offsets_S1) for name, values_T in values.items()}


def _gaps(shard: pa.Table, token_T: IntArray, target_time: bool) -> npt.NDArray[np.float32]:
    """Return the gap in seconds of each token (an index into the shard's events), from int64 differences."""
    times_E, offsets_U1 = ragged(shard["timestamps"])
    gaps_E = np.zeros(len(times_E), dtype=np.float32)
    gaps_E[1:] = np.diff(times_E)  # time since the event before
    gaps_E[offsets_U1[:-1]] = 0.0
    return gaps_E[token_T + 1 if target_time else token_T]


def _ranges(start_S: IntArray, length_S: IntArray) -> tuple[IntArray, IntArray]:
    """Return `arange(start, start + length)` of all sequences, concatenated, and their offsets `[S + 1]`."""
    offsets_S1 = np.concatenate([[0], np.cumsum(length_S)])
    return np.arange(offsets_S1[-1]) + np.repeat(start_S - offsets_S1[:-1], length_S), offsets_S1
