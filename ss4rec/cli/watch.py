"""`ss4rec watch`: one round of the loop. Exit codes: 0 fine, 10 look, 11 wait, 12 the champion stays, else errors."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click


@click.command("watch")
@click.option(
    "--config",
    "config_file",
    type=click.Path(path_type=Path),
    required=True,
    help="watch.toml: what to watch, when to retrain, what a challenger has to show, whom to tell.",
)
@click.option(
    "--clear",
    default="",
    metavar="REASON",
    help="Say that the faults which the last look found are none, or mended, and why; then go on.",
)
@click.option("--address", help="Ray cluster; default as in `ss4rec train`.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def watch_command(config_file: Path, clear: str, address: str | None, as_json: bool) -> int:
    """Look at new data; retrain, compare and promote where that is due.

    The same call on the same data does nothing, and one that was killed goes on: run it from a schedule.
    """
    from ss4rec.loop.settings import WatchConfig
    from ss4rec.loop.watch import run_watch

    found = run_watch(WatchConfig.load(config_file), address=address, clear=clear)
    if as_json:
        click.echo(json.dumps(asdict(found)))
        return found.exit_code
    if found.repeated:
        click.echo("these data were looked at already, nothing was done; the last decision:")
    click.echo(f"{found.action}: {found.reason}")
    if found.outcome:
        click.echo(found.outcome)
    serves = "nothing serves yet" if found.champion is None else f"version {found.champion} serves"
    click.echo(f"{serves}; page: {found.page}")
    return found.exit_code
