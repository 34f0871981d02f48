"""Results side by side: a table for the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from rich.table import Table

from ss4rec.evaluation.evaluator import SETTINGS, EvalResult, Seen, TargetTime
from ss4rec.protocol.settings import Protocol

Results = Mapping[str, EvalResult]
"""Results by the scorer's name, in the order of rows."""


def rich_table(results: Results, k: int = 10) -> Table:
    """Return HR, NDCG (with its interval) and MRR at `k` of every scorer in all four settings.

    The setting that the protocol asks for comes first. Fits 100 columns for names up to 20 characters.
    """
    table = Table(title=_title(results), caption="intervals: 95 %, bootstrap over users")
    header = ("seen items", "target time", "scorer", f"HR@{k}", f"NDCG@{k}", "95 % interval", f"MRR@{k}")
    for number, name in enumerate(header):
        table.add_column(name, justify="left" if number < 3 else "right", no_wrap=True)
    for seen, target_time in _settings(results):
        for row in _rows(results, seen, target_time, k):
            table.add_row(*row)
        table.add_section()
    for row in (*_rows_by_target(results, k), *_rows_of_cold(results, k)):
        table.add_row(*row)
    return table


def _title(results: Results) -> str:
    """Say what was ranked; leave-one-out has one target per user."""
    first = next(iter(results.values()))
    title = f"Full ranking, {first.num_users:,} users"
    if first.protocol == Protocol():
        return title
    cold = f" ({_cold(first)})" if first.cold_targets else ""
    return f"{first.protocol.name}: {title[0].lower()}{title[1:]}, {first.num_targets:,} targets{cold}"


def _cold(result: EvalResult) -> str:
    """Say in plain words what came of targets that never trained."""
    items = f"{result.cold_targets:,} of items that never trained"
    missed = result.cold_targets - result.cold_ranked
    if not result.cold_ranked:
        return f"{items}: they cannot be ranked and count as misses"
    ranked = "ranked by their features" if not missed else f"{result.cold_ranked:,} ranked by features"
    return f"{items}: {ranked}" + (f", {missed:,} misses" if missed else "")


def _rows_of_cold(results: Results, k: int) -> Iterator[list[str]]:
    """Yield one row a scorer over the targets of items that never trained alone, where they were ranked."""
    for name, result in results.items():
        setting = result.setting(result.protocol.seen, result.protocol.target_time)
        if result.cold_ranked and setting.cold:
            hr, ndcg, mrr = (f"{setting.cold[f'{metric}@{k}']:.4f}" for metric in ("HR", "NDCG", "MRR"))
            yield [setting.seen, setting.target_time, name, hr, ndcg, "cold items only", mrr]


def _settings(results: Results) -> list[tuple[Seen, TargetTime]]:
    """Return all settings, that of the protocol first."""
    protocol = next(iter(results.values())).protocol
    return sorted(SETTINGS, key=lambda setting: setting != (protocol.seen, protocol.target_time))


def _rows_by_target(results: Results, k: int) -> Iterator[list[str]]:
    """Yield one row a scorer with means over all targets, where users have several, in the protocol's own setting."""
    for name, result in results.items():
        setting = result.setting(result.protocol.seen, result.protocol.target_time)
        if setting.by_target:
            hr, ndcg, mrr = (f"{setting.by_target[f'{metric}@{k}']:.4f}" for metric in ("HR", "NDCG", "MRR"))
            yield [setting.seen, setting.target_time, name, hr, ndcg, "over all targets", mrr]


def _rows(results: Results, seen: Seen, target_time: TargetTime, k: int) -> Iterator[list[str]]:
    """Yield one row a scorer for one setting."""
    for name, result in results.items():
        setting = result.setting(seen, target_time)
        hr, ndcg, mrr = (f"{setting.metrics[f'{metric}@{k}']:.4f}" for metric in ("HR", "NDCG", "MRR"))
        interval = setting.intervals.get(f"NDCG@{k}")
        between = f"{interval[0]:.4f} to {interval[1]:.4f}" if interval else "-"
        yield [seen, target_time, name, hr, ndcg, between, mrr]
