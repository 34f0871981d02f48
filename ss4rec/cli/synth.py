"""`ss4rec data synth`: generate MovieLens-shaped ratings with planted structure."""

from __future__ import annotations

import json
from pathlib import Path

import click

from ss4rec.data.synth import Format, synth


@click.command("synth")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="New folder for the data set.")
@click.option("--users", default=2000, show_default=True, help="Users.")
@click.option("--items", default=500, show_default=True, help="Movies.")
@click.option("--mean-len", default=60, show_default=True, help="Mean ratings of a user (20 at least each).")
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Same seed, same bytes."
)
@click.option(
    "--format",
    "fmt",
    type=click.Choice(["shards", "csv"]),
    default="shards",
    show_default=True,
    help="A prepared folder, or ratings.csv and movies.csv as GroupLens lays them out.",
)
@click.option(
    "--json", "as_json", is_flag=True, help="Print parameters, counts and the law's own quality as JSON."
)
def synth_command(
    out: Path, users: int, items: int, mean_len: int, seed: int, fmt: Format, as_json: bool
) -> None:
    """Generate ratings whose next item depends on the last one and on the gap; truth.json says how."""
    summary = synth(out, users=users, items=items, mean_len=mean_len, seed=seed, fmt=fmt)
    if as_json:
        click.echo(json.dumps({"out": str(out), "format": fmt, **summary}, indent=2))
        return
    counts, law = summary["counts"], summary["law"]
    click.echo(f"{out}: {counts['ratings']:,} ratings by {counts['users']:,} users, {items:,} movies ({fmt})")
    click.echo(
        f"best possible NDCG@10 for the last item, estimated on {law['users']:,} users: "
        f"{law['ndcg@10_with_gap']:.3f} with the gap known, {law['ndcg@10_without_gap']:.3f} without"
    )
