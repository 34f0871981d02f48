"""Prints results to a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console

from ss4rec.evaluation.evaluator import EvalResult
from ss4rec.evaluation.table import rich_table


def show_results(title: str, results: Mapping[str, Any]) -> None:
    """Print the metrics of a model and its baselines (`EvalResult` as plain JSON values, by name)."""
    parsed = {name: EvalResult.model_validate(result) for name, result in results.items()}
    console = Console(width=max(100, Console().width))
    console.print(f"\n{title}", style="bold")
    console.print(rich_table(parsed))


def show_rolling(title: str, rolling: Mapping[str, Any]) -> None:
    """Print the mean and the spread over cuts (`ss4rec.train.rolling`), in the protocol's own setting."""
    from rich.table import Table

    console = Console(width=max(100, Console().width))
    console.print(f"\n{title}", style="bold")
    columns = ("HR@10", "NDCG@10", "MRR@10")
    table = Table("scorer", *columns, caption="mean and standard deviation over cuts")
    for name, row in rolling["summary"].items():
        cells = (
            f"{row[column]['mean']:.4f} ± {row[column]['sd']:.4f}" for column in columns if column in row
        )
        table.add_row(name, *cells)
    console.print(table)
