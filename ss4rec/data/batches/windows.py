"""From histories to training windows and evaluation sequences: pure Arrow and NumPy, no loop over users.

A shard is one row a user (`docs/architecture.md`). All ragged columns are handled as (values, offsets), so that
nothing here ever becomes an array of Python objects.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ss4rec.data.sources.rows import CODES
from ss4rec.errors import ConfigError

Split = Literal["valid", "test"]
IntArray = npt.NDArray[np.int64]
HOUR_S = 3600


def ragged(column: pa.ChunkedArray) -> tuple[npt.NDArray[Any], IntArray]:
    """Return a list column's flat values `[T]` (a view if it is one chunk) and int64 offsets `[S + 1]` from 0."""
    # `combine_chunks` copies even a single chunk.
    array = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
    offsets_S1 = array.offsets.to_numpy().astype(np.int64)
    values_T = array.values.to_numpy(zero_copy_only=True)[offsets_S1[0] : offsets_S1[-1]]
    return values_T, offsets_S1 - offsets_S1[0]


def list_array(values_T: npt.NDArray[Any], offsets_S1: IntArray) -> pa.ListArray:
    """Return the list array with these flat values and offsets."""
    return pa.ListArray.from_arrays(pa.array(offsets_S1.astype(np.int32)), pa.array(values_T))


def num_train_windows(
    counts_U: npt.ArrayLike, max_len: int, overlap: int, holdout: int | IntArray = 2
) -> IntArray:
    """Return how many windows `train_windows` makes of each user, from the numbers of events alone.

    Args:
        counts_U: events of each user, held-out ones included.
        max_len: most pairs in a window.
        overlap: pairs that a window repeats from the one before it.
        holdout: events at the end of each history that training never sees; one number, or one for each user.

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
    shard: pa.Table, *, max_len: int, overlap: int, target_time: bool, holdout: int | IntArray = 2
) -> pa.Table:
    """Cut the training events of each user of `shard` into windows, users and windows in ascending order.

    Every pair (event, next event) of the training events is a target exactly once; pairs that the window only repeats
    as context have target 0. `holdout` is as in `num_train_windows`.

    Returns:
        One row a window: `user` int32, `items`, `targets` list<int32>, `gaps` list<float32> (seconds), `hours`
        list<int32> (unix hour of the next event if `target_time`, else of the event), `ratings` list<float32>.
    """
    items_E, offsets_U1 = ragged(shard["items"])
    counts_U = np.diff(offsets_U1)
    windows_U = num_train_windows(counts_U, max_len, overlap, holdout)
    row_W = np.repeat(np.arange(len(counts_U)), windows_U)
    later_W = np.cumsum(windows_U)[row_W] - 1 - np.arange(len(row_W))  # windows of this user after this one
    pairs_U = counts_U - holdout - 1
    end_W = pairs_U[row_W] - later_W * (max_len - overlap)
    start_W = np.maximum(end_W - max_len, 0)
    fresh_W = np.where(start_W == 0, 0, start_W + overlap)  # first pair that no earlier window has as target

    token_T, window_offsets_W1 = ranges(offsets_U1[row_W] + start_W, end_W - start_W)
    is_target_T = token_T >= np.repeat(offsets_U1[row_W] + fresh_W, end_W - start_W)
    if "wanted" in shard.column_names:
        is_target_T &= shard["wanted"].combine_chunks().flatten().to_numpy(zero_copy_only=False)[token_T + 1]
    targets_T = np.where(is_target_T, items_E[token_T + 1], np.int32(0))
    columns = {
        "user": shard["user"].to_numpy()[row_W],
        "items": list_array(items_E[token_T], window_offsets_W1),
        "targets": list_array(targets_T, window_offsets_W1),
        **_beside(shard, token_T, window_offsets_W1, target_time),
    }
    return pa.table(columns)


def last_target_times(
    shard: pa.Table, *, max_len: int, overlap: int, holdout: int | IntArray = 2
) -> tuple[IntArray, IntArray, IntArray]:
    """Return user, number among the user's windows and unix time of the last target of each window of `train_windows`.

    Arguments are as there.
    """
    times_E, offsets_U1 = ragged(shard["timestamps"])
    counts_U = np.diff(offsets_U1)
    windows_U = num_train_windows(counts_U, max_len, overlap, holdout)
    row_W = np.repeat(np.arange(len(counts_U)), windows_U)
    later_W = np.cumsum(windows_U)[row_W] - 1 - np.arange(len(row_W))
    end_W = (counts_U - holdout - 1)[row_W] - later_W * (max_len - overlap)
    users_W = shard["user"].to_numpy()[row_W].astype(np.int64)
    return users_W, windows_U[row_W] - 1 - later_W, times_E[offsets_U1[row_W] + end_W]


@dataclass(frozen=True)
class Ranked:
    """Events of a shard that are ranked, by user and time (`ss4rec.protocol.divide.Targets`)."""

    row_N: IntArray
    """Row of each target's user in the shard."""
    ends_N: IntArray
    """Events of the user's history before the target."""
    items_N: npt.NDArray[np.int32]
    """Item of the target; 0 if no model knows it."""
    times_N: IntArray
    """Unix seconds."""


def target_windows(
    shard: pa.Table, ranked: Ranked, *, max_len: int, target_time: bool, share_passes: bool = False
) -> pa.Table:
    """Return the histories from which targets are ranked, each with its targets; users in ascending order.

    Each target has a window of its own: the last `max_len` events before it. With `share_passes` targets of a user that
    lie near one another share a window (`window_starts`), so that one pass of a causal model ranks all of them.

    Returns:
        One row a window: `user` int32, `items` list<int32>, `gaps` list<float32>, `hours` list<int32> and `ratings`
        list<float32> as in `train_windows`; and for its targets `places` list<int32> (the event of the window after
        which the target is asked for), `targets` list<int32>, `target_times` and `last_times` list<int64> (unix
        seconds), `histories` list<int32> (events before the target), `weights` list<float64> (1 / targets of the user).
        `seen` list<int32>: all events up to the last target's history.
    """
    items_E, offsets_U1 = ragged(shard["items"])
    times_E, _ = ragged(shard["timestamps"])
    row_N, end_N = ranked.row_N, ranked.ends_N
    start_N = window_starts(end_N, max_len) if share_passes else np.maximum(end_N - max_len, 0)
    is_first_N = np.ones(len(row_N), bool)
    if share_passes:
        is_first_N[1:] = (np.diff(row_N) != 0) | (np.diff(start_N) != 0)
    first_W = np.flatnonzero(is_first_N)
    targets_W1 = np.append(first_W, len(row_N))
    row_W, start_W, stop_W = row_N[first_W], start_N[first_W], end_N[targets_W1[1:] - 1]
    token_T, offsets_W1 = ranges(offsets_U1[row_W] + start_W, stop_W - start_W)
    seen_X, seen_offsets_W1 = ranges(offsets_U1[row_W], stop_W)
    counts_U = np.bincount(row_N, minlength=len(offsets_U1) - 1)
    by_target = {
        "places": (end_N - 1 - start_N).astype(np.int32),
        "targets": ranked.items_N,
        "target_times": ranked.times_N,
        "last_times": times_E[offsets_U1[row_N] + end_N - 1],
        "histories": end_N.astype(np.int32),
        "weights": 1.0 / counts_U[row_N],
    }
    columns = {
        "user": shard["user"].to_numpy()[row_W],
        "items": list_array(items_E[token_T], offsets_W1),
        **_beside(shard, token_T, offsets_W1, target_time),
        **{name: list_array(values_N, targets_W1) for name, values_N in by_target.items()},
        "seen": list_array(items_E[seen_X], seen_offsets_W1),
    }
    return pa.table(columns)


def window_starts(ends_N: npt.ArrayLike, max_len: int) -> IntArray:
    """Return the first event of the window that a target with `ends_N` events before it is ranked from.

    The rule: a history of at most `max_len` events is seen whole. After that windows begin every `max_len / 4` events,
    so that a target is ranked from at least three quarters of `max_len` and at most `max_len` events. Where a window
    begins depends on nothing but the number of events before the target: a later event never changes an earlier rank.
    """
    step = max(max_len // 4, 1)
    return -(-np.maximum(np.asarray(ends_N, np.int64) - max_len, 0) // step) * step


def _beside(
    shard: pa.Table, token_T: IntArray, offsets_S1: IntArray, target_time: bool
) -> dict[str, pa.ListArray]:
    """Return what is known of each token beside its item; of the next event at most its time, never its rating."""
    times_E, _ = ragged(shard["timestamps"])
    ratings_E, _ = ragged(shard["ratings"])
    values = {
        "gaps": _gaps(shard, token_T, target_time),
        "hours": (times_E[_next(token_T, times_E) if target_time else token_T] // HOUR_S).astype(np.int32),
        "ratings": ratings_E[token_T],
    }
    context = [name for name in shard.column_names if name.startswith(CODES)]
    values |= {name: ragged(shard[name])[0][token_T] for name in context}
    return {name: list_array(values_T, offsets_S1) for name, values_T in values.items()}


def _gaps(shard: pa.Table, token_T: IntArray, target_time: bool) -> npt.NDArray[np.float32]:
    """Return the gap in seconds of each token (an index into the shard's events), from int64 differences."""
    times_E, offsets_U1 = ragged(shard["timestamps"])
    gaps_E = np.zeros(len(times_E), dtype=np.float32)
    gaps_E[1:] = np.diff(times_E)  # time since the event before
    gaps_E[offsets_U1[:-1][np.diff(offsets_U1) > 0]] = 0.0  # users without an event have no first one
    return gaps_E[_next(token_T, times_E) if target_time else token_T]


def _next(token_T: IntArray, times_E: IntArray) -> IntArray:
    """Return the place of the event after each token.

    A history may end with the shard where its target is no event of it: an item that no model knows, which is a miss
    whatever the gap before it.
    """
    return np.minimum(token_T + 1, len(times_E) - 1)


def ranges(start_S: IntArray, length_S: IntArray) -> tuple[IntArray, IntArray]:
    """Return `arange(start, start + length)` of all sequences, concatenated, and their offsets `[S + 1]`."""
    offsets_S1 = np.concatenate([[0], np.cumsum(length_S)])
    return np.arange(offsets_S1[-1]) + np.repeat(start_S - offsets_S1[:-1], length_S), offsets_S1
