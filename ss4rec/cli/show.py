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
