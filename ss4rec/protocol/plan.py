"""What a protocol means for one prepared folder: cuts, vocabulary, and how much of each user trains and tests."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ss4rec.data.batches.windows import Split, ragged, window_starts
from ss4rec.data.ids import drawn
from ss4rec.data.prepare.k_core import k_core, kept_events
from ss4rec.data.prepared.event_columns import Wanted, chosen_context, chosen_targets
from ss4rec.data.prepared.folder import PreparedFolder
from ss4rec.data.prepared.item_codes import chosen_features, described_items
from ss4rec.data.prepared.manifest import Manifest
from ss4rec.data.ties import hashed
from ss4rec.errors import DataError
from ss4rec.io.paths import AnyPath, to_path
from ss4rec.model.columns import EventColumn
from ss4rec.protocol.divide import (
    HELD_OUT,
    BoolArray,
    Division,
    Events,
    IntArray,
    Rules,
    arrange,
    counted,
    divide,
    parts,
)
from ss4rec.protocol.facts import UserTargets, facts_of, training_gaps
from ss4rec.protocol.numbers import by_index, numbered
from ss4rec.protocol.settings import Protocol, cut_moment

if TYPE_CHECKING:
    from torch import Tensor

    from ss4rec.config import RunConfig


@dataclass(frozen=True)
class Plan:
    """A protocol worked out for a folder. `divide` gives the events themselves, shard by shard."""

    rules: Rules
    items_I: npt.NDArray[np.int32] | None
    """The folder's item of the model's items 1, 2, ...; None: the same."""
    num_items: int
    """Items that the model knows, by training events or by their features."""
    fit_U: IntArray
    """Events of each user that train."""
    valid: UserTargets
    test: UserTargets
    counts_I: IntArray | None
    """Training events of the model's items 1, 2, ...; None where the table of items is the folder's own."""
    median_gap_s: float
    """Median gap between a user's consecutive training events."""
    facts: dict[str, int]
    """Numbers of rows, users and items of each part, by name."""

    @property
    def protocol(self) -> Protocol:
        """The protocol."""
        return self.rules.protocol

    @property
    def trained(self) -> int:
        """Items with training events: the model's items 1 to this number; the others are known by features alone."""
        return self.num_items if self.rules.trained is None else self.rules.trained

    @property
    def cut_s(self) -> int | None:
        """Last second that training and validation have seen; None for leave-one-out."""
        return self.rules.cut_s

    def asked_from_s(self, split: Split) -> int | None:
        """Return the moment before which nobody asks for targets of a split: its cut; None where there is none."""
        if split == "test" or self.rules.valid_cut_s is None:
            return self.cut_s if split == "test" else None
        return self.rules.valid_cut_s

    def divide(self, shard: pa.Table) -> Division:
        """Return what of a shard trains, validates and tests; see `divide`."""
        return divide(shard, self.rules)

    def targets(self, split: Split) -> UserTargets:
        """Return the targets of a split."""
        return self.valid if split == "valid" else self.test

    def shares_passes(self, split: Split) -> bool:
        """Whether several targets of a user are ranked from one pass over the history."""
        protocol = self.protocol
        choice = protocol.targets if split == "test" else protocol.validation_targets
        return protocol.kind == "global_time" and choice == "successive"

    def history_len(self, max_len: int) -> int:
        """Return how many events of a history a model with windows of `max_len` sees."""
        return min(max_len, self.protocol.max_history or max_len)

    def batch_rows(
        self, split: Split, max_len: int, batch_targets: int, rank: int = 0, world: int = 1
    ) -> list[int]:
        """Return how many rows of `windows.target_windows` make up each batch of one worker's users.

        A batch has at most `batch_targets` targets, or one row if that has more.
        """
        targets = self.targets(split)
        counts_U = np.diff(targets.offsets_U1)
        user_N = np.repeat(np.arange(len(counts_U)), counts_U)
        mine_N = user_N % world == rank
        if not self.shares_passes(split):
            return sizes_of(np.ones(int(mine_N.sum()), np.int64), batch_targets)
        start_N = window_starts(targets.ends_N[mine_N], self.history_len(max_len))
        is_first_N = np.ones(len(start_N), bool)
        is_first_N[1:] = (np.diff(user_N[mine_N]) != 0) | (np.diff(start_N) != 0)
        return sizes_of(np.diff(np.append(np.flatnonzero(is_first_N), len(start_N))), batch_targets)

    def items(self, folder: PreparedFolder | AnyPath) -> pa.Table:
        """Return `items.parquet` of the items that the model knows, by its own indices, with their training events."""
        table = PreparedFolder.open(folder).items
        if self.items_I is None:
            return table
        table = table.take(pa.array(self.items_I - 1))
        own = {"item": np.arange(1, self.num_items + 1, dtype=np.int32), "count": self.counts_I}
        for name, values_I in own.items():
            table = table.set_column(
                table.column_names.index(name), table.schema.field(name), pa.array(values_I)
            )
        return table

    def attributes(self, folder: PreparedFolder) -> Tensor:
        """Return genres and period of release of the items that the model knows, 0/1, by its own indices."""
        if self.items_I is None:
            return folder.attributes_VA
        from ss4rec.data.prepared.item_attributes import item_attributes

        return item_attributes(self.items(folder))


def sizes_of(targets_W: IntArray, batch_targets: int) -> list[int]:
    """Return how many rows with these numbers of targets go into each batch, in order."""
    ends_W = np.cumsum(targets_W)
    sizes, row, done = [], 0, 0
    while row < len(ends_W):
        stop = max(int(np.searchsorted(ends_W, done + batch_targets, side="right")), row + 1)
        sizes.append(stop - row)
        row, done = stop, int(ends_W[stop - 1])
    return sizes


def plan_of_run(config: RunConfig, folder: PreparedFolder | AnyPath | str) -> Plan:
    """Work out the protocol of a run; items that never trained count where its model reads features of items.

    Raises:
        ConfigError: if the model wants features that the folder does not have.
        DataError: as `make_plan`.
    """
    folder = PreparedFolder.open(folder)
    return make_plan(
        config.protocol,
        folder,
        chosen_features(config.model.item_features, folder.manifest),
        chosen_context(config.model.context, folder.manifest),
        config.data.targets,
    )


def make_plan(
    protocol: Protocol,
    folder: PreparedFolder | AnyPath | str,
    features: tuple[str, ...] = (),
    context: tuple[EventColumn, ...] = (),
    targets: str = "auto",
) -> Plan:
    """Work a protocol out for a prepared folder.

    Leave-one-out of a folder as it is reads no shard; anything else reads all events, 20 bytes of memory for each.

    Args:
        protocol: the protocol.
        folder: the prepared folder.
        features: features of items by which such as never train are known; without them these are in no ranking, and a
            target of theirs is a miss.
        context: columns about events that are read.
        targets: which events are targets (`DataConfig.targets`).

    Raises:
        ConfigError: if the folder has no such events.
        DataError: if the folder contradicts the protocol, or a part of the division is empty.
    """
    folder = PreparedFolder.open(folder)
    _check_folder(protocol, folder)
    start = Rules(protocol, context=context, wanted=chosen_targets(targets, folder.manifest))
    all_held_out = protocol.held_out_users is None
    plain = all_held_out and not features and start.wanted is None and not _filters(protocol, folder.manifest)
    if protocol.kind == "leave_one_out" and plain:
        return _as_it_is(start, folder)
    return _plan(
        protocol, str(folder.path.absolute()), folder.manifest.to_json(), features, context, start.wanted
    )


@lru_cache(maxsize=4)
def _plan(
    protocol: Protocol,
    place: str,
    manifest_json: str,
    features: tuple[str, ...],
    context: tuple[EventColumn, ...],
    wanted: Wanted | None,
) -> Plan:
    """Read all events and make the plan; by `manifest_json` another folder in the same place gets a plan of its own."""
    folder = PreparedFolder(to_path(place), Manifest.model_validate_json(manifest_json))
    events, manifest = _read(folder), folder.manifest
    described_V = described_items(folder.items, manifest, features) if features else None
    start = Rules(protocol, context=context, wanted=wanted)
    if protocol.held_out_users is not None:
        ids = folder.users["source_id"].to_pylist()
        start = replace(start, withheld_N=drawn(ids, protocol.held_out_users))
    rules = find_rules(protocol, events, manifest, described_V, start)
    return plan_of(rules, events, manifest.items)


def find_rules(
    protocol: Protocol,
    events: Events,
    manifest: Manifest,
    described_V: BoolArray | None = None,
    start: Rules | None = None,
) -> Rules:
    """Find out what the protocol means for all events of a folder.

    Args:
        protocol: the protocol.
        events: all events.
        manifest: the folder's.
        described_V: items that a model knows by features where they never train.
        start: what is read of events, and which are targets.
    """
    users, items = manifest.users, manifest.items
    arranged = arrange(events, protocol)
    rules = start or Rules(protocol)
    if protocol.k_core and protocol.core == "before":
        users_N, items_V = _core(arranged, protocol.k_core, users, items)
        rules = replace(rules, users_N=users_N, items_V=items_V)
    counted_events = counted(events, rules)
    if not len(counted_events.items_E):
        raise DataError(
            f"protocol {protocol.name}: no event is left of {manifest.name}; ask for a smaller k_core"
        )
    if protocol.kind == "global_time":
        rules = _cuts(rules, counted_events, manifest)
    elif protocol.kind == "leave_one_out" and rules.items_V is None and described_V is None:
        return rules
    return numbered(rules, counted_events, items, described_V)


def _cuts(rules: Rules, events: Events, manifest: Manifest) -> Rules:
    """Find the moments of the cuts, the k-core after the cut, and the users who do not train."""
    protocol = rules.protocol
    cut_s = cut_moment(protocol.cut)
    if cut_s is None:
        cut_s = _quantile(events.times_E, float(protocol.cut or 0))
    if not events.times_E.min() <= cut_s < events.times_E.max():
        raise DataError(
            f"protocol {protocol.name}: the cut {protocol.cut} leaves no event on one side; the events of "
            f"{manifest.name} are from {events.times_E.min()} to {events.times_E.max()} (unix seconds)"
        )
    rules = replace(rules, cut_s=cut_s)
    if protocol.k_core and protocol.core == "after":
        past = events.keep(events.times_E <= cut_s)
        train_users_N, train_items_V = _core(past, protocol.k_core, manifest.users, manifest.items)
        rules = replace(rules, train_users_N=train_users_N, train_items_V=train_items_V)
    train_E = parts(events, rules).train_E
    if not train_E.any():
        raise DataError(
            f"protocol {protocol.name}: no user has two events up to the cut {cut_s}; move the cut"
        )
    if protocol.validation == "time":
        return replace(rules, valid_cut_s=_quantile(events.times_E[train_E], protocol.validation_quantile))
    if protocol.validation == "user":
        candidates = np.unique(events.user_E[train_E])
        if protocol.validation_users >= len(candidates):
            raise DataError(
                f"protocol.validation_users is {protocol.validation_users}, and only {len(candidates)} users have two "
                "events up to the cut; set it lower"
            )
        draws = hashed(candidates, np.full(len(candidates), protocol.seed))
        withheld_N = np.zeros(manifest.users, bool)
        withheld_N[candidates[np.argsort(draws, kind="stable")[: protocol.validation_users]]] = True
        return replace(rules, withheld_N=withheld_N)
    return rules


def plan_of(rules: Rules, events: Events, items: int) -> Plan:
    """Count what the rules do to all events.

    Raises:
        DataError: if nothing trains, or nothing is left to choose by or to test.
    """
    division = divide(events.table(), rules)
    users = len(events.users_U)
    protocol = rules.protocol
    valid, test = (UserTargets.of(targets, users, rules) for targets in (division.valid, division.test))
    for what, number in {
        "training": division.fit_U.sum(),
        "validation": valid.users,
        "test": test.users,
    }.items():
        if not number:
            raise DataError(f"protocol {protocol.name}: nothing is left for {what}; move the cut")
    items_I = None if rules.index_V is None else by_index(rules.index_V)
    items_E, offsets_U1 = ragged(division.histories["items"])
    num_items = items if items_I is None else len(items_I)
    place_E = np.arange(len(items_E)) - np.repeat(offsets_U1[:-1], np.diff(offsets_U1))
    fit_E = place_E < np.repeat(division.fit_U, np.diff(offsets_U1))
    counts_I = np.bincount(items_E[fit_E], minlength=num_items + 1)[1:]
    gaps = training_gaps(division)
    return Plan(
        rules=rules,
        items_I=items_I,
        num_items=num_items,
        fit_U=division.fit_U,
        counts_I=None if items_I is None else counts_I,
        valid=valid,
        test=test,
        median_gap_s=float(np.median(gaps)) if len(gaps) else 0.0,
        facts=facts_of(rules, events, division, valid, test),
    )


def _as_it_is(rules: Rules, folder: PreparedFolder) -> Plan:
    """Return the plan of leave-one-out without filters, from the table of users alone."""
    counts_U = folder.users["count"].to_numpy().astype(np.int64)
    has_U = counts_U > HELD_OUT
    offsets_U1 = np.concatenate([[0], np.cumsum(has_U)])
    valid, test = (UserTargets(offsets_U1, (counts_U[has_U] - back).astype(np.int32), 0) for back in (2, 1))
    users = int(has_U.sum())
    return Plan(
        rules=rules,
        items_I=None,
        num_items=folder.manifest.items,
        fit_U=np.maximum(counts_U - HELD_OUT, 0),
        counts_I=None,
        valid=valid,
        test=test,
        median_gap_s=folder.manifest.median_gap_s,
        facts={
            "fit_rows": int(np.maximum(counts_U - HELD_OUT, 0).sum()),
            "fit_users": users,
            "valid_users": users,
            "valid_targets": users,
            "valid_cold_targets": 0,
            "test_users": users,
            "test_targets": users,
            "test_cold_targets": 0,
        },
    )


def _filters(protocol: Protocol, manifest: Manifest) -> bool:
    """Whether the protocol changes the folder's events at all."""
    more_core = protocol.k_core > manifest.filters.k_core
    hashes = protocol.ties == "hash" and manifest.filters.ties != "hash"
    return more_core or hashes or protocol.repeats == "drop"


def _check_folder(protocol: Protocol, folder: PreparedFolder) -> None:
    """Refuse a folder whose preparation contradicts the protocol.

    Raises:
        DataError: saying how to prepare it.
    """
    core, ties = folder.manifest.filters.k_core, folder.manifest.filters.ties
    if protocol.ties == "file" and ties == "hash":
        raise DataError(
            f"{folder} was prepared with --ties hash and protocol {protocol.name} wants the order of the file; prepare "
            "it with --ties file, or set protocol.ties=hash"
        )
    if protocol.kind == "global_time" and protocol.core == "after" and core:
        raise DataError(
            f"{folder} was prepared with --k-core {core}, so events after the cut decided what is in it; prepare it "
            "with --k-core 0, or set protocol.core=before to say so"
        )
    if 0 < protocol.k_core < core:
        raise DataError(
            f"{folder} was prepared with --k-core {core} and protocol {protocol.name} takes a {protocol.k_core}-core; "
            f"prepare it with --k-core {protocol.k_core} or 0, or set protocol.k_core={core}"
        )


def _read(folder: PreparedFolder) -> Events:
    """Read all events of a folder."""
    shards = [folder.read_shard(number) for number in range(len(folder.manifest.shards))]
    return Events.of(pa.concat_tables(shards).combine_chunks())


def _core(events: Events, k: int, users: int, items: int) -> tuple[BoolArray, BoolArray]:
    """Return which users and which items are in the k-core."""

    def count(mask_I: npt.NDArray[np.bool_], min_user: int) -> tuple[IntArray, tuple[IntArray, ...]]:
        kept_E, kept_U = kept_events(events.items_E - 1, events.offsets_U1, mask_I, min_user)
        return np.bincount(events.items_E[kept_E] - 1, minlength=items), (kept_U,)

    core = k_core(count, np.ones(items, bool), k, k)
    users_N = np.zeros(users, bool)
    users_N[events.users_U[core.kept[0] > 0]] = True
    return users_N, np.append(False, core.mask_V)


def _quantile(times_E: IntArray, share: float) -> int:
    """Return the quantile of times (linear between two of them), rounded down to a whole second."""
    return math.floor(np.quantile(times_E, share))
