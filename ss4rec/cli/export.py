"""`ss4rec data export`: a prepared folder for other programs."""

from __future__ import annotations

import json
from pathlib import Path

import click

from ss4rec.cli.steps import quoted, say_next


@click.command("export")
@click.option("--data", required=True, metavar="DIR|URI", help="Prepared folder.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="New folder.")
@click.option(
    "--format",
    "fmt",
    type=click.Choice(["recbole"]),
    default="recbole",
    show_default=True,
    help="Whose files.",
)
@click.option("--name", help="Name of the files; by default that of the folder.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def export_command(data: str, out: Path, fmt: str, name: str | None, as_json: bool) -> None:
    """Write a prepared folder as RecBole's .inter, .item and .user; `data prepare` reads them back."""
    from ss4rec.data.export_recbole import export_recbole, not_exported
    from ss4rec.data.prepared.folder import PreparedFolder
    from ss4rec.io.paths import to_path

    lines = export_recbole(to_path(data), out, name)
    if left := not_exported(PreparedFolder.open(to_path(data)).manifest):
        click.echo(
            f"note: features of hashed words have no text that could be written: {', '.join(left)}", err=True
        )
    if as_json:
        click.echo(json.dumps({"folder": str(out), "format": fmt, "lines": lines}))
        return
    click.echo(
        f"{out}: {lines['inter']:,} interactions of {lines['user']:,} users with {lines['item']:,} items\n"
        f"RecBole: data_path: {out.parent}, dataset: {name or out.name}"
    )
    say_next(f"recbole --model SASRec --dataset {quoted(name or out.name)}  # where RecBole is installed")
