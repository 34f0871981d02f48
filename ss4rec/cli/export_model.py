"""`ss4rec export`: what other programs take from a trained run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ss4rec.cli.options import data_folder
from ss4rec.cli.steps import quoted, say_next

if TYPE_CHECKING:
    from ss4rec.export.ann_index import Library

run_option = click.option(
    "--run", "run_dir", type=click.Path(path_type=Path), required=True, help="A run folder."
)
out_option = click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder to write.")
overwrite_option = click.option("--overwrite", is_flag=True, help="Replace an earlier export.")
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")


@click.command("items")
@run_option
@out_option
@click.option(
    "--unit-length", is_flag=True, help="Bring rows to length 1, for the likeness of items; else for scores."
)
@overwrite_option
@json_option
def items_command(run_dir: Path, out: Path, unit_length: bool, overwrite: bool, as_json: bool) -> None:
    """Write the rows of items: items.parquet (ids, titles, vectors), vectors.npy, manifest.json.

    The product of a user's state with a row is the score of that item.
    """
    from ss4rec.export.item_vectors import export_items

    found = export_items(run_dir.resolve(), out, unit_length=unit_length, overwrite=overwrite)
    if as_json:
        click.echo(found.model_dump_json(exclude_none=True))
        return
    click.echo(f"{out}: {found.items:,} items x {found.dimensions}, float32")
    say_next(f"ss4rec export index --run {quoted(run_dir)} --data DATA --out index")


@click.command("index")
@run_option
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    required=True,
    help="A prepared folder; states of its users measure the recall.",
)
@out_option
@click.option(
    "--library", type=click.Choice(["hnswlib", "faiss"]), help="What builds it; default: what is installed."
)
@click.option("--k", type=click.IntRange(min=1), default=100, show_default=True, help="Items asked for.")
@click.option(
    "--users", type=click.IntRange(min=1), default=1000, show_default=True, help="Users whose states ask."
)
@click.option("--links", type=click.IntRange(min=2), default=32, show_default=True, help="Links of an item.")
@click.option(
    "--build-effort",
    type=click.IntRange(min=1),
    default=200,
    show_default=True,
    help="Candidates looked at for each item while building.",
)
@click.option(
    "--search-effort",
    type=click.IntRange(min=1),
    default=400,
    show_default=True,
    help="Candidates looked at for each question.",
)
@overwrite_option
@json_option
def index_command(
    run_dir: Path,
    data: Path,
    out: Path,
    library: Library | None,
    k: int,
    users: int,
    links: int,
    build_effort: int,
    search_effort: int,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Build an index (HNSW) that finds the best items without looking at all, by hnswlib or faiss.

    manifest.json says which fraction of the exact best items it finds.
    """
    from ss4rec.export.ann_index import IndexSettings, export_index

    settings = IndexSettings(links=links, build_effort=build_effort, search_effort=search_effort)
    found = export_index(
        run_dir.resolve(),
        out,
        data_folder(data),
        library=library,
        settings=settings,
        k=k,
        users=users,
        overwrite=overwrite,
    )
    if as_json:
        click.echo(found.model_dump_json(exclude_none=True))
        return
    click.echo(
        f"{out}: {found.items:,} items, {found.library}; recall@{found.k} {found.recall:.4f} against exact ranking "
        f"for {found.users:,} users"
    )
    say_next(f"ss4rec serve --run {quoted(run_dir)}")


@click.command("card")
@run_option
@click.option("--out", type=click.Path(path_type=Path), help="Folder to write; default: the run folder.")
@json_option
def card_command(run_dir: Path, out: Path | None, as_json: bool) -> None:
    """Write card.md and card.json: data, protocol, figures, intended use and limits of a run."""
    from ss4rec.export.card import CARD_MARKDOWN, write_card

    card = write_card(run_dir.resolve(), out)
    if as_json:
        click.echo(card.model_dump_json())
        return
    click.echo(f"{(out or run_dir) / CARD_MARKDOWN}")
    say_next(f"ss4rec serve --run {quoted(run_dir)}")
