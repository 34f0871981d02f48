"""Histories to recommend after: from a prepared folder, or from a file of events of people whom the run never saw."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor

from ss4rec.config import RunConfig
from ss4rec.data.batches.batch import EvalBatch
from ss4rec.data.batches.reader import eval_rows
from ss4rec.data.batches.windows import HOUR_S, Ranked, target_windows
from ss4rec.data.prepare.block import Block, make_block
from ss4rec.data.prepared.build import Sequences, fill_folder
from ss4rec.data.prepared.event_columns import told_of
from ss4rec.data.prepared.folder import PreparedFolder
from ss4rec.data.prepared.manifest import Feature, Filters, Manifest, SourceRecord
from ss4rec.data.prepared.tables import read_items
from ss4rec.data.sources import Source
from ss4rec.data.sources.checks import Rules, enforce_limit
from ss4rec.data.sources.rows import CONTEXT, Catalogue
from ss4rec.errors import DataError, UsageError
from ss4rec.evaluation.successive import history_batches
from ss4rec.io.paths import AnyPath
from ss4rec.model.columns import EventColumn
from ss4rec.protocol.divide import Events, arrange
from ss4rec.protocol.plan import Plan
from ss4rec.recommendations.items import Items
from ss4rec.recommendations.options import RecommendOptions
from ss4rec.runs.folder import RunFolder
from ss4rec.runs.record import RunRecord

USERS_PER_PART = 2048


@dataclass(frozen=True)
class Histories:
    """How the shards of a folder become histories in the model's terms."""

    config: RunConfig
    options: RecommendOptions
    index_V: npt.NDArray[np.int64] | None
    """The model's item of each item of the folder, 0 for one that it does not know; None: the same."""
    plan: Plan | None
    """What an evaluation ranks; None where histories are whole."""
    profiles_UF: npt.NDArray[np.int32] | None
    """Codes of users' profiles as the run has them."""
    users_N: npt.NDArray[np.int64] | None = None
    """Users who are asked for, ascending; None: all."""
    context: tuple[EventColumn, ...] = ()
    """What the run reads of events."""
    features: tuple[Feature, ...] = ()
    """What the folder's columns about events mean."""

    def batches(self, shard: pa.Table, min_users: int = 1) -> Iterator[EvalBatch]:
        """Yield batches of the histories of a shard, a row per list, users in order.

        Args:
            shard: rows of the prepared folder.
            min_users: minimum users of a batch, where `evaluation.batch_users` says fewer.
        """
        rows, users = self._rows(shard), max(self.config.evaluation.batch_users, min_users)
        for batch in history_batches(rows, users, self.profiles_UF):
            yield batch if self.options.at_s is None else asked_at(batch, self.options.at_s, self.config)

    def _rows(self, shard: pa.Table) -> pa.Table:
        """Return the histories of a shard, a row a user, as the model takes them."""
        if self.users_N is not None:
            shard = shard.filter(pa.array(np.isin(shard["user"].to_numpy(), self.users_N)))
        if self.plan is not None and self.options.until != "end":
            return eval_rows(shard, self.options.until, self.plan, self.config.data)
        events = arrange(Events.of(shard), self.config.protocol)
        if self.index_V is not None:
            items_E = self.index_V[events.items_E].astype(np.int32)
            events = replace(events, items_E=items_E).keep(items_E > 0)
        if self.options.at_s is not None:
            events = events.keep(events.times_E <= self.options.at_s)
        counts_U = events.counts_U
        row_N = np.flatnonzero(counts_U)
        last_N = events.times_E[events.offsets_U1[1:][row_N] - 1]
        ranked = Ranked(row_N, counts_U[row_N], np.zeros(len(row_N), np.int32), last_N)
        data, most = self.config.data, self.config.protocol.max_history
        told = told_of(self.context, events.context, self.features)
        return target_windows(
            events.told(told),
            ranked,
            max_len=min(data.max_len, most or data.max_len),
            target_time=data.target_time,
        )


def asked_at(batch: EvalBatch, at_s: int, config: RunConfig) -> EvalBatch:
    """Return a batch whose last events know that the next is asked for at a moment."""
    if not config.data.target_time:
        return batch
    gaps_S: Tensor = (at_s - batch.last_times_S).float()
    hours_S = torch.full_like(batch.last_times_S, at_s // HOUR_S)
    return replace(
        batch,
        gaps_T=batch.gaps_T.index_copy(0, batch.last_S, gaps_S),
        hours_T=batch.hours_T.index_copy(0, batch.last_S, hours_S),
    )


def index_of(run: RunFolder, items: Items, data: PreparedFolder) -> npt.NDArray[np.int64] | None:
    """Return the model's item of each item of a folder, None if they are the same.

    Raises:
        DataError: if they have no item in common.
    """
    found = items.find(data.items["source_id"])
    if not found.any():
        raise DataError(
            f"{data} and the run {run.path.name} have no item in common; are these the ids of the same catalogue?"
        )
    if len(found) == len(items) and np.array_equal(found, np.arange(1, len(found) + 1)):
        return None
    return np.append(0, found)


def profiles_for(record: RunRecord, data: PreparedFolder) -> npt.NDArray[np.int32] | None:
    """Return users' profiles in the run's codes; values that training did not know are unknown."""
    if record.profile_values is None:
        return None
    codes_UF, values = data.profiles_UF, data.manifest.profile_values
    if codes_UF is None or values is None:
        return np.zeros((data.manifest.users, 1), np.int32)
    if values == record.profile_values:
        return codes_UF
    own = {text: code for code, text in enumerate(record.profile_values, start=1)}
    translated: npt.NDArray[np.int32] = np.array([0, *(own.get(text, 0) for text in values)], np.int32)[
        codes_UF
    ]
    return translated


@dataclass(frozen=True)
class Read:
    """What came of a file of histories."""

    folder: PreparedFolder
    """Its events of items that the run knows, in the run's own numbers of items."""
    unknown_events: int
    """Events of other items; they are left out."""
    unknown_items: int
    users_without: int
    """Users of whom no event is left."""
    quarantined: int
    """Rows that cannot be used."""


def read_histories(source: Source, rules: Rules, run: RunFolder, items: Items, out: AnyPath) -> Read:
    """Read a file of user, item, time and perhaps rating, and keep it as a prepared folder with the run's items.

    All of the file is in memory at a time, about 50 bytes an event.

    Args:
        source: the opened file; ids are compared as texts, so that 7 and "7" are one item.
        rules: what a row must be.
        run: the run.
        items: its items.
        out: where to write; nothing may be there.

    Raises:
        DataError: if the file cannot be read, or no event is of an item that the run knows.
    """
    parsed = source.read(rules)
    enforce_limit(parsed.quarantine, parsed.rows, rules, source.plan.where)
    outside = {role for part in source.plan.parts for role, _ in part.values}
    if "rating" not in {*source.plan.roles, *outside}:  # unknown, not the 1 that stands for it in training
        parsed = replace(parsed, ratings_R=np.full_like(parsed.ratings_R, np.nan))
    block = make_block(parsed, repeats=rules.repeats, together=False)
    known_V = items.find(block.item_ids)
    items_E = known_V[block.items_E]
    kept_E = items_E > 0
    if not kept_E.any():
        some = ", ".join(str(item) for item in block.item_ids.slice(0, 5).to_pylist())
        raise UsageError(
            f"{source.plan.where}: the run {run.path.name} knows none of its {len(block.item_ids):,} items ({some}, "
            f"..); the run's ids are like {', '.join(items.texts.slice(0, 5).to_pylist())}"
        )
    context, features = _context(block, run.record().columns.context)
    users_E = np.repeat(np.arange(len(block.user_ids)), np.diff(block.offsets_U1))
    lengths_U = np.bincount(users_E[kept_E], minlength=len(block.user_ids))
    table = read_items(run.path)
    sequences = Sequences(
        user_ids=block.user_ids.filter(pa.array(lengths_U > 0)),
        items=Catalogue(*(table[name].combine_chunks() for name in ("source_id", "title", "genres"))),
        offsets_U1=np.concatenate([[0], lengths_U[lengths_U > 0].cumsum()]),
        items_E=items_E[kept_E].astype(np.int32),
        times_E=block.times_E[kept_E],
        ratings_E=block.ratings_E[kept_E],
        context=None if context is None else context.filter(pa.array(kept_E)),
    )
    manifest = _write(out, sequences, source, parsed.rows, int((~kept_E).sum()), features)
    return Read(
        PreparedFolder(out, manifest),
        unknown_events=int((~kept_E).sum()),
        unknown_items=int((known_V == 0).sum()),
        users_without=int((lengths_U == 0).sum()),
        quarantined=block.quarantine.num_rows,
    )


def _context(
    block: Block, columns: Sequence[EventColumn]
) -> tuple[pa.Table | None, tuple[Feature, ...] | None]:
    """Return the columns about events that a run reads, as shards hold them, by the run's own codes."""
    found: dict[str, npt.NDArray[Any]] = {}
    features = []
    for column in columns:
        if CONTEXT + column.name not in block.context:
            continue
        words, codes_E = block.context[CONTEXT + column.name]
        texts = [str(word) for word in words.to_pylist()]
        if column.values is None:
            numbers = np.array([np.nan, *(_number(text) for text in texts)], np.float32)
            found[CONTEXT + column.name] = numbers[codes_E]
            features.append(
                Feature(name=column.name, kind="number", center=column.center, scale=column.scale)
            )
        else:
            own = {text: code for code, text in enumerate(column.values, start=1)}
            codes = np.array([0, *(own.get(text, len(own) + 1) for text in texts)], np.int32)
            found[CONTEXT + column.name] = codes[codes_E]
            features.append(Feature(name=column.name, kind="categorical", values=column.values))
    return (pa.table(found), tuple(features)) if found else (None, None)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("nan")


def _write(
    out: AnyPath,
    sequences: Sequences,
    source: Source,
    rows: int,
    unknown: int,
    context: tuple[Feature, ...] | None,
) -> Manifest:
    """Write histories as a prepared folder."""
    size, sha256 = source.archive.identity(source.files)
    return fill_folder(
        out,
        sequences,
        name=source.path.stem,
        source=SourceRecord(
            bytes=size, sha256=sha256, name=source.path.name, layout=source.plan.layout, rows=rows
        ),
        filters=Filters(k_core=0),
        rows_dropped={"unknown_item": unknown},
        rows_per_shard=USERS_PER_PART,
        context=context,
    )
