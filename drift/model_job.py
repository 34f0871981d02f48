"""Rim: the model's side of a report. Ranks the future windows with the frozen model, and with retrained ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from drift.catalogue import ItemCounts, counts_before
from drift.cells import CellContext
from drift.quality import Baselines, QualityTask, summarise
from drift.ray_drift import count_follow, rank_windows
from drift.windows import windows_a_year
from ss4rec.data.prepared.folder import PreparedFolder
from ss4rec.data.prepared.tables import read_items
from ss4rec.errors import ContractError
from ss4rec.runs.folder import RunFolder


@dataclass(frozen=True)
class Models:
    """The runs whose quality is watched."""

    frozen: Path
    """Trained up to the report's cut."""
    retrained: tuple[Path, ...] = ()
    """Trained up to later cuts of the same data; each stands for the windows from its cut to the next one's."""


def quality_records(
    context: CellContext,
    models: Models,
    timeline: PreparedFolder,
    counts: ItemCounts,
    vocabulary: int,
) -> list[dict[str, Any]]:
    """Return a record a window (all of them also with `--since-last`: their users are a sample).

    Args:
        context: plan, profile and configuration.
        models: what is ranked with.
        timeline: the whole data.
        counts: events by item and window.
        vocabulary: items 1..vocabulary of the timeline are those of the frozen model.
    """
    plan, config = context.plan, context.config
    users = {window: int((context.profile.window_R == window).sum()) for window in plan.future}
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
    later = [_later(task, plan.future, run, models.retrained, timeline) for run in models.retrained]
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
    return [{k: None if v != v else v for k, v in record.items()} for record in records]


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


def check_retrained(runs: Sequence[Path], timeline: PreparedFolder, cut_s: int) -> None:
    """Check that retrained runs are of later cuts of the same data.

    Raises:
        ContractError: naming the run and what is wrong with it.
    """
    for run in runs:
        own_s = RunFolder.open(run).record().cut_s
        if own_s is None or own_s <= cut_s:
            raise ContractError(
                f"--retrained {run.name} was trained on data cut at {own_s}, the report's cut is {cut_s}; "
                "split the same data at a later date and train on that past"
            )
        size = read_items(run).num_rows
        remap_V = remap(timeline.items["source_id"], read_items(run)["source_id"])
        if (known := int((remap_V[1:] <= size).sum())) != size:
            raise ContractError(
                f"--retrained {run.name} knows {size:,} items, {known:,} of them are in {timeline}; "
                "give runs on the same data"
            )


def _later(
    task: QualityTask, future: Sequence[int], run: Path, runs: Sequence[Path], timeline: PreparedFolder
) -> QualityTask:
    """Return the task of a retrained run: its own items, the windows from its cut to the next run's."""
    cuts = {other: RunFolder.open(other).record().cut_s or 0 for other in runs}
    next_cut_s = min((cut_s for cut_s in cuts.values() if cut_s > cuts[run]), default=2**62)
    own = [w for w in future if cuts[run] < task.windows[w].start_s <= next_cut_s]
    return replace(
        task,
        data=RunFolder.open(run).config().data,
        chosen={window: task.chosen[window] for window in own},
        vocabulary=read_items(run).num_rows,
        baselines=None,
        remap_V=remap(timeline.items["source_id"], read_items(run)["source_id"]),
    )


def remap(timeline: pa.ChunkedArray, known: pa.ChunkedArray) -> NDArray[np.int32]:
    """Return a model's index of each item of the timeline: its place in `known` plus 1, `len(known) + 1` if not there.

    Entry 0 is padding.
    """
    at = pa.compute.index_in(timeline, value_set=known.combine_chunks())
    found_V = pa.compute.fill_null(at, len(known)).to_numpy() + 1
    return np.concatenate([[0], found_V]).astype(np.int32)
