"""`ss4rec doctor`: look at this machine, or at a cluster, before the first run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from ss4rec.doctor import Check

MARKS = {"ok": "[green]ok[/]", "warn": "[yellow]warn[/]", "fail": "[bold red]fail[/]"}


@click.command("doctor")
@click.option("--json", "as_json", is_flag=True, help="Print the checks as a JSON list.")
@click.option("--storage", default="runs", show_default=True, help="Folder that runs go to.")
@click.option("--workers", type=click.IntRange(min=1), default=1, show_default=True, help="Training workers.")
@click.option(
    "--address", envvar="RAY_ADDRESS", help="Ray cluster to look at (http://host:8265, host:6379, auto)."
)
def doctor_command(as_json: bool, storage: str, workers: int, address: str | None) -> int:
    """Check versions, machine, Ray, kernels and storage; exit code 1 if a check fails."""
    from ss4rec.doctor import diagnose

    checks = diagnose(storage=storage, workers=workers, address=address or None)
    if as_json:
        click.echo(json.dumps([asdict(check) for check in checks], indent=2))
    else:
        _show(checks)
    return int(any(check.status == "fail" for check in checks))


def _show(checks: Sequence[Check]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console()
    table = Table(title="ss4rec doctor", title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in ("", "check", "state", "found"):
        table.add_column(heading, overflow="fold")
    group = ""
    for check in checks:
        advice = f"\n[italic]-> {escape(check.advice)}[/]" if check.advice else ""
        shown = "" if check.group == group else f"[bold]{check.group}[/]"
        table.add_row(shown, escape(check.name), MARKS[check.status], escape(check.found) + advice)
        group = check.group
    console.print(table)
    counts = {status: sum(check.status == status for check in checks) for status in MARKS}
    console.print(f"\n{counts['ok']} ok, {counts['warn']} to look at, {counts['fail']} failed")
