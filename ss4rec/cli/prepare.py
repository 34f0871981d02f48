"""`ss4rec data prepare`: a ratings archive or table becomes a prepared folder."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from ss4rec.cli.parse import parse_columns, parse_kinds, parse_names, parse_targets
from ss4rec.cli.steps import quoted, say_next
from ss4rec.errors import UsageError

if TYPE_CHECKING:
    from rich.table import Table

    from ss4rec.data.prepared.build import Mapper
    from ss4rec.data.prepared.manifest import EventTargets, Manifest
    from ss4rec.data.sources import Rules, Source, TableOptions
    from ss4rec.data.sources.features import FeatureTable
    from ss4rec.data.sources.times import Unit
    from ss4rec.data.ties import Ties
    from ss4rec.io.paths import AnyPath


@click.command("prepare")
@click.option(
    "--source",
    required=True,
    metavar="PATH|NAME",
    help="Zip, folder or file of ratings; ml-1m: data/ml-1m.zip.",
)
@click.option("--out", required=True, metavar="DIR|URI", help="Folder to write.")
@click.option(
    "--k-core",
    type=click.IntRange(min=0),
    default=5,
    show_default=True,
    help="Minimum events per user and item.",
)
@click.option("--name", help="Name of the data set; by default the source's.")
@click.option(
    "--columns",
    callback=parse_columns,
    metavar="user=..,item=..,time=..,rating=..",
    help="Columns of a table by name or by number, as in user=1,item=2,time=4 where there is no header; "
    "common names are recognised without it.",
)
@click.option(
    "--delimiter",
    metavar="CHAR",
    help="Delimiter of a text file: a character, '::', tab, blank, ...; found without it.",
)
@click.option(
    "--time-unit",
    type=click.Choice(["s", "ms", "us", "ns"]),
    help="Unit of times that are numbers; by default their size says it.",
)
@click.option(
    "--time-format",
    metavar="FORMAT",
    help="Format of times, as in '%d/%m/%Y %H:%M' or %Y%m%d; by default ISO 8601.",
)
@click.option(
    "--rows-per-shard", type=click.IntRange(min=1), default=2048, show_default=True, help="Users per shard."
)
@click.option(
    "--engine",
    type=click.Choice(["memory", "tasks", "ray"]),
    help="ray: on a Ray cluster, as with --address. There is one engine now: memory and tasks both mean here.",
)
@click.option("--address", help="Ray cluster to run on; local starts one here.")
@click.option(
    "--max-bad-share",
    type=click.FloatRange(0, 1),
    default=0.01,
    show_default=True,
    help="Refuse a source with a larger share of rows that cannot be used.",
)
@click.option("--earliest", metavar="DATE", help="Rows before this are bad (GroupLens' layouts: 1995-01-01).")
@click.option("--latest", metavar="DATE", help="Rows after this are bad; by default a day from now.")
@click.option(
    "--scale",
    type=(float, float),
    metavar="LOW HIGH",
    help="Ratings off this scale are bad (GroupLens' layouts: 0.5 5).",
)
@click.option(
    "--repeats",
    type=click.Choice(["keep", "drop"]),
    help="Whether the same user, item and second may come twice (GroupLens' layouts: drop).",
)
@click.option(
    "--ties",
    type=click.Choice(["file", "hash"]),
    default="file",
    show_default=True,
    help="What orders events of one user and second: the file, or a fixed hash, which gives nothing away.",
)
@click.option(
    "--item-features",
    metavar="FILE",
    help="CSV, JSON lines, Parquet, ..., or .item, also in a zip (x.zip/y.csv): an id and columns about items.",
)
@click.option("--user-features", metavar="FILE", help="The same about users; .user too.")
@click.option(
    "--feature-kinds",
    callback=parse_kinds,
    metavar="NAME=KIND,..",
    help="Kind of a column of --item-features that is guessed wrongly: categorical, multi, number, text or vector.",
)
@click.option(
    "--context",
    callback=parse_names,
    metavar="COLUMN,..",
    help="Columns about the event (device, channel, price, kind), by name or number; of RecBole's .inter all are read.",
)
@click.option(
    "--targets",
    callback=parse_targets,
    metavar="COLUMN=VALUE|..",
    help="Which events are targets, as in event=purchase; all others are only what people did on the way.",
)
@click.option("--overwrite", is_flag=True, help="Replace a folder that was prepared before.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object: folder and manifest.")
def prepare_command(
    source: str,
    out: str,
    k_core: int,
    name: str | None,
    columns: dict[str, str],
    delimiter: str | None,
    time_unit: Unit | None,
    time_format: str | None,
    rows_per_shard: int,
    engine: str | None,
    address: str | None,
    max_bad_share: float,
    earliest: str | None,
    latest: str | None,
    scale: tuple[float, float] | None,
    repeats: str | None,
    ties: Ties,
    item_features: str | None,
    user_features: str | None,
    feature_kinds: dict[str, str],
    context: tuple[str, ...],
    targets: EventTargets | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Turn a ratings archive or table into a prepared folder.

    Reads CSV and other delimited text, JSON lines and Parquet, also packed (.gz, .bz2, .zst), in one file or in parts;
    a Delta table by its folder, an Iceberg table as iceberg://CATALOG/NAMESPACE.TABLE.

    Rows that cannot be used are listed in quarantine.parquet with a reason each.
    """
    from contextlib import nullcontext

    from rich.console import Console

    from ss4rec.data.prepare.engine import prepare
    from ss4rec.data.prepared.build import check_free
    from ss4rec.data.prepared.features import check_kinds
    from ss4rec.data.sources import TableOptions
    from ss4rec.data.sources.ray_lake import check_lake, lake_kind, lake_name, read_lake
    from ss4rec.io.paths import to_path

    lake = lake_kind(source)
    on_ray = _is_on_ray(engine, address, lake is not None)
    kind_column = targets.column if targets else None
    options = TableOptions(columns, delimiter, time_unit, time_format, context, kind_column)
    # Tasks on a cluster open these paths wherever they run.
    folder = to_path(out).absolute() if on_ray else to_path(out)
    if lake:
        check_lake(source)
    check_free(folder, overwrite, unfinished=True)
    opened = None if lake else _open(source, options, on_ray)
    items, users = _brought(item_features, "item"), _brought(user_features, "user")
    if opened:
        check_kinds(feature_kinds, items or opened.item_features(), opened.context)
    layout = opened.plan.layout if opened else "parquet"
    rules = _rules(layout, max_bad_share, earliest, latest, scale, repeats)
    with (
        Console(stderr=True).status("starting") as status,
        _ray_mapper(address) if on_ray else nullcontext(map) as mapper,
    ):
        manifest = prepare(
            opened or read_lake(source, options),
            folder,
            columns=options,
            k_core=k_core,
            name=name or (lake_name(source) if lake else None),
            rows_per_shard=rows_per_shard,
            overwrite=overwrite,
            rules=rules,
            ties=ties,
            item_features=items,
            user_features=users,
            feature_kinds=feature_kinds,
            targets=targets,
            mapper=mapper,
            progress=status.update,
        )
    if as_json:
        click.echo(json.dumps({"folder": out, "manifest": manifest.model_dump(mode="json")}))
    else:
        Console().print(summary(manifest, folder))
        if isinstance(folder, Path):  # the verbs after it take local paths
            say_next(f"ss4rec data audit --data {quoted(out)}", f"ss4rec train --data {quoted(out)}")


def _is_on_ray(engine: str | None, address: str | None, is_lake: bool) -> bool:
    """Return whether the job runs on a cluster.

    Raises:
        UsageError: if it is asked for both here and there.
    """
    on_ray = engine == "ray" or address is not None or is_lake
    if on_ray and engine in ("memory", "tasks"):
        raise UsageError(
            f"--engine {engine} runs in this process and --address on a cluster; leave one of them out"
        )
    if engine and not on_ray:
        click.echo(f"note: there is one engine now; --engine {engine} runs it in this process", err=True)
    return on_ray


def _open(source: str, options: TableOptions, on_ray: bool) -> Source:
    """Open a source and say what the user should know about how it is read."""
    from ss4rec.data.sources import Source, resolve_source

    found = resolve_source(source)
    opened = Source.open(found.absolute() if on_ray else found, options)
    for note in opened.notes:
        click.echo(f"note: {note}", err=True)
    return opened


def _brought(path: str | None, role: Literal["item", "user"]) -> FeatureTable | None:
    """Read a file of features and say what the user should know about how it is read."""
    from ss4rec.data.sources.features import read_brought
    from ss4rec.io.paths import to_path

    if path is None:
        return None
    found = read_brought(to_path(path), role)
    for note in found.notes:
        click.echo(f"note: {note}", err=True)
    return found


@contextmanager
def _ray_mapper(address: str | None) -> Iterator[Mapper]:
    """Connect to a cluster and yield what runs tasks on it."""
    from ss4rec.cluster.connect import cluster
    from ss4rec.data.prepare.ray_map import ray_map
    from ss4rec.train.status import announce

    with cluster(address, dashboard=False):
        announce("preparing ...")
        yield ray_map


def _rules(
    layout: str,
    max_bad_share: float,
    earliest: str | None,
    latest: str | None,
    scale: tuple[float, float] | None,
    repeats: str | None,
) -> Rules:
    """Return the usual rules of a layout with what the command line changes."""
    import time
    from dataclasses import replace

    from ss4rec.data.sources.checks import rules_for
    from ss4rec.data.split import parse_cut
    from ss4rec.io.moments import DAY_S

    changes: dict[str, Any] = {}
    if earliest:
        whole_day = len(earliest) == len("1995-01-01")
        changes["earliest_s"] = parse_cut(earliest, "--earliest") - (DAY_S - 1 if whole_day else 0)
    if latest:
        changes["latest_s"] = parse_cut(latest, "--latest")
    if scale:
        changes |= {"lowest": scale[0], "highest": scale[1]}
    if repeats:
        changes["repeats"] = repeats == "keep"
    rules = replace(rules_for(layout, int(time.time()), max_bad_share), **changes)
    if rules.earliest_s > rules.latest_s:
        raise UsageError(
            f"no time lies between --earliest {earliest} and --latest {latest or 'tomorrow'}; turn them"
        )
    if not rules.lowest <= rules.highest:
        raise UsageError(
            f"--scale {rules.lowest:g} {rules.highest:g} has no ratings; give the lower end first"
        )
    return rules


def summary(manifest: Manifest, folder: AnyPath) -> Table:
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
        "in quarantine": ", ".join(f"{reason} {count:,}" for reason, count in manifest.quarantined.items())
        or "none",
        "item features": ", ".join(
            f"{f.name} ({f.kind})" for f in (manifest.features or {}).get("items", ())
        ),
        "about events": ", ".join(f"{f.name} ({f.kind})" for f in manifest.context or ()),
        "targets": f"{manifest.targets.column} = {' or '.join(manifest.targets.values)}"
        if manifest.targets
        else "",
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
        if not value:
            continue
        table.add_row(label, Text(value))
    return table
