"""`ss4rec data synth`: generate MovieLens-shaped ratings with planted structure."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import click

from ss4rec.cli.steps import quoted, say_next
from ss4rec.data.synth.generate import synth
from ss4rec.data.synth.settings import LIKE, parse_drift
from ss4rec.data.synth.write import Format


@click.command("synth")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="New folder for the data set.")
@click.option(
    "--like",
    type=click.Choice(sorted(LIKE)),
    default="small",
    show_default=True,
    help="Whose marginals and sizes; ml-32m makes 32 million ratings.",
)
@click.option("--users", type=int, help="Users; by default those of --like.")
@click.option("--items", type=int, help="Movies; by default those of --like.")
@click.option("--mean-len", type=int, help="Mean ratings of a user (20 at least each).")
@click.option(
    "--drift",
    "drifts",
    multiple=True,
    metavar="SIGNAL=SIZE@DATE",
    help="Plant a change: popularity (share that moves), transitions (share with other successors), "
    "pace (factor on gaps), rating (stars added).",
)
@click.option(
    "--wander",
    type=click.FloatRange(min=0),
    default=0.0,
    show_default=True,
    help="Stars by which the mean rating wanders from quarter to quarter (standard deviation).",
)
@click.option(
    "--k-core",
    type=click.IntRange(min=0),
    help="Events that users and items of shards have at least; default: 5, and 0 with --drift, which is to be split.",
)
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
    out: Path,
    like: str,
    users: int | None,
    items: int | None,
    mean_len: int | None,
    drifts: tuple[str, ...],
    wander: float,
    k_core: int | None,
    seed: int,
    fmt: Format,
    as_json: bool,
) -> None:
    """Generate ratings whose next item depends on the last one and on the gap; truth.json says how."""
    model = LIKE[like]
    items = model.items if items is None else items
    summary = synth(
        out,
        users=model.users if users is None else users,
        items=items,
        mean_len=model.mean_len if mean_len is None else mean_len,
        seed=seed,
        fmt=fmt,
        settings=replace(model.settings, wander=wander),
        drift=[parse_drift(text) for text in drifts],
        k_core=(0 if drifts else 5) if k_core is None else k_core,
    )
    if as_json:
        click.echo(json.dumps({"out": str(out), "format": fmt, **summary}, indent=2))
        return
    counts, law = summary["counts"], summary["law"]
    click.echo(f"{out}: {counts['ratings']:,} ratings by {counts['users']:,} users, {items:,} movies ({fmt})")
    click.echo(
        f"best possible NDCG@10 for the last item, estimated on {law['users']:,} users: "
        f"{law['ndcg@10_with_gap']:.3f} with the gap known, {law['ndcg@10_without_gap']:.3f} without"
    )
    if fmt == "csv":
        prepared = out.with_name(f"{out.name}-prepared")
        say_next(f"ss4rec data prepare --source {quoted(out)} --out {quoted(prepared)}")
    else:
        say_next(f"ss4rec data audit --data {quoted(out)}", f"ss4rec train --data {quoted(out)}")
