"""`ss4rec data compare`: say what two releases have in common."""

from __future__ import annotations

import json
from dataclasses import asdict

import click

from ss4rec.cli.steps import quoted, say_next


@click.command("compare")
@click.argument("first")
@click.argument("second")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def compare_command(first: str, second: str, as_json: bool) -> None:
    """Compare the prepared folders FIRST and SECOND, say ML-20M and ML-32M, by (film, rating, second).

    User ids are drawn anew for each release and are not compared. Prepare both with --k-core 0.
    """
    from rich.console import Console
    from rich.table import Table

    from ss4rec.data.compare import compare
    from ss4rec.io.paths import to_path

    found = compare(to_path(first), to_path(second))
    if as_json:
        click.echo(json.dumps(asdict(found) | {"found_share": found.found_share}))
        return
    facts = Table("", first, second)
    for name, (left, right) in found.facts.items():
        facts.add_row(name, *(f"{value:,}" if isinstance(value, int) else value for value in (left, right)))
    years = Table("year", first, second, "in both")
    for year, counts in found.years.items():
        years.add_row(str(year), *(f"{count:,}" for count in counts))
    console = Console()
    console.print(facts, years)
    click.echo(
        f"{found.common_items:,} items are in both; {found.found_share:.1%} of {first}'s ratings are in {second} too. "
        "User ids are drawn anew for each release: cut one release in time (`ss4rec data split`), never subtract two"
    )
    say_next(f"ss4rec data split --data {quoted(second)} --cutoff DATE --out {quoted(second + '-cut')}")
