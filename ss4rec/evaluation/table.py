"""Results side by side: a rich table for the terminal and the same as Markdown for documents."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from rich.table import Table

from ss4rec.evaluation.evaluator import SETTINGS, EvalResult, Seen, TargetTime

Results = Mapping[str, EvalResult]
"""Results by the scorer's name, in the order of rows."""


def rich_table(results: Results, k: int = 10) -> Table:
    """Return HR, NDCG (with its interval) and MRR at `k` of every scorer in all four settings.

    Fits 100 columns for names up to 20 characters.
    """
    users = next(iter(results.values())).num_users
    table = Table(title=f"Full ranking, {users:,} users", caption="intervals: 95 %, bootstrap over users")
    header = _header(k)
    for number, name in enumerate(header):
        table.add_column(name, justify="left" if number < 3 else "right", no_wrap=True)
    for seen, target_time in SETTINGS:
        for row in _rows(results, seen, target_time, k):
            table.add_row(*row)
        table.add_section()
    return table


def markdown_table(results: Results, k: int = 10) -> str:
    """Return the same table as Markdown, without a trailing line break."""
    header = _header(k)
    lines = [header, ["---"] * 3 + ["---:"] * (len(header) - 3)]
    for seen, target_time in SETTINGS:
        lines += _rows(results, seen, target_time, k)
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _header(k: int) -> list[str]:
    """Return the column names."""
    return ["seen items", "target time", "scorer", f"HR@{k}", f"NDCG@{k}", "95 % interval", f"MRR@{k}"]


def _rows(results: Results, seen: Seen, target_time: TargetTime, k: int) -> Iterator[list[str]]:
    """Yield one row a scorer for one setting."""
    for name, result in results.items():
        setting = result.setting(seen, target_time)
        hr, ndcg, mrr = (f"{setting.metrics[f'{metric}@{k}']:.4f}" for metric in ("HR", "NDCG", "MRR"))
        interval = setting.intervals.get(f"NDCG@{k}")
        between = f"{interval[0]:.4f} to {interval[1]:.4f}" if interval else "-"
        yield [seen, target_time, name, hr, ndcg, between, mrr]
