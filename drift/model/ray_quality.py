"""Ray layer of the model's side: ranks the future windows with the frozen model, and with retrained ones."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from drift.cells.types import CellContext
from drift.model.held_out import HeldOut
from drift.model.names import BEFORE_CUT
from drift.model.quality import Quality, summarise
from drift.model.rank import Baselines, RankTask
from drift.model.retrained import Models, OwnOrder, later_task, own_order
from drift.model.sample import choose_users
from drift.model.targets import TargetChoice
from drift.ray_passes import Shard, count_follow, rank_windows
from drift.signals.items import ItemCounts, ItemFacts, counts_before
from ss4rec.data.prepared.event_columns import chosen_targets
from ss4rec.data.prepared.folder import PreparedFolder
from ss4rec.data.prepared.tables import read_items
from ss4rec.runs.folder import RunFolder


def rank_quality(
    context: CellContext,
    models: Models,
    timeline: PreparedFolder,
    shards: Sequence[Shard],
    counts: ItemCounts,
    facts: ItemFacts,
    keys_U: NDArray[np.int64],
    held_out: HeldOut,
    kept: pa.Table | None = None,
) -> Quality:
    """Rank the windows that are not in `kept` yet, and sum all of them up.

    Args:
        context: plan, histograms (users by key) and configuration.
        models: what is ranked with.
        timeline: the whole data.
        shards: its shards, as `drift.ray_passes.hold_shards` returned them.
        counts: events by item and window.
        facts: what is known of the timeline's items; the first ones are the frozen model's.
        keys_U: stable key of each user of the timeline.
        held_out: what the frozen model's training did not see before the cut.
        kept: ranks of an earlier report on the same run, whose finished windows stay as they are.
    """
    plan, config = context.plan, context.config
    done = set() if kept is None else set(kept["window"].to_pylist())
    fresh_windows = [window for window in plan.future if window not in done]
    users = choose_users(context, fresh_windows, keys_U, None if BEFORE_CUT in done else held_out)
    data, order = (
        RunFolder.open(models.frozen).config().data,
        own_order(models.frozen, timeline, facts.vocabulary),
    )
    choice = TargetChoice(
        data=data,
        windows=plan.windows,
        users=users,
        cut_s=plan.cut_s,
        vocabulary=facts.vocabulary if order is None else order.size,
        per_user=config.targets_per_user,
        reference_s=max(plan.windows[plan.reference[0]].start_s, held_out.from_s),
        told=RunFolder.open(models.frozen).record().columns.context,
        context=timeline.manifest.context or (),
        remap_V=None if order is None else order.remap_V,
        wanted=chosen_targets(data.targets, timeline.manifest),
    )
    genres_VG = facts.genres_VG[: facts.vocabulary + 1]
    task = RankTask(
        choice=choice,
        seed=config.seed,
        baselines=_baselines(context, models.frozen, shards, counts, facts.vocabulary, order),
        profiles_UF=timeline.profiles_UF,
        genres_VG=genres_VG if order is None else order.moved(genres_VG),
    )
    fresh = rank_windows(shards, models.frozen, task, config.workers) if users else None
    parts = [table for table in (kept, _by_key(fresh, keys_U)) if table is not None]
    if not parts:
        return Quality(compared_with="nothing: no user could be ranked for")
    ranks = pa.concat_tables(parts)
    everyone = choose_users(context, plan.future, keys_U, None)
    later = _rank_later(task, everyone, context, models, timeline, shards, keys_U)
    names = [(window, context.name(window)) for window in plan.future]
    records, compared = summarise(ranks, names, config, choice.vocabulary, later)
    plain = [{k: None if _is_nan(v) else v for k, v in record.items()} for record in records]
    return Quality(plain, compared, ranks)


def _rank_later(
    task: RankTask,
    users: dict[int, NDArray[np.int64]],
    context: CellContext,
    models: Models,
    timeline: PreparedFolder,
    shards: Sequence[Shard],
    keys_U: NDArray[np.int64],
) -> pa.Table | None:
    """Rank the same targets with the retrained runs, each in its own windows."""
    whole = RankTask(**(vars(task) | {"choice": TargetChoice(**(vars(task.choice) | {"users": users}))}))
    found = []
    for run in models.retrained:
        part = later_task(whole, context.plan.future, run, models.retrained, timeline)
        ranked = rank_windows(shards, run, part, context.config.workers) if part.choice.users else None
        if ranked is not None:
            found.append(_by_key(ranked, keys_U))
    return pa.concat_tables(found) if found else None


def _by_key(ranks: pa.Table | None, keys_U: NDArray[np.int64]) -> pa.Table | None:
    """Name users by their stable key instead of their index, which changes when users are added."""
    if ranks is None:
        return None
    return ranks.set_column(0, "user", pa.array(keys_U[ranks["user"].to_numpy()]))


def _baselines(
    context: CellContext,
    run: Path,
    shards: Sequence[Shard],
    counts: ItemCounts,
    vocabulary: int,
    order: OwnOrder | None,
) -> Baselines:
    """Count what the model is compared with, in its own order of items; nothing later than the window is in it."""
    plan = context.plan
    counts_WV = counts.counts_WV[:, : vocabulary + 1]
    years = {window: counts_before(counts_WV, window, plan.lookback) for window in plan.future}
    years[BEFORE_CUT] = counts_before(counts_WV, plan.reference[0], plan.lookback)
    follow_VV = count_follow(shards, vocabulary, plan.cut_s, counts.counts_WV.shape[1] - 1)
    if order is not None:
        years = {window: order.moved(counts_V) for window, counts_V in years.items()}
        follow_VV = order.moved(order.moved(follow_VV).T.tocsr()).T.tocsr()
    return Baselines(
        frozen_V=np.concatenate([[0], read_items(run)["count"].to_numpy()]),
        rolling_WV=years,
        follow_VV=follow_VV,
    )


def _is_nan(value: object) -> bool:
    return isinstance(value, float) and math.isnan(value)
