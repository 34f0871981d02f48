"""The whole run: contract, windows, pass 1, pass 2, verdicts, files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drift import report as reports
from drift.catalogue import ItemCounts, read_catalogue, turnover
from drift.cells import CellContext, Row, all_cells, window_means
from drift.config import RIM, SEVERITIES, DriftConfig
from drift.distances import named_slices
from drift.events import KnownEvent, event_records
from drift.model_job import Models, check_retrained, quality_records
from drift.plan import Plan, check_contract, make_plan
from drift.profile import Profile, Profiler
from drift.ray_drift import profile, run_cells
from drift.signals import signals
from drift.summary import log_summary
from drift.verdict import date_changes, headline, judge, worst
from drift.windows import windows_a_year
from ss4rec.cluster.connect import cluster
from ss4rec.data.prepared.folder import PreparedFolder
from ss4rec.data.prepared.item_months import read_item_months
from ss4rec.data.split import TIMELINE, SplitRecord
from ss4rec.errors import ContractError
from ss4rec.io.untrusted import read_json
from ss4rec.runs.provenance import installed_versions

EXIT_ALERT, EXIT_INCOMPLETE = 10, 1
PROFILE_NAME, KEY_NAME = "profile.parquet", "profile.json"


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
) -> tuple[reports.Report, int]:
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
    split = SplitRecord.load(data)
    check_contract(data, split, run)
    timeline = PreparedFolder.open(data / TIMELINE)
    check_retrained(retrained, timeline, split.cut_s)
    plan = make_plan(config, timeline.manifest, split.cut_s)
    catalogue = read_catalogue(timeline.items, split.vocabulary, split.seen)
    out.mkdir(parents=True, exist_ok=True)
    key = _profile_key(config, plan, catalogue.labels)
    old_rows, old = _earlier(out, key) if since_last else ([], None)
    done = {row.window for row in old_rows if row.comparison == "reference" and row.status != "error"}
    fresh = [window for window in plan.future if plan.windows[window].name not in done]
    with cluster(address):
        shards = timeline.shard_paths
        counts = ItemCounts.of_months(read_item_months(data), plan.windows)
        wanted = plan.wanted if old is None else fresh
        profiler = Profiler(config.window, plan.windows, wanted, catalogue, counts, plan.year_before)
        made = profile(shards, profiler, timeline.manifest.items)
        made = replace(made, user_R=_stable_keys(timeline.users["source_id"].to_pylist())[made.user_R])
        made = Profile.merge([made] if old is None else [old, made])
        context = CellContext(config, plan, made, signals(catalogue.labels))
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


def write_all(
    out: Path, key: dict[str, Any], report: reports.Report, rows: list[Row], context: CellContext
) -> None:
    """Write a report's files over those of an earlier one.

    The key says that all files belong together: it goes first and comes last, so `--since-last` never adds to a report
    whose job was killed here.
    """
    (out / KEY_NAME).unlink(missing_ok=True)
    context.profile.save(out / PROFILE_NAME)
    reports.write(report, rows, context.layout, out)
    (out / KEY_NAME).write_text(json.dumps(key, indent=1) + "\n", encoding="utf-8")


def exit_code(config: DriftConfig, report: reports.Report) -> int:
    """Return 0, 10 at or above `fail_on`, 1 if a cell failed (a report with a hole is no all-clear)."""
    if config.fail_on != "never" and SEVERITIES.index(report.verdict) >= SEVERITIES.index(config.fail_on):
        return EXIT_ALERT
    return EXIT_INCOMPLETE if any(cell["status"] == "error" for cell in report.cells) else 0


def assemble(
    context: CellContext,
    rows: list[Row],
    quality: list[dict[str, Any]],
    counts: ItemCounts,
    events: Sequence[KnownEvent],
) -> reports.Report:
    """Sum up judged rows, the model's records, counts by item and known events as a report."""
    plan, layout = context.plan, context.layout
    main = [row for row in rows if row.comparison == "reference" and row.detector == "userperm"]
    verdicts = {
        name: worst([r.severity for r in main if r.window == name]) for name in {r.window for r in main}
    }
    since = date_changes(context, rows)
    data_verdict = worst(list(verdicts.values()))
    model_verdict = worst([record["severity"] for record in quality]) if quality else None
    harmed = [record["window"] for record in quality if record["severity"] in ("drift", "severe")]
    # The first bin of `history`: no event before the window.
    new_R = context.profile.counts_RK[:, named_slices(layout)["history"].start] > 0
    windows = []
    for window in plan.future:
        inside = context.profile.window_R == window
        name = context.name(window)
        sizes = {"users": int(inside.sum()), "new_users": int(new_R[inside].sum())}
        sizes["events"] = int(context.profile.events_R[inside].sum())
        changed = turnover(counts.counts_WV, window, windows_a_year(context.config.window))
        windows.append({"name": name, **sizes, "turnover": changed, "verdict": verdicts[name]})
    last_K = window_means(context, plan.future[-1:])[0][0]
    ref_K = context.profile.blocks(plan.reference, layout).mean(layout)
    histograms = {
        name: {"reference": _short(ref_K[part]), "last": _short(last_K[part])}
        for name, part in named_slices(layout).items()
    }
    return reports.Report(
        headline=headline(data_verdict, model_verdict, since, harmed[0] if harmed else None),
        verdict=worst([data_verdict, *([model_verdict] if model_verdict else [])]),
        data_verdict=data_verdict,
        model_verdict=model_verdict,
        cut_s=plan.cut_s,
        reference=[context.name(window) for window in plan.reference],
        calibration=[context.name(window) for window in plan.calibration],
        quality=quality,
        windows=windows,
        past_turnover=_past_turnover(context, counts),
        known_events=event_records(events, [plan.windows[window] for window in plan.future]),
        since=since,
        cells=reports.cell_records(rows),
        distributions=histograms,
        # Reports of different clusters can be compared byte for byte.
        config=context.config.model_dump(mode="json", exclude=RIM),
        versions=installed_versions(),
    )


def _past_turnover(context: CellContext, counts: ItemCounts) -> list[float] | None:
    """Return the least and the largest turnover of calibration windows with a whole year before them."""
    lookback = windows_a_year(context.config.window)
    whole = [window for window in context.plan.calibration if window >= lookback]
    past = [t for t in (turnover(counts.counts_WV, w, lookback) for w in whole) if t is not None]
    return [min(past), max(past)] if past else None


def _short(values: NDArray) -> list[float]:
    return [round(float(value), 5) for value in values]


def _stable_keys(source_ids: list[int] | list[str]) -> NDArray[np.int64]:
    """Return a key of each user that stays the same when users are added: the id, or 63 bits of its hash."""
    if isinstance(source_ids[0], int):
        return np.array(source_ids, np.int64)
    digests = (hashlib.blake2b(str(name).encode(), digest_size=8).digest() for name in source_ids)
    return np.array([int.from_bytes(digest, "big") >> 1 for digest in digests], np.int64)


def _profile_key(config: DriftConfig, plan: Plan, labels: tuple[str, ...]) -> dict:
    """Return what must agree before two profiles may be added."""
    names = [[plan.windows[number].name for number in side] for side in (plan.reference, plan.calibration)]
    decisive = config.model_dump(mode="json", exclude={*RIM, "fail_on"})
    return {
        "cut_s": plan.cut_s,
        "first": plan.windows[0].name,
        "reference": names[0],
        "calibration": names[1],
        "genres": list(labels),
        "config": decisive,
    }


def _earlier(out: Path, key: dict[str, Any]) -> tuple[list[Row], Profile | None]:
    """Read rows and profile of an earlier report.

    Raises:
        ContractError: if there is none, or it was made with another cut, reference or configuration.
    """
    if not (out / KEY_NAME).exists():
        raise ContractError(f"--since-last: {out} holds no report that was finished; run once without it")
    try:
        before = read_json(out / KEY_NAME)
    except (OSError, ValueError) as error:
        raise ContractError(
            f"--since-last: {out / KEY_NAME} cannot be read ({error}); run without --since-last"
        ) from None
    changed = [name for name in key if before.get(name) != key[name]]
    if changed:
        raise ContractError(
            f"--since-last: {out} was made with another {', '.join(changed)}; run without --since-last"
        )
    return reports.read_rows(out / "drift.parquet"), Profile.load(out / PROFILE_NAME)
