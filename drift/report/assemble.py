"""From judged cells, the model's figures and counts of items to the report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

from drift.calendar import windows_a_year
from drift.cells.compare import window_means
from drift.cells.types import OWN_TEST, REFERENCE, CellContext, Row
from drift.config import ALARMS, NOT_DECISIVE
from drift.events import KnownEvent, event_records
from drift.report.contents import Report, cell_records
from drift.report.verdict import date_changes, headline, worst
from drift.signals.items import ItemCounts, turnover
from drift.stats.distances import named_slices
from ss4rec.runs.provenance import installed_versions


def assemble(
    context: CellContext,
    rows: list[Row],
    quality: list[dict[str, Any]],
    counts: ItemCounts,
    events: Sequence[KnownEvent],
) -> Report:
    """Sum up judged rows, the model's records, counts by item and known events as a report."""
    plan = context.plan
    main = [row for row in rows if row.comparison == REFERENCE and row.detector == OWN_TEST]
    verdicts = {
        name: worst([r.severity for r in main if r.window == name]) for name in {r.window for r in main}
    }
    since = date_changes(context, rows)
    data_verdict = worst(list(verdicts.values()))
    model_verdict = worst([record["severity"] for record in quality]) if quality else None
    harmed = [record["window"] for record in quality if record["severity"] in ALARMS]
    return Report(
        headline=headline(data_verdict, model_verdict, since, harmed[0] if harmed else None),
        verdict=worst([data_verdict, *([model_verdict] if model_verdict else [])]),
        data_verdict=data_verdict,
        model_verdict=model_verdict,
        cut_s=plan.cut_s,
        reference=[context.name(window) for window in plan.reference],
        calibration=[context.name(window) for window in plan.calibration],
        quality=quality,
        windows=[_window_record(context, window, counts, verdicts) for window in plan.future],
        past_turnover=_past_turnover(context, counts),
        known_events=event_records(events, [plan.windows[window] for window in plan.future]),
        since=since,
        cells=cell_records(rows),
        distributions=_distributions(context),
        # Reports of different clusters can be compared byte for byte.
        config=context.config.model_dump(mode="json", exclude=NOT_DECISIVE),
        versions=installed_versions(),
    )


def _window_record(
    context: CellContext, window: int, counts: ItemCounts, verdicts: dict[str, Any]
) -> dict[str, Any]:
    """Return who was there in a window, and the worst verdict of its signals."""
    histograms, name = context.histograms, context.name(window)
    inside_R = histograms.window_R == window
    # The first bin of `history`: no event before the window.
    first_bin = named_slices(context.layout)["history"].start
    new_R = histograms.counts_RK[inside_R, first_bin] > 0
    return {
        "name": name,
        "users": int(inside_R.sum()),
        "new_users": int(new_R.sum()),
        "events": int(histograms.events_R[inside_R].sum()),
        "turnover": turnover(counts.counts_WV, window, windows_a_year(context.config.window)),
        "verdict": verdicts[name],
    }


def _distributions(context: CellContext) -> dict[str, dict[str, list[float]]]:
    """Return the mean histograms of the reference and of the last window, by signal."""
    layout = context.layout
    last_K = window_means(context, context.plan.future[-1:])[0][0]
    ref_K = context.histograms.blocks(context.plan.reference, layout).mean(layout)
    return {
        name: {"reference": _rounded(ref_K[part]), "last": _rounded(last_K[part])}
        for name, part in named_slices(layout).items()
    }


def _past_turnover(context: CellContext, counts: ItemCounts) -> list[float] | None:
    """Return the smallest and the largest turnover of calibration windows with a whole year before them."""
    lookback = windows_a_year(context.config.window)
    whole = [window for window in context.plan.calibration if window >= lookback]
    past = [t for t in (turnover(counts.counts_WV, w, lookback) for w in whole) if t is not None]
    return [min(past), max(past)] if past else None


def _rounded(values: NDArray) -> list[float]:
    return [round(float(value), 5) for value in values]
