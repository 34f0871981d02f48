"""`ss4rec data split`: cut a prepared folder at a moment into past and future."""

from __future__ import annotations

import json
from pathlib import Path

import click

from ss4rec.cli.options import protocol_option, resolve_protocol, set_option
from ss4rec.cli.steps import quoted, say_next
from ss4rec.errors import UsageError


@click.command("split")
@click.option(
    "--data", required=True, type=click.Path(path_type=Path), help="A folder prepared with --k-core 0."
)
@click.option("--cutoff", metavar="DATE", help="Last day (UTC), ISO time or unix second of the past.")
@protocol_option(
    "Instead of --cutoff, write what a protocol trains and tests on as tables, for other programs"
)
@set_option("Change a field of the protocol, as in --set protocol.cut=0.8.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder to write.")
@click.option(
    "--k-core", type=click.IntRange(min=0), default=0, show_default=True, help="Core of the past alone."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def split_command(
    data: Path,
    cutoff: str | None,
    protocol_name: str | None,
    assignments: tuple[str, ...],
    out: Path,
    k_core: int,
    as_json: bool,
) -> None:
    """Cut a prepared folder at a moment: OUT/past to train on, OUT/timeline to watch drift on.

    No event and no item of OUT/past is later than the cut; OUT/timeline keeps whole histories.

    With --protocol, write OUT/events.parquet (with a column `trains`), OUT/valid.parquet and OUT/test.parquet instead.
    ss4rec's own verbs need no such tables: give them the same --protocol.
    """
    if (cutoff is None) == (protocol_name is None):
        raise UsageError("give either --cutoff DATE or --protocol NAME")
    if cutoff is None:
        _tables(data, out, protocol_name, assignments, k_core, as_json)
        return
    if assignments:
        raise UsageError("--set changes a field of the protocol; give --protocol NAME instead of --cutoff")
    from ss4rec.data.split import parse_cut, split

    record = split(data, out, parse_cut(cutoff), k_core=k_core)
    if as_json:
        click.echo(json.dumps({"folder": str(out), **record.model_dump()}))
        return
    click.echo(
        f"{out}: {record.future_events:,} events of {record.future_users:,} users after the cut; the past has "
        f"{record.vocabulary:,} items in its vocabulary"
    )
    say_next(
        f"ss4rec train --data {quoted(out / 'past')}",
        f"ss4rec drift --data {quoted(out)} --run RUN --out REPORT",
    )


def _tables(
    data: Path, out: Path, protocol_name: str | None, assignments: tuple[str, ...], k_core: int, as_json: bool
) -> None:
    """Write the tables of a protocol's division, and say what they hold."""

    from ss4rec.protocol.export import export_division
    from ss4rec.protocol.named import describe
    from ss4rec.protocol.settings import Protocol

    if k_core:
        raise UsageError(f"--k-core {k_core}: with --protocol write --set protocol.k_core={k_core}")
    protocol = resolve_protocol(Protocol(), protocol_name, assignments)
    facts = export_division(data, out, protocol).facts
    if as_json:
        click.echo(json.dumps({"folder": str(out), "protocol": protocol.model_dump(mode="json"), **facts}))
        return
    click.echo(f"{protocol.name}: {describe(protocol)}")
    for name, number in facts.items():
        click.echo(f"  {name.replace('_', ' '):22} {number:>13,}")
    click.echo(f"{out}: events.parquet, valid.parquet, test.parquet, for other programs")
    given = f" --protocol {quoted(protocol_name)}" if protocol_name else ""
    changed = "".join(f" --set {quoted(text)}" for text in assignments)
    say_next(f"ss4rec train --data {quoted(data)}{given}{changed}")
