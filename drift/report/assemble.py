"""From judged cells, the model's figures and counts of items to the report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

from drift.cells.types import OWN_TEST, REFERENCE, CellContext, Row
from drift.config import NOT_DECISIVE
from drift.events import KnownEvent, event_records
from drift.model.quality import Quality
from drift.report.answers import answer, overall
from drift.report.changes import find_changes
from drift.report.contents import Report, cell_records
from drift.report.episodes import WindowMeans, find_episodes, level_record
from drift.report.metadata import metadata_change
from drift.report.summary import action_on, headline
from drift.report.verdict import worst
from drift.signals.items import ItemCounts, turnover
from drift.stats.distances import named_slices
from ss4rec.runs.provenance import installed_versions


def assemble(
    context: CellContext,
    rows: list[Row],
    quality: Quality,
    counts: ItemCounts,
    events: Sequence[KnownEvent],
    fresh: Sequence[str] | None = None,
    metadata: dict[str, Any] | None = None,
) -> Report:
    """Sum up judged rows, the model's records, counts by item and known events as a report.

    Args:
        context: the report's.
        rows: judged cells.
        quality: the model's side.
        counts: events by item and window.
        events: known events.
        fresh: windows that were not in an earlier report; None: all of them.
        metadata: `drift.report.metadata.compare_items`, where there is something to compare with.
    """
    plan, means = context.plan, WindowMeans(context)
    names = [context.name(window) for window in plan.future]
    fresh = names if fresh is None else fresh
    episodes = find_episodes(context, rows, means)
    changes = metadata_change(metadata, fresh, names) + find_changes(context, rows, episodes, means)
    verdicts = answer(context, rows, changes, quality.records, means, fresh)
    changes = [change.model_copy(update={"action": action_on(change, verdicts)}) for change in changes]
    main = [row for row in rows if row.comparison == REFERENCE and row.detector == OWN_TEST]
    worst_of = {name: worst([r.severity for r in main if r.window == name]) for name in names}
    return Report(
        headline=headline(verdicts, changes, names[-1]),
        verdict=overall(verdicts, "severity"),
        alert=overall(verdicts, "new"),
        verdicts=verdicts,
        cut_s=plan.cut_s,
        last_window=names[-1],
        new_windows=list(fresh),
        reference=[context.name(window) for window in plan.reference],
        calibration=[context.name(window) for window in plan.calibration],
        quality_reference=quality.compared_with,
        smallest_fall=quality.records[-1]["smallest_fall"] if quality.records else None,
        quality=quality.records,
        windows=[_window_record(context, window, counts, worst_of) for window in plan.future],
        past_turnover=_past_turnover(context, counts),
        known_events=event_records(events, [plan.windows[window] for window in plan.future]),
        changes=changes,
        episodes=episodes,
        metadata=metadata,
        cells=cell_records(rows),
        levels=level_record(context, means),
        event_levels=level_record(context, means, events=True),
        distributions=_distributions(context, means),
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
        "turnover": turnover(counts.counts_WV, window, context.plan.lookback),
        "verdict": verdicts[name],
    }


def _distributions(context: CellContext, means: WindowMeans) -> dict[str, dict[str, list[float]]]:
    """Return the mean histograms of the reference and of each window, by signal."""
    sides = {"reference": list(context.plan.reference)}
    sides |= {context.name(window): [window] for window in context.plan.future}
    return {
        name: {side: _rounded(means.users(windows)[part]) for side, windows in sides.items()}
        for name, part in means.parts.items()
    }


def _past_turnover(context: CellContext, counts: ItemCounts) -> list[float] | None:
    """Return the smallest and the largest turnover of calibration windows with a whole year before them."""
    lookback = context.plan.lookback
    whole = [window for window in context.plan.calibration if window >= lookback]
    past = [t for t in (turnover(counts.counts_WV, w, lookback) for w in whole) if t is not None]
    return [min(past), max(past)] if past else None


def _rounded(values: NDArray[Any]) -> list[float]:
    return [round(float(value), 4) for value in values]
