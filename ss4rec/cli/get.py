"""`ss4rec data get`: download a MovieLens archive from GroupLens."""

from __future__ import annotations

from pathlib import Path

import click
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from ss4rec.cli.steps import quoted, say_next
from ss4rec.data.download import BASE_URL, RELEASES, download


@click.command("get")
@click.argument("name", type=click.Choice(list(RELEASES)))
@click.option(
    "--dir",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("data"),
    show_default=True,
    help="Folder for the archive.",
)
@click.option(
    "--url", "base", default=BASE_URL, show_default=True, help="Folder of the archives, for mirrors."
)
def get_command(name: str, folder: Path, base: str) -> None:
    """Download the archive of release NAME and check its MD5; run again to resume."""
    release = RELEASES[name]
    console = Console(stderr=True)
    columns = (TextColumn(name), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task(name, total=None)
        path = download(
            release,
            folder,
            base=base,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    click.echo(f"{path}: MD5 as published")
    click.echo(
        f"to expect: {release.ratings:,} ratings, {release.users:,} users, {release.movies:,} movies "
        "(GroupLens' own counts)"
    )
    click.echo(
        "licence: research use under the conditions of the README inside, no commercial use without permission; "
        "cite Harper and Konstan 2015, doi.org/10.1145/2827872"
    )
    say_next(f"ss4rec data prepare --source {quoted(path)} --out {quoted(folder / name)}")
