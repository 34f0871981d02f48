"""Prints results to a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from ss4rec.cli.steps import say_next
from ss4rec.evaluation.evaluator import EvalResult, SettingResult
from ss4rec.evaluation.table import rich_table

if TYPE_CHECKING:
    from ss4rec.evaluation.compare import Comparison
    from ss4rec.evaluation.run_list import RunLine
    from ss4rec.evaluation.saved import SavedEvaluation


def show_results(
    title: str, results: Mapping[str, Any], *, everything: bool = False, then: Sequence[str] = ()
) -> None:
    """Print the metrics of a model and its baselines in 80 columns.

    Args:
        title: what was ranked.
        results: `EvalResult` as plain JSON values, by name.
        everything: all four settings, not only the protocol's own.
        then: commands to try next.
    """
    parsed = {name: EvalResult.model_validate(result) for name, result in results.items()}
    console = Console(highlight=False)
    console.print(f"\n{title}", style="bold")
    console.print(_headline(parsed))
    if everything:
        table = rich_table(parsed)
        table.box, table.pad_edge, table.padding = None, False, (0, 1)
    else:
        table = _own_setting(parsed)
    console.print(table)
    if not everything:
        console.print("the other settings: --all")
    say_next(*then)


def _headline(results: Mapping[str, EvalResult], k: int = 10) -> str:
    """Say in one line how good the model is, and beside what."""
    values = {name: _own(result).metrics[f"NDCG@{k}"] for name, result in results.items()}
    name, *others = values
    best = max(others, key=lambda other: values[other], default=None)
    said = f"{name}: NDCG@{k} {values[name]:.4f}"
    if best is None or values[best] <= 0:
        return said
    return f"{said}, {values[name] / values[best]:.1f} times that of {best} ({values[best]:.4f})"


def _own(result: EvalResult) -> SettingResult:
    """Return the setting that the protocol asks for."""
    return result.setting(result.protocol.seen, result.protocol.target_time)


def _own_setting(results: Mapping[str, EvalResult], k: int = 10) -> Table:
    first = next(iter(results.values()))
    about = f"{first.num_users:,} users; seen items {first.protocol.seen}, target time {first.protocol.target_time}"
    header = ("scorer", f"HR@{k}", f"NDCG@{k}", "95 % interval", f"MRR@{k}")
    table = Table(caption=about, box=None, pad_edge=False, caption_justify="left")
    for name in header:
        table.add_column(name, justify="left" if name == "scorer" else "right", no_wrap=True)
    for name, result in results.items():
        setting = _own(result)
        hr, ndcg, mrr = (f"{setting.metrics[f'{metric}@{k}']:.4f}" for metric in ("HR", "NDCG", "MRR"))
        low_high = setting.intervals.get(f"NDCG@{k}")
        between = f"{low_high[0]:.4f} to {low_high[1]:.4f}" if low_high else "-"
        table.add_row(name, hr, ndcg, between, mrr)
    return table


def show_rolling(title: str, rolling: Mapping[str, Any]) -> None:
    """Print the mean and the spread over cuts (`ss4rec.train.rolling`), in the protocol's own setting."""
    console = Console(highlight=False)
    console.print(f"\n{title}", style="bold")
    columns = ("HR@10", "NDCG@10", "MRR@10")
    table = Table(
        "scorer", *columns, caption="mean and standard deviation over cuts", box=None, pad_edge=False
    )
    for name, row in rolling["summary"].items():
        cells = (
            f"{row[column]['mean']:.4f} ± {row[column]['sd']:.4f}" for column in columns if column in row
        )
        table.add_row(name, *cells)
    console.print(table)


def show_run(run: Path, saved: SavedEvaluation | None, metric: str) -> None:
    """Print a run in 80 columns: facts, validation, metrics beside baselines, segments by a metric, cost."""
    from ss4rec.evaluation.run_page import facts, headline, speed
    from ss4rec.runs.folder import RunFolder

    console = Console(highlight=False)
    console.print(headline(run, saved), style="bold")
    _pairs(console, facts(run))
    epochs = [row for row in RunFolder(run).metrics() if row.get("valid_ndcg@10") is not None]
    if epochs:
        curve = sparkline([row["valid_ndcg@10"] for row in epochs])
        best = max(epochs, key=lambda row: row["valid_ndcg@10"])
        console.print(
            f"\nvalidation NDCG@10  {curve}  best {best['valid_ndcg@10']:.4f} in epoch {best['epoch']}"
        )
    if saved:
        _scorers(console, saved)
        _segments(console, saved, metric)
    console.print()
    _pairs(console, speed(run, saved))


def show_runs(runs: Sequence[RunLine]) -> None:
    """Print runs in 80 columns, a row each; `-` is what a run does not have yet."""
    table = Table(box=None, pad_edge=False)
    for name in ("run", "data"):
        table.add_column(name, overflow="fold")
    for name in ("epochs", "valid NDCG@10", "test NDCG@10"):
        table.add_column(name, justify="right")
    table.add_column("begun", no_wrap=True)
    for run in runs:
        valid, test = ("-" if value is None else f"{value:.4f}" for value in (run.valid, run.test))
        begun = (run.created or "-")[:16].replace("T", " ")
        table.add_row(run.name, run.data or "-", str(run.epochs), valid, test, begun)
    Console(highlight=False).print(table)


def show_comparison(found: Comparison, verdicts: Sequence[str], about: str) -> None:
    """Print a comparison in 80 columns."""
    console = Console(highlight=False)
    for verdict in verdicts:
        console.print(f"{verdict}.", style="bold")
    console.print(about)
    for note in found.notes:
        console.print(f"note: {note}")
    table = Table("", "metric", "first", "second", "difference, 95 %", "p (Holm)", box=None, pad_edge=False)
    for row in found.rows:
        d = row.difference
        interval = f"{d.mean:+.4f} [{d.low:+.4f}, {d.high:+.4f}]"
        pair = f"{row.second} less {row.first}"
        table.add_row(
            pair, row.metric, f"{d.first:.4f}", f"{d.second:.4f}", interval, f"{row.p_adjusted:.4f}"
        )
    console.print(table)
    segments = [row for row in found.segments if row.is_found]
    large = sum(not row.too_small for row in found.segments)
    end = ":" if segments else "."
    console.print(f"\n{len(segments)} of {large} segments differ by more than luck ({found.metrics[0]}){end}")
    for row in sorted(segments, key=lambda row: -abs(row.difference.mean))[:12]:
        d = row.difference
        console.print(f"  {row.segmentation}, {row.segment}: {d.mean:+.4f} ({d.users:,} users)")


def sparkline(values: Sequence[float], width: int = 40) -> str:
    """Return values as a line of block letters, at most `width` of them."""
    step = -(-len(values) // width)
    shown = [max(values[first : first + step]) for first in range(0, len(values), step)]
    low, high = min(shown), max(shown)
    return "".join(
        "▁▂▃▄▅▆▇█"[round(7 * (value - low) / (high - low)) if high > low else 3] for value in shown
    )


def _pairs(console: Console, pairs: Sequence[tuple[str, str]]) -> None:
    table = Table.grid(padding=(0, 2))
    for name, text in pairs:
        table.add_row(name, text)
    console.print(table)


def _scorers(console: Console, saved: SavedEvaluation) -> None:
    """Print a row of metrics for the model and each baseline."""

    from ss4rec.evaluation.run_page import setting_words

    first = next(iter(saved.results.values()))
    console.print(
        f"\n{saved.record.split} events of {first.num_users:,} users; {setting_words(saved.setting)}"
    )
    table = Table("", "HR@10", "NDCG@10", "95 %", "MRR@10", "AUC", "coverage", box=None, pad_edge=False)
    for name, result in saved.results.items():
        found = result.setting(*saved.setting)
        ends = found.intervals.get("NDCG@10")
        keys = ("HR@10", "NDCG@10", "MRR@10", "AUC")
        values = [f"{found.metrics[key]:.4f}" if key in found.metrics else "-" for key in keys]
        coverage = result.lists.metrics.get("coverage") if result.lists else None
        interval = f"{ends[0]:.3f}-{ends[1]:.3f}" if ends else "-"
        table.add_row(
            name, *values[:2], interval, *values[2:], "-" if coverage is None else f"{coverage:.3f}"
        )
    console.print(table)


def _segments(console: Console, saved: SavedEvaluation, metric: str) -> None:
    """Print a metric by groups of users."""

    from ss4rec.evaluation.run_page import saved_segments
    from ss4rec.evaluation.segments import MIN_USERS

    console.print(f"\n{metric} by segment (*: fewer than {MIN_USERS} users, too few to conclude anything)")
    table = Table("", "", "users", metric, "95 %", box=None, pad_edge=False)
    for rows in saved_segments(saved, metric)[:6]:
        for number, row in enumerate(rows):
            star = "*" if row.too_small else ""
            interval = f"{row.low:.3f}-{row.high:.3f}"
            table.add_row(
                "" if number else row.segmentation,
                row.label,
                f"{row.users:,}",
                f"{row.value:.4f}{star}",
                interval,
            )
    console.print(table)
