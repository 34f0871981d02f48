"""Shards from blocks: each task gathers a range of users from the blocks that hold them, drops rows and writes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ss4rec.data.ids import by_id
from ss4rec.data.prepare.block import BlockFile, RowsFile
from ss4rec.data.prepare.context import ContextColumn
from ss4rec.data.prepare.k_core import Core, counts_of
from ss4rec.data.prepared.build import WrittenShard, written_shard
from ss4rec.data.prepared.tables import read_shard, shard_name, shard_table, write_table
from ss4rec.data.ties import Ties, hash_order
from ss4rec.io.paths import AnyPath


@dataclass(frozen=True)
class Slice:
    """Neighbouring users of one block."""

    block: int
    """Number of the block."""
    start: int
    """First row."""
    counts_U: npt.NDArray[Any]
    """Rows of each user."""
    index_U: npt.NDArray[Any]
    """Index of each user in the prepared folder; -1: dropped."""


@dataclass(frozen=True)
class ShardPlan:
    """One shard to write."""

    number: int
    first_user: int
    slices: tuple[Slice, ...]


@dataclass(frozen=True)
class Assembly:
    """What all tasks need to know."""

    out: AnyPath
    """The prepared folder."""
    blocks: tuple[RowsFile, ...]
    """The rows of the blocks."""
    finals: tuple[npt.NDArray[Any], ...]
    """Index of each block's items in the prepared folder; 0: dropped."""
    ties: Ties
    """What decides between events of one user and second."""
    context: tuple[ContextColumn, ...] = ()
    """Columns about the event."""

    @classmethod
    def of(
        cls,
        out: AnyPath,
        blocks: Sequence[BlockFile],
        core: Core,
        codes: Sequence[npt.NDArray[Any]],
        ties: Ties,
        context: tuple[ContextColumn, ...] = (),
    ) -> Assembly:
        """Number the items that stay."""
        final_V = np.where(core.mask_V, np.cumsum(core.mask_V), 0).astype(np.int32)
        finals = tuple(final_V[codes_of] for codes_of in codes)
        return cls(out, tuple(block.rows for block in blocks), finals, ties, context)


def number_users(
    blocks: Sequence[BlockFile], core: Core
) -> tuple[pa.Array, npt.NDArray[Any], list[npt.NDArray[Any]]]:
    """Return ids and lengths of the users that stay, ascending by id, and each block's users' places (-1: dropped)."""
    ids = pa.concat_arrays([block.users["user"].combine_chunks() for block in blocks])
    kept = np.concatenate(core.kept)
    staying = np.flatnonzero(kept)
    user_ids = ids.take(pa.array(staying))
    ascending, rank_U = by_id(user_ids)
    index = np.full(len(kept), -1, np.int64)
    index[staying] = rank_U
    bounds = np.cumsum([len(part) for part in core.kept])[:-1]
    return user_ids.take(pa.array(ascending)), kept[staying[ascending]], np.split(index, bounds)


def plan_shards(
    index: Sequence[npt.NDArray[Any]], blocks: Sequence[BlockFile], users: int, rows_per_shard: int
) -> list[ShardPlan]:
    """Find the users of every shard in the blocks.

    Args:
        index: for each block, the index of each of its users in the prepared folder, ascending but for -1 (dropped).
        blocks: the blocks.
        users: users in the prepared folder.
        rows_per_shard: users per shard.
    """
    slices: list[list[Slice]] = [[] for _ in range(-(-users // rows_per_shard))]
    for number, (index_U, block) in enumerate(zip(index, blocks, strict=True)):
        counts_U = block.users["count"].to_numpy()
        kept_K = np.flatnonzero(index_U >= 0)
        if not len(kept_K):
            continue
        shard_K = index_U[kept_K] // rows_per_shard
        firsts = np.flatnonzero(np.concatenate([[True], shard_K[1:] != shard_K[:-1]]))
        starts_U1 = block.offsets_U1
        for first, last in zip(firsts, [*firsts[1:], len(kept_K)], strict=True):
            low, high = int(kept_K[first]), int(kept_K[last - 1]) + 1
            slices[shard_K[first]].append(
                Slice(number, int(starts_U1[low]), counts_U[low:high], index_U[low:high])
            )
    return [ShardPlan(number, number * rows_per_shard, tuple(found)) for number, found in enumerate(slices)]


def write_shard(assembly: Assembly, shard: ShardPlan) -> WrittenShard:
    """Write a shard, unless it stands already, and describe it."""
    name = shard_name(shard.number)
    path = assembly.out / name
    if path.is_file():
        table = read_shard(path)
    else:
        table = _gather(assembly, shard)
        write_table(table, path)
    return written_shard(assembly.out, name, table)


def _gather(assembly: Assembly, shard: ShardPlan) -> pa.Table:
    """Read, filter and order the events of a shard's users."""
    parts, lengths, index = [], [], []
    for part in shard.slices:
        rows, events = assembly.blocks[part.block], (part.start, part.start + int(part.counts_U.sum()))
        final_E = assembly.finals[part.block][rows.read_items(*events)]
        kept_U = part.index_U >= 0
        kept_E = final_E > 0
        if not kept_U.all():
            kept_E &= np.repeat(kept_U, part.counts_U)
        lengths.append(counts_of(kept_E, np.concatenate([[0], np.cumsum(part.counts_U)]))[kept_U])
        index.append(part.index_U[kept_U])
        own = [final_E, rows.read_times(*events), rows.read_ratings(*events)]
        for number, column in enumerate(assembly.context):
            own.append(column.lookups[part.block][rows.read_context(number, *events)])
        parts.append(own if kept_E.all() else [values_E[kept_E] for values_E in own])
    lengths_U, index_U = np.concatenate(lengths), np.concatenate(index)
    columns = [own[0] if len(own) == 1 else np.concatenate(own) for own in zip(*parts, strict=True)]
    if (np.diff(index_U) < 0).any():
        order_U = np.argsort(index_U)
        starts_U, lengths_U = (np.cumsum(lengths_U) - lengths_U)[order_U], lengths_U[order_U]
        begins_U = np.cumsum(lengths_U) - lengths_U
        order_E = np.repeat(starts_U - begins_U, lengths_U) + np.arange(lengths_U.sum())
        columns = [values_E[order_E] for values_E in columns]
    if assembly.ties == "hash":
        users_E = np.repeat(shard.first_user + np.arange(len(lengths_U)), lengths_U)
        places_E = hash_order(users_E, columns[0], columns[1])
        columns = [values_E[places_E] for values_E in columns]
    offsets_U1 = np.concatenate([[0], np.cumsum(lengths_U)])
    items_E, times_E, ratings_E, *context_E = columns
    context = {column.name: values_E for column, values_E in zip(assembly.context, context_E, strict=True)}
    return shard_table(shard.first_user, items_E, times_E, ratings_E, offsets_U1, context)
