"""The whole job: contract, windows, pass 1, pass 2, the model's ranks, verdicts, files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drift.calendar import whole_months
from drift.cells.run import alibi_cells, all_cells
from drift.cells.types import FAMILIES, IDENTICAL, REFERENCE, VOLUME, CellContext, Row
from drift.cells.volume import identical_rows, volume_rows
from drift.cells.wander import past_wander
from drift.config import SEVERITIES, DriftConfig, check_detectors
from drift.events import KnownEvent
from drift.model.quality import Quality
from drift.model.retrained import Models, check_retrained
from drift.plan import Plan, check_contract, make_plan
from drift.report.assemble import assemble
from drift.report.contents import Report
from drift.report.metadata import compare_items
from drift.report.store import (
    Earlier,
    earlier_context,
    earlier_genres,
    merge_key,
    read_earlier,
    write_all,
)
from drift.report.verdict import judge
from drift.report.wandb_summary import log_summary
from drift.signals.context import context_columns
from drift.signals.histograms import HistogramMaker, UserHistograms
from drift.signals.items import ItemCounts, ItemFacts, read_item_facts, unseen_shares
from ss4rec.data.ids import stable_keys
from ss4rec.data.prepared.folder import PreparedFolder
from ss4rec.data.prepared.item_months import read_item_months
from ss4rec.data.prepared.tables import read_items
from ss4rec.data.split import PAST, TIMELINE, SplitRecord
from ss4rec.train.status import announce

EXIT_ALERT, EXIT_UNDECIDED, EXIT_INCOMPLETE = 10, 11, 1


@dataclass(frozen=True)
class Source:
    """What a report is about: the timeline, its plan, and what is known of items and users."""

    data: Path
    timeline: PreparedFolder
    config: DriftConfig
    plan: Plan
    facts: ItemFacts
    keys_U: NDArray[np.int64]
    """Stable key of each user."""

    @classmethod
    def open(
        cls,
        data: Path,
        timeline: PreparedFolder,
        split: SplitRecord,
        config: DriftConfig,
        before: Path | None,
    ) -> Source:
        """Plan a report; `before` holds an earlier one, whose bins it keeps."""
        labels, bins = (earlier_genres(before), earlier_context(before)) if before else (None, None)
        brought = (timeline.manifest.features or {}).get("items", ())
        facts = read_item_facts(timeline.items, split.vocabulary, split.seen, labels, brought)
        facts = replace(facts, context=context_columns(timeline.manifest.context or (), bins))
        keys_U = stable_keys(timeline.users["source_id"].to_pylist())
        return cls(data, timeline, config, make_plan(config, timeline.manifest, split.cut_s), facts, keys_U)


def run_drift(
    data: Path,
    run: Path | None,
    out: Path,
    config: DriftConfig,
    *,
    retrained: Sequence[Path] = (),
    events: Sequence[KnownEvent] = (),
    since_last: bool = False,
    address: str | None = None,
) -> tuple[Report, int]:
    """Write the report on a split folder into `out`; returns it with the exit code.

    Args:
        data: what `ss4rec data split` wrote.
        run: run folder that was trained on `data/past`, or None.
        out: folder of the report; with `since_last` it holds an earlier report, and only new windows are computed.
        config: everything that decides the result.
        retrained: runs on later cuts of the same data: compared with `run` on the same events.
        events: drawn in the report.
        since_last: add new windows to the histograms, the cells and the ranks in `out`.
        address: Ray cluster, as `ss4rec.cluster.connect.cluster`.

    Raises:
        ContractError: if data, cut, run or an earlier report do not belong together.
        UsageError: if the windows cannot be laid out.
    """
    from ss4rec.cluster.connect import cluster

    check_detectors(config)
    split = SplitRecord.load(data)
    check_contract(data, split, run)
    timeline = PreparedFolder.open(data / TIMELINE)
    check_retrained(retrained, timeline, split.cut_s)
    source = Source.open(data, timeline, split, config, out if since_last else None)
    out.mkdir(parents=True, exist_ok=True)
    key = merge_key(config, source.plan, source.facts, run)
    earlier = read_earlier(out, key) if since_last else None
    with cluster(address):
        announce("reading the events ...")
        shards = _hold(timeline)
        context, rows, fresh = _compute(source, shards, earlier)
        quality = _rank(source, shards, context, run, retrained, earlier)
        rows += _alibi_on_model(context, quality)
    announce("writing the report ...")
    judge(context, rows)
    report = assemble(
        context, rows, quality, _counts_of(context), events, fresh, _metadata(source, earlier, run)
    )
    write_all(out, key, report, rows, context, timeline.items, quality.ranks)
    log_summary(report, config, out)
    return report, exit_code(config, report)


def _hold(timeline: PreparedFolder) -> Sequence[Any]:
    """Read each shard once for all passes."""
    from drift.ray_passes import hold_shards

    manifest = timeline.manifest
    columns = len(manifest.context or ())
    return hold_shards(timeline.shard_paths, manifest.interactions, manifest.items, columns)


def _compute(
    source: Source, shards: Sequence[Any], earlier: Earlier | None
) -> tuple[CellContext, list[Row], list[str]]:
    """Run both passes; return the context, all rows that are not judged yet, and the windows that are new."""
    from drift.ray_passes import count_past, hold_context, run_cells, run_past

    plan, config = source.plan, source.config
    num_items = source.timeline.manifest.items
    seen = set() if earlier is None else {row.window for row in earlier.rows}
    fresh = [window for window in plan.future if plan.windows[window].name not in seen]
    by_month = whole_months(plan.windows)
    past = count_past(
        shards,
        plan.windows[plan.reference[0]].start_s,
        num_items,
        None if by_month else plan.windows,
    )
    counts = past.items or ItemCounts.of_months(read_item_months(source.data), plan.windows)
    tables = past.tables()
    make = HistogramMaker(
        plan.windows,
        plan.wanted if earlier is None else fresh,
        source.facts,
        counts,
        plan.year_before,
        tables,
        plan.lookback,
        plan.known_s,
    )
    made = _histograms(source, shards, make, earlier, fresh)
    unseen = unseen_shares(counts, plan.windows, [w for w in plan.wanted if w <= plan.reference[-1]])
    context = CellContext(
        config, plan, made, source.facts.layout, unseen, counts, source.facts, tables.mean_V
    )
    announce("comparing windows of the past ...")
    held = hold_context(context.without_titles())
    past_tests = partial(run_past, held, workers=config.workers)
    wander = past_wander(context, past_tests)
    context = replace(context, wander=wander)
    kept = [] if earlier is None else _still_valid(earlier.rows, context)
    done = {row.window for row in kept if row.comparison == REFERENCE}
    todo = [window for window in plan.future if context.name(window) not in done]
    cells = all_cells(plan, todo) + alibi_cells(context, todo)
    announce(f"comparing windows in {len(cells)} tests ...")
    rows = kept + run_cells(held, wander, cells, config.workers)
    return context, rows + volume_rows(context) + identical_rows(context), [context.name(w) for w in fresh]


def _histograms(
    source: Source, shards: Sequence[Any], make: HistogramMaker, earlier: Earlier | None, fresh: list[int]
) -> UserHistograms:
    """Run pass 1 on new windows and add those of an earlier report; users by key."""
    from drift.ray_passes import make_histograms

    parts = [] if earlier is None else [earlier.histograms]
    if fresh or earlier is None:
        announce(f"looking at every user in {len(source.plan.windows)} windows ...")
        made = make_histograms(shards, make, source.timeline.manifest.items)
        parts.append(replace(made, user_R=source.keys_U[made.user_R]))
    return UserHistograms.merge(parts)


def _still_valid(rows: list[Row], context: CellContext) -> list[Row]:
    """Return the rows of earlier windows that need not be computed again.

    Cells that failed are, and so are all where so many windows have come that their permutations cannot decide any
    more; volumes and copies cost nothing and always are.
    """
    count = max(len(context.plan.future), context.config.planned_windows) / FAMILIES[REFERENCE]
    names = {context.name(window) for window in context.plan.future}
    again = {
        row.window
        for row in rows
        if row.status == "error"
        or (row.comparison == REFERENCE and row.p_floor * count > context.config.alpha)
    }
    return [
        row
        for row in rows
        if row.window in names - again
        and row.detector not in (VOLUME, IDENTICAL)
        and row.comparison != "control"
    ]


def _rank(
    source: Source,
    shards: Sequence[Any],
    context: CellContext,
    run: Path | None,
    retrained: Sequence[Path],
    earlier: Earlier | None,
) -> Quality:
    """Rank with the model, where there is one."""
    if run is None:
        return Quality()
    from drift.model.held_out import held_out
    from drift.model.ray_quality import rank_quality

    announce("ranking with the model ...")
    return rank_quality(
        context,
        Models(run, tuple(retrained)),
        source.timeline,
        shards,
        _counts_of(context),
        source.facts,
        source.keys_U,
        held_out(run, PreparedFolder.open(source.data / PAST)),
        None if earlier is None else earlier.ranks,
    )


def _alibi_on_model(context: CellContext, quality: Quality) -> list[Row]:
    """Run alibi-detect's detectors on what the model makes of each user."""
    if quality.ranks is None or not context.config.alibi:
        return []
    from drift.ray_passes import run_alibi_on_model

    names = [(window, context.name(window)) for window in context.plan.future]
    return run_alibi_on_model(quality.ranks, names, context.config)


def _counts_of(context: CellContext) -> ItemCounts:
    assert context.counts is not None
    return context.counts


def _metadata(source: Source, earlier: Earlier | None, run: Path | None) -> dict[str, Any] | None:
    """Compare what is said about items with the report before, or with what the run knew."""
    now = source.timeline.items
    if earlier is not None:
        return compare_items(earlier.items, now, "the report before")
    return (
        None
        if run is None
        else compare_items(read_items(run), now, "the items that the model was trained on")
    )


def exit_code(config: DriftConfig, report: Report) -> int:
    """Return 0, 10 at or above `fail_on`, 11 if nothing could be decided, 1 if a cell failed.

    Only windows that are new in this report count: what was said before is no alert again. A report with a hole is no
    all-clear, and neither is one that could not decide.
    """
    if config.fail_on == "never":
        return EXIT_INCOMPLETE if report.incomplete else 0
    if report.incomplete:
        return EXIT_INCOMPLETE
    if SEVERITIES.index(report.alert) >= SEVERITIES.index(config.fail_on):
        return EXIT_ALERT
    return EXIT_UNDECIDED if report.alert == "undecided" else 0
