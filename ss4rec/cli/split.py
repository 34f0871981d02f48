"""`ss4rec data split`: cut a prepared folder at a moment into past and future."""

from __future__ import annotations

import json
from pathlib import Path

import click


@click.command("split")
@click.option(
    "--data", required=True, type=click.Path(path_type=Path), help="A folder prepared with --k-core 0."
)
@click.option(
    "--cutoff", required=True, metavar="DATE", help="Last day (UTC), ISO time or unix second of the past."
)
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder to write.")
@click.option(
    "--k-core", type=click.IntRange(min=0), default=0, show_default=True, help="Core of the past alone."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def split_command(data: Path, cutoff: str, out: Path, k_core: int, as_json: bool) -> None:
    """Cut a prepared folder at a moment: OUT/past to train on, OUT/timeline to watch drift on.

    No event and no item of OUT/past is later than the cut; OUT/timeline keeps whole histories.
    """
    from ss4rec.data.split import parse_cut, split

    record = split(data, out, parse_cut(cutoff), k_core=k_core)
    if as_json:
        click.echo(json.dumps({"folder": str(out), **record.model_dump()}))
        return
    click.echo(
        f"{out}: {record.future_events:,} events of {record.future_users:,} users after the cut; the past has "
        f"{record.vocabulary:,} items in its vocabulary\ntrain:  ss4rec train --data {out / 'past'}\n"
        f"drift:  ss4rec drift --data {out} --run RUN --out REPORT"
    )
