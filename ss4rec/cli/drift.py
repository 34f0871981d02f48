"""`ss4rec drift`: report drift after a cut in time. Exit codes: 0 fine, 10 alert, 2 usage, 3 contract, 1 incomplete."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ss4rec.cli.options import assigned, set_option
from ss4rec.cli.steps import quoted, say_next, say_sentences
from ss4rec.config import parse_section
from ss4rec.errors import UsageError
from ss4rec.train.status import shown

if TYPE_CHECKING:
    from drift.config import DriftConfig
    from drift.events import KnownEvent


@click.command("drift")
@click.option("--data", required=True, type=click.Path(path_type=Path), help="Folder of `ss4rec data split`.")
@click.option("--run", "run_dir", type=click.Path(path_type=Path), help="Run that was trained on DATA/past.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder of the report.")
@set_option("A field of the report, as in --set window=year.")
@click.option(
    "--retrained",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Run on a later cut of the same data, drawn beside RUN; may be given several times.",
)
@click.option(
    "--events",
    "events_file",
    help="TOML file of known events to draw, or `movielens` for those that come with ss4rec.",
)
@click.option("--since-last", is_flag=True, help="Add only new windows to the report in OUT.")
@click.option("--address", help="Ray cluster; default as in `ss4rec train`.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def drift_command(
    data: Path,
    run_dir: Path | None,
    out: Path,
    assignments: tuple[str, ...],
    retrained: tuple[Path, ...],
    events_file: str | None,
    since_last: bool,
    address: str | None,
    as_json: bool,
) -> int:
    """Report what changed after the cut, in OUT/report.html and OUT/report.json."""
    from drift.job import run_drift

    config = drift_config(assignments)
    run_dir = None if run_dir is None else run_dir.resolve()
    if retrained and run_dir is None:
        raise UsageError("--retrained is drawn beside --run; give --run too")
    report, code = run_drift(
        data.resolve(),
        run_dir,
        out.resolve(),
        config,
        retrained=[path.resolve() for path in retrained],
        events=_events(events_file),
        since_last=since_last,
        address=address,
    )
    summary = {"headline": report.headline, "verdict": report.verdict, "exit_code": code, "report": str(out)}
    if as_json:
        click.echo(json.dumps(summary))
        return code
    say_sentences(f"{report.headline}\npage: {shown(out / 'report.html')}")
    if run_dir is None:
        say_next(
            f"ss4rec drift --data {quoted(data)} --run RUN --out {quoted(out)}  # what a run's model has lost"
        )
    else:
        say_next(f"ss4rec train --from {quoted(run_dir)} --data NEW  # if the page says to retrain")
    return code


def _events(name: str | None) -> list[KnownEvent]:
    """Read a file of known events; the name of a shipped one will do."""
    from drift.events import SHIPPED, read_events

    if name is None:
        return []
    shipped = SHIPPED / f"{name}.toml"
    return read_events(shipped if shipped.is_file() else Path(name))


def drift_config(assignments: Iterable[str]) -> DriftConfig:
    """Build the configuration of a report from the values of --set.

    Raises:
        ConfigError: assignment without `=`, or refused values; all problems at once.
    """
    from drift.config import DriftConfig

    return parse_section(DriftConfig, assigned(assignments, example="window=year"), "drift configuration")
