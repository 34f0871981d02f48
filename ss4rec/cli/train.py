"""`ss4rec train`: train on Ray, then evaluate the best epoch on the test items."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ss4rec.auto.resolve import Auto
from ss4rec.cli.options import (
    FolderOrUri,
    Workers,
    assigned,
    config_options,
    data_folder,
    minutes_option,
    resolve_train,
)
from ss4rec.cli.steps import quoted, say_next
from ss4rec.config import RunConfig
from ss4rec.errors import ConfigError
from ss4rec.io.paths import AnyPath

if TYPE_CHECKING:
    from ss4rec.data.prepared.folder import PreparedFolder


def parse_cuts(context: click.Context, option: click.Parameter, text: str | None) -> tuple[Any, ...]:
    """Parse `CUT,CUT,...`.

    Raises:
        click.BadParameter: if there are fewer than two, or one comes twice.
    """
    cuts = tuple(part.strip() for part in (text or "").split(",") if part.strip())
    if text is not None and (len(cuts) < 2 or len(set(cuts)) < len(cuts)):
        raise click.BadParameter(f"{text!r}: write two or more different cuts, as in 0.7,0.8,0.9")
    return tuple(assigned([f"cut={cut}"])["cut"] for cut in cuts)


@click.command("train")
@click.option("--data", type=FolderOrUri(), required=True, help="A prepared folder; also on S3.")
@click.option(
    "--from",
    "start_from",
    type=click.Path(path_type=Path),
    metavar="RUN",
    help="Warm start: begin with the weights of this run, or of the champion of registry/NAME. Its configuration is "
    "taken over, and train.warm_share of its epochs.",
)
@config_options(default_preset="auto")
@minutes_option
@click.option("--storage", type=click.Path(path_type=Path), default=Path("runs"), show_default=True)
@click.option("--name", help="Name of the run; the same name continues it. Default: preset and data.")
@click.option(
    "--address", help="Ray cluster; default: RAY_ADDRESS, a running local cluster, or a new local one."
)
@click.option(
    "--skip-bad-steps",
    type=click.IntRange(min=0),
    help="Steps with a NaN or infinite loss or gradient that are left out before training stops "
    "(train.skip_bad_steps); each is counted.",
)
@click.option(
    "--skip-bad-shards",
    is_flag=True,
    help="Leave out shards that are damaged or missing, say how many users and events that is, and train on the rest, "
    "which becomes RUN/data. Without it a damaged shard ends the command.",
)
@click.option(
    "--cuts",
    callback=parse_cuts,
    metavar="CUT,CUT,...",
    help="Train and test once for each of these cuts (protocol.cut), as in 0.7,0.8,0.9, each in a folder of its own in "
    "the run's, and give the mean and the spread over them.",
)
@click.option(
    "--seeds",
    type=click.IntRange(min=2),
    help="Train this many times with train.seed counted up, as runs NAME-seedN; `ss4rec compare` takes them as one "
    "recipe.",
)
@click.option(
    "--all", "everything", is_flag=True, help="Show all settings of the ranking, not only the protocol's."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object at the end instead of tables.")
def train_command(
    data: AnyPath,
    start_from: Path | None,
    preset_name: str,
    protocol_name: str | None,
    assignments: tuple[str, ...],
    workers: Workers | None,
    minutes: float | None,
    storage: Path,
    name: str | None,
    address: str | None,
    skip_bad_steps: int | None,
    skip_bad_shards: bool,
    cuts: tuple[Any, ...],
    seeds: int | None,
    everything: bool,
    as_json: bool,
) -> None:
    """Train a model on a prepared folder; the same --name continues a run.

    The run folder STORAGE/NAME holds the resolved configuration, the run record, metrics, checkpoints and the
    result on the test items.
    """
    if skip_bad_steps is not None:
        assignments = (*assignments, f"train.skip_bad_steps={skip_bad_steps}")
    folder = data_folder(data)
    if start_from is None:
        config = resolve_train(preset_name, assignments, workers, protocol_name, minutes)
    else:
        config = _warm(start_from, folder, preset_name, assignments, workers, protocol_name, minutes)
    warm = "" if start_from is None else "-warm"
    run_dir = storage.resolve() / (name or f"{config.preset}-{folder.path.name}{warm}")
    if start_from is not None and cuts:
        raise click.UsageError("--from goes on from one moment and --cuts asks for several; give one of them")
    if cuts and seeds:
        raise click.UsageError("--cuts and --seeds exclude one another; give one of them")
    if seeds:
        if isinstance(config, Auto):
            raise ConfigError(
                "--seeds compares seeds of one configuration; name a --preset, auto chooses for each run"
            )
        from ss4rec.train.run import train_seeds

        found = train_seeds(config, folder, run_dir, seeds, address=address, skip_bad_shards=skip_bad_shards)
        _show_seeds(found, as_json)
        return
    if cuts:
        if isinstance(config, Auto):
            raise ConfigError(
                "--cuts compares one configuration over cuts; name a --preset, auto chooses for each"
            )
        from ss4rec.train.rolling import train_rolling

        rolling = train_rolling(
            config, folder, run_dir, cuts, address=address, skip_bad_shards=skip_bad_shards
        )
        _show_rolling(run_dir, rolling, as_json)
        return
    from ss4rec.train.run import train

    result = train(config, folder, run_dir, address=address, skip_bad_shards=skip_bad_shards)
    if as_json:
        click.echo(json.dumps(result))
    elif "test" in result:
        from ss4rec.cli.results import show_results

        show_results(
            f"{run_dir.name}: test items, best epoch by validation",
            result["test"],
            everything=everything,
            then=(f"ss4rec show {quoted(run_dir)}",),
        )
    else:
        say_next(f"ss4rec evaluate --run {quoted(run_dir)} --data {quoted(data)}")


def _warm(
    start_from: Path,
    folder: PreparedFolder,
    preset_name: str,
    assignments: tuple[str, ...],
    workers: Workers | None,
    protocol_name: str | None,
    minutes: float | None,
) -> RunConfig:
    """Return the configuration of a warm start."""
    from ss4rec.train.warm import Parent, warm_config

    parent = Parent.open(start_from.resolve())
    config = resolve_train(preset_name, assignments, workers, protocol_name, minutes, parent.config)
    assert isinstance(config, RunConfig)
    given = [*assigned(assignments), *(() if minutes is None else ("train.max_minutes",))]
    return warm_config(config, parent, folder, given)


def _show_seeds(found: dict[str, Any], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(found))
        return
    for name, row in found["summary"].items():
        click.echo(f"{name:12} {row['mean']:.4f} ± {row['sd']:.4f}")
    say_next(f"ss4rec compare OTHER... {' '.join(map(quoted, found['runs']))}  # with another recipe")


def _show_rolling(run_dir: Path, rolling: dict[str, Any], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(rolling))
        return
    from ss4rec.cli.results import show_rolling

    show_rolling(f"{run_dir.name}: test items, {len(rolling['cuts'])} cuts", rolling)
    say_next(f"ss4rec show {quoted(run_dir)}/CUT")
