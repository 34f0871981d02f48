"""`ss4rec watch`: one round of the loop. Exit codes: 0 fine, 10 look, 11 wait, 12 the champion stays, else errors."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ss4rec.cli.steps import quoted, say_next, say_sentences
from ss4rec.train.status import shown

if TYPE_CHECKING:
    from ss4rec.loop.watch import Round


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

    config = WatchConfig.load(config_file)
    found = run_watch(config, address=address, clear=clear)
    if as_json:
        click.echo(json.dumps(asdict(found)))
        return found.exit_code
    if found.repeated:
        say_sentences("these data were looked at already, nothing was done; the last decision:")
    say_sentences(f"{found.action}: {found.reason}")
    if found.outcome:
        say_sentences(found.outcome)
    serves = "nothing serves yet" if found.champion is None else f"version {found.champion} serves"
    say_sentences(f"{serves}; page: {shown(found.page)}")
    say_next(_after(found, config_file, config.model))
    return found.exit_code


def _after(found: Round, config_file: Path, model: str) -> str:
    """Return what one does after a round: clear faults, look at what serves, or come again with newer data."""
    again = f"ss4rec watch --config {quoted(config_file)}"
    if found.action == "look":
        return f"{again} --clear REASON  # when the page's faults are mended"
    if found.champion is None:
        return f"{again}  # when the data are newer"
    return f"ss4rec registry show {quoted(model)}"
