"""Shards from blocks: each task gathers a range of users from the blocks that hold them, drops rows and writes."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from ss4rec.data.batches.windows import ragged
from ss4rec.data.prepare.block import RowsFile
from ss4rec.data.prepare.gap_median import LOW_BITS, GapCounts
from ss4rec.data.prepared.build import training_gaps
from ss4rec.data.prepared.manifest import FileRecord, ShardRecord
from ss4rec.data.prepared.tables import read_shard, shard_name, shard_table, write_table
from ss4rec.data.sources.ties import Ties, hash_order
from ss4rec.io.paths import AnyPath


@dataclass(frozen=True)
class Slice:
    """Neighbouring users of one block."""

    block: int
    """Number of the block."""
    start: int
    """First row."""
    counts_U: np.ndarray
    """Rows of each user."""
    index_U: np.ndarray
    """Index of each user in the prepared folder; -1: dropped."""


@dataclass(frozen=True)
class ShardWork:
    """One shard to write."""

    number: int
    first_user: int
    slices: tuple[Slice, ...]


@dataclass(frozen=True)
class Gathering:
    """What all tasks need to know."""

    out: AnyPath
    """The prepared folder."""
    blocks: tuple[RowsFile, ...]
    """The rows of the blocks."""
    finals: tuple[np.ndarray, ...]
    """Index of each block's items in the prepared folder; 0: dropped."""
    ties: Ties = "file"
    """What decides between events of one user and second."""


@dataclass(frozen=True)
class ShardResult:
    """A written shard and what the manifest says about its events."""

    record: ShardRecord
    first_s: int
    last_s: int
    gaps: GapCounts


def plan_shards(
    index: Sequence[np.ndarray], counts: Sequence[np.ndarray], users: int, rows_per_shard: int
) -> list[ShardWork]:
    """Find the users of every shard in the blocks.

    Args:
        index: for each block, the index of each of its users in the prepared folder, ascending but for -1 (dropped).
        counts: for each block, rows of each of its users.
        users: users in the prepared folder.
        rows_per_shard: users a shard.
    """
    slices: list[list[Slice]] = [[] for _ in range(-(-users // rows_per_shard))]
    for block, (index_U, counts_U) in enumerate(zip(index, counts, strict=True)):
        kept_K = np.flatnonzero(index_U >= 0)
        if not len(kept_K):
            continue
        shard_K = index_U[kept_K] // rows_per_shard
        firsts = np.flatnonzero(np.concatenate([[True], shard_K[1:] != shard_K[:-1]]))
        starts_U1 = np.concatenate([[0], np.cumsum(counts_U)])
        for first, last in zip(firsts, [*firsts[1:], len(kept_K)], strict=True):
            low, high = int(kept_K[first]), int(kept_K[last - 1]) + 1
            slices[shard_K[first]].append(
                Slice(block, int(starts_U1[low]), counts_U[low:high], index_U[low:high])
            )
    return [ShardWork(number, number * rows_per_shard, tuple(found)) for number, found in enumerate(slices)]


def write_shard(gathering: Gathering, work: ShardWork) -> ShardResult:
    """Write a shard, unless it stands already, and return its record and statistics."""
    name = shard_name(work.number)
    path = gathering.out / name
    if path.is_file():
        table = read_shard(path)
    else:
        table = _gather(gathering, work)
        write_table(table, path)
    record = record_of(path)
    times_E, offsets_U1 = ragged(table["timestamps"])
    return ShardResult(
        ShardRecord(name=name, rows=table.num_rows, events=len(times_E), **record.model_dump()),
        int(times_E.min()),
        int(times_E.max()),
        GapCounts.of(training_gaps(times_E, offsets_U1)),
    )


def gaps_within(out: AnyPath, bucket: int, name: str) -> np.ndarray:
    """Return the training gaps of a written shard whose upper bits are `bucket`."""
    gaps = training_gaps(*ragged(read_shard(out / name)["timestamps"]))
    return gaps[gaps >> LOW_BITS == bucket]


def record_of(path: AnyPath) -> FileRecord:
    """Return size and checksum of a small file."""
    data = path.read_bytes()
    return FileRecord(bytes=len(data), sha256=hashlib.sha256(data).hexdigest())


def _gather(gathering: Gathering, work: ShardWork) -> pa.Table:
    """Read, filter and order the events of a shard's users."""
    items, times, ratings, lengths, index = [], [], [], [], []
    for part in work.slices:
        rows, events = gathering.blocks[part.block], (part.start, part.start + int(part.counts_U.sum()))
        final_E = gathering.finals[part.block][rows.read_items(*events)]
        kept_U = part.index_U >= 0
        kept_E = (final_E > 0) & np.repeat(kept_U, part.counts_U)
        before_E1 = np.concatenate([[0], np.cumsum(kept_E)])
        ends_U = np.cumsum(part.counts_U)
        lengths.append((before_E1[ends_U] - before_E1[ends_U - part.counts_U])[kept_U])
        index.append(part.index_U[kept_U])
        items.append(final_E[kept_E])
        times.append(rows.read_times(*events)[kept_E])
        ratings.append(rows.read_ratings(*events)[kept_E])
    lengths_U, index_U = np.concatenate(lengths), np.concatenate(index)
    items_E, times_E, ratings_E = (np.concatenate(parts) for parts in (items, times, ratings))
    if (np.diff(index_U) < 0).any():
        order_U = np.argsort(index_U)
        starts_U, lengths_U = (np.cumsum(lengths_U) - lengths_U)[order_U], lengths_U[order_U]
        begins_U = np.cumsum(lengths_U) - lengths_U
        order_E = np.repeat(starts_U - begins_U, lengths_U) + np.arange(lengths_U.sum())
        items_E, times_E, ratings_E = (values_E[order_E] for values_E in (items_E, times_E, ratings_E))
    if gathering.ties == "hash":
        users_E = np.repeat(work.first_user + np.arange(len(lengths_U)), lengths_U)
        places_E = hash_order(users_E, items_E, times_E)
        items_E, times_E, ratings_E = (values_E[places_E] for values_E in (items_E, times_E, ratings_E))
    offsets_U1 = np.concatenate([[0], np.cumsum(lengths_U)])
    return shard_table(work.first_user, items_E, times_E, ratings_E, offsets_U1)
