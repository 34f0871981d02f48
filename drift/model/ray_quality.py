"""Ray layer of the model's side: ranks the future windows with the frozen model, and with retrained ones."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from drift.calendar import windows_a_year
from drift.cells.types import CellContext
from drift.model.quality import Baselines, QualityTask, summarise
from drift.model.retrained import Models, later_task
from drift.ray_passes import count_follow, rank_windows
from drift.signals.items import ItemCounts, counts_before
from ss4rec.data.prepared.folder import PreparedFolder
from ss4rec.data.prepared.tables import read_items
from ss4rec.runs.folder import RunFolder


def quality_records(
    context: CellContext,
    models: Models,
    timeline: PreparedFolder,
    counts: ItemCounts,
    vocabulary: int,
) -> list[dict[str, Any]]:
    """Return a record a window (all of them also with `--since-last`: their users are a sample).

    Args:
        context: plan, histograms and configuration.
        models: what is ranked with.
        timeline: the whole data.
        counts: events by item and window.
        vocabulary: items 1..vocabulary of the timeline are those of the frozen model.
    """
    plan, config = context.plan, context.config
    users = {window: int((context.histograms.window_R == window).sum()) for window in plan.future}
    task = QualityTask(
        config=config,
        data=RunFolder.open(models.frozen).config().data,
        windows=plan.windows,
        chosen={window: config.quality_users / max(count, 1) for window, count in users.items()},
        cut_s=plan.cut_s,
        vocabulary=vocabulary,
        baselines=_baselines(context, models.frozen, timeline, counts, vocabulary),
        profiles_UF=timeline.profiles_UF,
    )
    later = [later_task(task, plan.future, run, models.retrained, timeline) for run in models.retrained]
    ranks = rank_windows(timeline.shard_paths, models.frozen, task)
    if ranks is None:
        return []
    tables = [
        rank_windows(timeline.shard_paths, run, part)
        for run, part in zip(models.retrained, later, strict=True)
        if part.chosen
    ]
    found = [table for table in tables if table is not None]
    names = [(window, context.name(window)) for window in plan.future]
    records = summarise(ranks, names, config, vocabulary, pa.concat_tables(found) if found else None)
    return [{k: None if _is_nan(v) else v for k, v in record.items()} for record in records]


def _baselines(
    context: CellContext, run: Path, timeline: PreparedFolder, counts: ItemCounts, vocabulary: int
) -> Baselines:
    """Count what the model is compared with; nothing later than the window is in it."""
    lookback = windows_a_year(context.config.window)
    counts_WV = counts.counts_WV[:, : vocabulary + 1]
    years = {window: counts_before(counts_WV, window, lookback) for window in context.plan.future}
    return Baselines(
        frozen_V=np.concatenate([[0], read_items(run)["count"].to_numpy()]),
        rolling_WV=years,
        follow_VV=count_follow(timeline.shard_paths, vocabulary, context.plan.cut_s),
    )


def _is_nan(value: object) -> bool:
    return isinstance(value, float) and math.isnan(value)
