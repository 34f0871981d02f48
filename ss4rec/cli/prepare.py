"""`ss4rec data prepare`: a ratings archive or table becomes a prepared folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from rich.table import Table

    from ss4rec.data.manifest import Manifest


def parse_columns(context: click.Context, option: click.Parameter, text: str | None) -> dict[str, str]:
    """Parse `user=..,item=..` into a dictionary.

    Raises:
        click.BadParameter: if a part is not `role=column`.
    """
    pairs = [part.partition("=") for part in (text or "").split(",") if part]
    wrong = [role for role, _, column in pairs if not (role and column)]
    if wrong:
        raise click.BadParameter(f"{wrong[0]!r} is not role=column; write user=..,item=..,time=..,rating=..")
    return {role.strip(): column.strip() for role, _, column in pairs}


@click.command("prepare")
@click.option(
    "--source", required=True, metavar="PATH|NAME", help="Zip, folder or file; ml-1m: data/ml-1m.zip."
)
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder to write.")
@click.option(
    "--k-core",
    type=click.IntRange(min=0),
    default=5,
    show_default=True,
    help="Least events of users and items.",
)
@click.option("--name", help="Name of the data set; by default the source's.")
@click.option(
    "--columns",
    callback=parse_columns,
    metavar="user=..,item=..,time=..,rating=..",
    help="Columns of a CSV or Parquet file; common names are recognised without it.",
)
@click.option(
    "--rows-per-shard", type=click.IntRange(min=1), default=2048, show_default=True, help="Users a shard."
)
@click.option("--overwrite", is_flag=True, help="Replace a folder that was prepared before.")
@click.option(
    "--max-bad-rows",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Rows without an id, with an impossible time or rating that are set aside in OUT.bad-rows.jsonl; one more is "
    "an error.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object: folder and manifest.")
def prepare_command(
    source: str,
    out: Path,
    k_core: int,
    name: str | None,
    columns: dict[str, str],
    rows_per_shard: int,
    overwrite: bool,
    max_bad_rows: int,
    as_json: bool,
) -> None:
    """Turn a ratings archive or table into a prepared folder."""
    from rich.console import Console

    from ss4rec.data.prepare import prepare
    from ss4rec.data.sources import resolve_source

    with Console(stderr=True).status("starting") as status:
        manifest = prepare(
            resolve_source(source),
            out,
            k_core=k_core,
            name=name,
            columns=columns,
            rows_per_shard=rows_per_shard,
            overwrite=overwrite,
            max_bad_rows=max_bad_rows,
            progress=status.update,
        )
    if as_json:
        click.echo(json.dumps({"folder": str(out), "manifest": manifest.model_dump(mode="json")}))
    else:
        Console().print(summary(manifest, out))


def summary(manifest: Manifest, folder: Path) -> Table:
    """Return what a person wants to know about a prepared folder, as a table."""
    from datetime import UTC, datetime

    from rich.table import Table
    from rich.text import Text

    first, last = (datetime.fromtimestamp(t, UTC) for t in (manifest.first_time_s, manifest.last_time_s))
    dropped = ", ".join(f"{reason} {count:,}" for reason, count in manifest.rows_dropped.items() if count)
    empty = 1 - manifest.interactions / (manifest.users * manifest.items)
    zero = manifest.zero_gaps / max(manifest.training_gaps, 1)
    size = sum(shard.bytes for shard in manifest.shards)
    rows = {
        "users": f"{manifest.users:,}",
        "items": f"{manifest.items:,}",
        "interactions": f"{manifest.interactions:,} of {manifest.source.rows:,} rows",
        "dropped": dropped or "none",
        "time": f"{first:%Y-%m-%d} to {last:%Y-%m-%d} (UTC)",
        "sparsity": f"{empty:.2%}",
        "events a user": f"mean {manifest.mean_length:.1f}, median {manifest.median_length:g}, "
        f"90 % {manifest.p90_length:g}, most {manifest.max_length:,}",
        "training gaps": f"median {manifest.median_gap_s:,.10g} s, {zero:.1%} are 0 s",
        "written to": f"{folder} ({len(manifest.shards)} shards, {size / 2**20:.1f} MiB)",
    }
    table = Table(
        title=Text(f"{manifest.name} ({manifest.source.layout})"), show_header=False, title_justify="left"
    )
    for label, value in rows.items():
        table.add_row(label, Text(value))
    return table
