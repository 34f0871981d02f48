"""`ss4rec recommend`: the best items of every user, in files."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ss4rec.cli.options import data_folder
from ss4rec.cli.parse import parse_columns
from ss4rec.cli.steps import quoted, say_next
from ss4rec.errors import UsageError

if TYPE_CHECKING:
    from ss4rec.data.prepared.folder import PreparedFolder
    from ss4rec.recommendations.beside import Beside
    from ss4rec.recommendations.job import FileOfHistories, Runner
    from ss4rec.recommendations.options import RecommendOptions
    from ss4rec.recommendations.output import RecommendManifest


def parse_limits(context: click.Context, option: click.Parameter, texts: Sequence[str]) -> dict[str, int]:
    """Parse `genres=3` of each text.

    Raises:
        click.BadParameter: if one is not COLUMN=NUMBER.
    """
    limits = {}
    for text in texts:
        name, _, number = text.rpartition("=")
        if not name or not number.isdecimal() or not int(number):
            raise click.BadParameter(f"{text!r} is not COLUMN=NUMBER; write as in genres=3")
        limits[name.strip()] = int(number)
    return limits


def histories_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add --run, --data, --histories, --columns, --context and --out."""
    for option in (
        click.option("--out", required=True, metavar="DIR|URI", help="Folder to write; appears whole."),
        click.option(
            "--columns",
            callback=parse_columns,
            metavar="user=..,item=..,time=..",
            help="Columns of --histories, by name or number; common names are recognised without it.",
        ),
        click.option(
            "--context",
            multiple=True,
            metavar="COLUMN",
            help="A column of --histories about events, where the model reads it.",
        ),
        click.option(
            "--histories",
            metavar="FILE|URI",
            help="Events of any people, as `data prepare` reads them: user, item, time, perhaps rating.",
        ),
        click.option(
            "--data",
            type=click.Path(path_type=Path),
            help="A prepared folder: recommend to its users. It may be newer than the run.",
        ),
        click.option(
            "--run", "run_dir", type=click.Path(path_type=Path), required=True, help="A run folder."
        ),
    ):
        function = option(function)
    return function


def running_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add --workers, --gpu, --address, --overwrite and --json."""
    for option in (
        click.option("--json", "as_json", is_flag=True, help="Print the manifest as one JSON object."),
        click.option(
            "--overwrite", is_flag=True, help="Replace the result, or the rest, of another such job."
        ),
        click.option(
            "--address",
            help="Ray cluster; default: RAY_ADDRESS, a running local cluster, or a new local one.",
        ),
        click.option("--gpu", is_flag=True, help="Work on GPUs, one for each worker."),
        click.option(
            "--workers",
            type=click.IntRange(min=0),
            default=1,
            show_default=True,
            help="Models that work at a time on Ray; 0: one in this process, without Ray.",
        ),
    ):
        function = option(function)
    return function


format_option = click.option(
    "--format",
    "kind",
    type=click.Choice(["parquet", "csv", "jsonl"]),
    default="parquet",
    show_default=True,
    help="Of the files; CSV has pairs.",
)
"""--format of all verbs that write lists."""


@click.command("recommend")
@histories_options
@click.option("--k", type=click.IntRange(min=1), default=100, show_default=True, help="Items per list.")
@click.option(
    "--seen",
    type=click.Choice(["excluded", "kept"]),
    default="excluded",
    show_default=True,
    help="Whether items of a history may come again.",
)
@click.option(
    "--until",
    type=click.Choice(["end", "test", "valid"]),
    default="end",
    show_default=True,
    help="Where histories end: at the end, or before the events that `evaluate` ranks.",
)
@click.option(
    "--at",
    metavar="TIME",
    help="Recommend at this moment, from the events up to it; default: for each user the median gap after the last.",
)
@click.option(
    "--where",
    metavar="CONDITION",
    help="""Recommend only items that fulfil it, as in 'year >= 2000 and "Comedy" in genres'.""",
)
@click.option(
    "--allow", multiple=True, metavar="FILE", help="Only these items; with a column `user`, for these."
)
@click.option(
    "--deny", multiple=True, metavar="FILE", help="Not these items; with a column `user`, for these."
)
@click.option("--users", metavar="FILE", help="Recommend only to these users.")
@click.option("--item-features", metavar="FILE", help="Columns about items for --where, --limit and --by.")
@click.option(
    "--limit",
    "limits",
    multiple=True,
    callback=parse_limits,
    metavar="COLUMN=N",
    help="At most N items of a list share a value of COLUMN.",
)
@click.option(
    "--mmr",
    type=click.FloatRange(0, 1),
    metavar="WEIGHT",
    help="Make lists of items that differ: 0 by score alone, 1 by difference alone.",
)
@click.option(
    "--calibrate",
    type=click.FloatRange(0, 1),
    metavar="WEIGHT",
    help="Share lists out as histories are (--by): 0 by score alone, 1 by shares alone.",
)
@click.option("--by", default="genres", show_default=True, help="Column for --calibrate.")
@click.option(
    "--pool",
    type=click.IntRange(min=1),
    help="Best items from which --mmr and --calibrate choose; default: 5 k, at least 200.",
)
@click.option(
    "--layout",
    type=click.Choice(["lists", "pairs"]),
    help="A row per user, or a row per item; default: lists, for CSV pairs.",
)
@format_option
@running_options
def recommend_command(
    run_dir: Path,
    data: Path | None,
    histories: str | None,
    columns: dict[str, str],
    context: tuple[str, ...],
    out: str,
    allow: tuple[str, ...],
    deny: tuple[str, ...],
    users: str | None,
    item_features: str | None,
    at: str | None,
    mmr: float | None,
    calibrate: float | None,
    layout: str | None,
    kind: str,
    workers: int,
    gpu: bool,
    address: str | None,
    overwrite: bool,
    as_json: bool,
    **asked: Any,
) -> None:
    """Write the best items of every user into a folder: Parquet, users in order, ids of the source, with scores.

    Killed, the same command goes on, and the result has the same bytes. manifest.json in the folder names model, data
    and options, with the checksum of every file.
    """
    from ss4rec.io.paths import to_path
    from ss4rec.recommendations.beside import Beside
    from ss4rec.recommendations.options import RecommendOptions

    if mmr is not None and calibrate is not None:
        raise UsageError("--mmr and --calibrate are two ways to make a list; give one of them")
    options = RecommendOptions.of(
        at_s=moment(at),
        rerank=None if mmr is None and calibrate is None else "mmr" if calibrate is None else "calibrated",
        weight=mmr or calibrate or 0.0,
        layout=layout or ("pairs" if kind == "csv" else "lists"),
        format=kind,
        **asked,
    )
    beside = Beside(
        allow=tuple(to_path(path) for path in allow),
        deny=tuple(to_path(path) for path in deny),
        users=to_path(users) if users else None,
        items=to_path(item_features) if item_features else None,
    )
    given = chosen_histories(data, histories, columns, context)
    manifest = perform(run_dir, out, given, options, beside, workers, gpu, address, overwrite, as_json)
    if manifest.users < manifest.data.users and options.until == "end" and not users:
        click.echo(
            f"{manifest.data.users - manifest.users:,} users have no event to go by and no list", err=True
        )


def perform(
    run_dir: Path,
    out: str,
    histories: PreparedFolder | FileOfHistories,
    options: RecommendOptions,
    beside: Beside,
    workers: int,
    gpu: bool,
    address: str | None,
    overwrite: bool,
    as_json: bool,
) -> RecommendManifest:
    """Run the job and say what came of it."""
    from ss4rec.io.paths import to_path
    from ss4rec.recommendations.job import recommend_run
    from ss4rec.train.status import announce

    began = time.monotonic()
    runner: Runner | None = None
    around: AbstractContextManager[None] = nullcontext()
    if workers:
        from ss4rec.cluster.connect import cluster
        from ss4rec.recommendations.ray_recommend import on_ray

        runner, around = on_ray(workers, gpu), cluster(address)
    elif address:
        raise UsageError("--workers 0 works without Ray, so --address means nothing; leave one out")
    with around:
        manifest = recommend_run(
            run_dir.resolve(),
            to_path(out).absolute(),
            histories,
            options,
            beside=beside,
            device="cuda" if gpu else "cpu",
            runner=runner,
            overwrite=overwrite,
            progress=announce,
        )
    report(manifest, out, time.monotonic() - began, as_json)
    if not as_json:
        say_next(f"ss4rec serve --run {quoted(run_dir)}")
    return manifest


def report(manifest: RecommendManifest, out: str, seconds: float, as_json: bool) -> None:
    """Print what was written, and on stderr what was left out."""
    if as_json:
        click.echo(manifest.model_dump_json(exclude_none=True))
    else:
        size = sum(file.bytes for file in manifest.files)
        click.echo(
            f"{out}: {manifest.items:,} items for {manifest.users:,} users, {len(manifest.files)} files, "
            f"{size / 2**20:.1f} MiB, {seconds:.1f} s"
        )
    data = manifest.data
    left_out = {
        "events of items that the run does not know": data.unknown_events,
        "users without any item that the run knows": data.users_without_known_items,
        "rows of the histories that cannot be used": data.quarantined,
        "rows of the given lists with items that the run does not know": sum(
            one.unknown_items for records in manifest.files_given.values() for one in records
        ),
        "rows of the given lists with users who are not in the data": manifest.unknown_users,
    }
    for what, count in left_out.items():
        if count:
            click.echo(f"left out: {count:,} {what}", err=True)


def chosen_histories(
    data: Path | None, histories: str | None, columns: dict[str, str], context: tuple[str, ...] = ()
) -> PreparedFolder | FileOfHistories:
    """Open what was given of --data and --histories.

    Raises:
        UsageError: if it is not one of them.
        DataError: if it cannot be read.
    """
    if (data is None) == (histories is None):
        raise UsageError("give --data, a prepared folder, or --histories, a file of events; one of them")
    if data is not None:
        if columns or context:
            raise UsageError("--columns and --context are about --histories; a prepared folder has its own")
        return data_folder(data)
    from ss4rec.data.sources import Source, TableOptions
    from ss4rec.data.sources.checks import rules_for
    from ss4rec.io.paths import to_path
    from ss4rec.recommendations.job import FileOfHistories

    source = Source.open(to_path(str(histories)).absolute(), TableOptions(columns, context=context))
    for note in source.notes:
        click.echo(f"note: {note}", err=True)
    return FileOfHistories(source, rules_for(source.plan.layout, int(time.time())))


def moment(text: str | None) -> int | None:
    """Return a moment as unix seconds.

    Raises:
        UsageError: if it is none.
    """
    from ss4rec.io.moments import last_second

    if text is None:
        return None
    try:
        return last_second(text)
    except ValueError:
        raise UsageError(
            f"--at {text!r} is no moment; write a date, an ISO time or unix seconds, as in 2026-01-31"
        ) from None
