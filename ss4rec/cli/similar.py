"""`ss4rec similar`: items that are like an item."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ss4rec.cli.recommend import format_option
from ss4rec.cli.steps import quoted, say_next
from ss4rec.errors import UsageError

if TYPE_CHECKING:
    from ss4rec.recommendations.options import Format, Layout


@click.command("similar")
@click.option("--run", "run_dir", type=click.Path(path_type=Path), required=True, help="A run folder.")
@click.option("--item", "wanted", multiple=True, metavar="ID", help="An item of the source; may be repeated.")
@click.option("--all", "everything", is_flag=True, help="All items; needs --out.")
@click.option("--out", metavar="DIR|URI", help="Folder to write; without it the items are shown.")
@click.option("--k", type=click.IntRange(min=1), default=10, show_default=True, help="Similar items of each.")
@click.option("--where", metavar="CONDITION", help="Name only items that fulfil it, as for `recommend`.")
@click.option("--item-features", metavar="FILE", help="Columns about items for --where.")
@click.option(
    "--layout",
    type=click.Choice(["lists", "pairs"]),
    default="lists",
    show_default=True,
    help="A row per item, or a row per pair.",
)
@format_option
@click.option("--gpu", is_flag=True, help="Compare on a GPU.")
@click.option("--overwrite", is_flag=True, help="Replace an older result.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def similar_command(
    run_dir: Path,
    wanted: tuple[str, ...],
    everything: bool,
    out: str | None,
    k: int,
    where: str | None,
    item_features: str | None,
    layout: Layout,
    kind: Format,
    gpu: bool,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Show or write the items that the model holds to be most like an item, by the cosine of their rows."""
    import numpy as np

    from ss4rec.data.sources.columns import GUESSES
    from ss4rec.data.sources.features import read_features
    from ss4rec.io.paths import to_path
    from ss4rec.recommendations.items import Items
    from ss4rec.recommendations.similar import asked_items, similar_run, similar_tables
    from ss4rec.runs.folder import RunFolder

    if bool(wanted) == everything:
        raise UsageError("give --item ID, once or more, or --all; one of them")
    if everything and out is None:
        raise UsageError("--all needs --out, a folder for the lists")
    run, device = RunFolder.open(run_dir.resolve()), "cuda" if gpu else "cpu"
    brought = read_features(to_path(item_features), GUESSES["item"]) if item_features else None
    items = Items.of(run, brought=brought)
    asked_N = np.arange(1, len(items) + 1) if everything else asked_items(items, wanted)
    if out is not None:
        layout = "pairs" if kind == "csv" else layout
        manifest = similar_run(
            run.path,
            to_path(out).absolute(),
            asked_N,
            k,
            where=where,
            items=items,
            layout=layout,
            kind=kind,
            device=device,
            overwrite=overwrite,
        )
        count = sum(file.items for file in manifest.files)
        text = f"{out}: {count:,} items that are like {len(asked_N):,} items, {len(manifest.files)} files"
        click.echo(manifest.model_dump_json(exclude_none=True) if as_json else text)
        if not as_json:
            say_next(f"ss4rec recommend --run {quoted(run_dir)} --data DATA --out lists")
        return
    titles = dict(zip(items.source_id.to_pylist(), items.columns["title"].to_pylist(), strict=True))
    rows = [
        row
        for table in similar_tables(run, asked_N, k, where=where, items=items, layout="pairs", device=device)
        for row in table.to_pylist()
    ]
    if as_json:
        click.echo(json.dumps([{**row, "title": titles[row["similar"]]} for row in rows]))
        return
    for row in rows:
        if row["rank"] == 1:
            click.echo(f"like {row['item']}  {titles[row['item']] or ''}")
        click.echo(f"{row['rank']:>5}  {row['score']:.3f}  {row['similar']}  {titles[row['similar']] or ''}")
    say_next(f"ss4rec similar --run {quoted(run_dir)} --all --out similar")
