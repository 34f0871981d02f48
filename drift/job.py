"""The whole job: contract, windows, pass 1, pass 2, verdicts, files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from drift.cells.run import all_cells
from drift.cells.types import REFERENCE, CellContext
from drift.config import SEVERITIES, DriftConfig
from drift.events import KnownEvent
from drift.model.retrained import Models, check_retrained
from drift.plan import check_contract, make_plan
from drift.report.assemble import assemble
from drift.report.contents import Report
from drift.report.store import merge_key, read_earlier, stable_keys, write_all
from drift.report.verdict import judge
from drift.report.wandb_summary import log_summary
from drift.signals.definitions import signals
from drift.signals.histograms import HistogramMaker, UserHistograms
from drift.signals.items import ItemCounts, read_item_facts
from ss4rec.data.prepared.folder import PreparedFolder
from ss4rec.data.prepared.item_months import read_item_months
from ss4rec.data.split import TIMELINE, SplitRecord

EXIT_ALERT, EXIT_INCOMPLETE = 10, 1


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
        retrained: runs on later cuts of the same data: a line beside the frozen model's quality.
        events: drawn in the report.
        since_last: add new windows to the profile and the rows in `out`.
        address: Ray cluster, as `ss4rec.cluster.connect.cluster`.

    Raises:
        ContractError: if data, cut, run or an earlier profile do not belong together.
        UsageError: if the windows cannot be laid out.
    """
    from drift.model.ray_quality import quality_records
    from drift.ray_passes import make_histograms, run_cells
    from ss4rec.cluster.connect import cluster

    split = SplitRecord.load(data)
    check_contract(data, split, run)
    timeline = PreparedFolder.open(data / TIMELINE)
    check_retrained(retrained, timeline, split.cut_s)
    plan = make_plan(config, timeline.manifest, split.cut_s)
    items = read_item_facts(timeline.items, split.vocabulary, split.seen)
    out.mkdir(parents=True, exist_ok=True)
    key = merge_key(config, plan, items.labels)
    old_rows, old = read_earlier(out, key) if since_last else ([], None)
    done = {row.window for row in old_rows if row.comparison == REFERENCE and row.status != "error"}
    fresh = [window for window in plan.future if plan.windows[window].name not in done]
    with cluster(address):
        counts = ItemCounts.of_months(read_item_months(data), plan.windows)
        wanted = plan.wanted if old is None else fresh
        make = HistogramMaker(config.window, plan.windows, wanted, items, counts, plan.year_before)
        made = make_histograms(timeline.shard_paths, make, timeline.manifest.items)
        made = replace(made, user_R=stable_keys(timeline.users["source_id"].to_pylist())[made.user_R])
        made = UserHistograms.merge([made] if old is None else [old, made])
        context = CellContext(config, plan, made, signals(items.labels))
        kept = [row for row in old_rows if row.window in done]
        rows = kept + run_cells(context, all_cells(plan, fresh, config.alibi), config.workers)
        quality: list[dict[str, Any]] = []
        if run is not None:
            models = Models(run, tuple(retrained))
            quality = quality_records(context, models, timeline, counts, split.vocabulary)
    judge(context, rows)
    report = assemble(context, rows, quality, counts, events)
    write_all(out, key, report, rows, context)
    log_summary(report, config, out)
    return report, exit_code(config, report)


def exit_code(config: DriftConfig, report: Report) -> int:
    """Return 0, 10 at or above `fail_on`, 1 if a cell failed (a report with a hole is no all-clear)."""
    if config.fail_on != "never" and SEVERITIES.index(report.verdict) >= SEVERITIES.index(config.fail_on):
        return EXIT_ALERT
    return EXIT_INCOMPLETE if any(cell["status"] == "error" for cell in report.cells) else 0
