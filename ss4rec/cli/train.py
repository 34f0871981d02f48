"""`ss4rec train`: train on Ray, then evaluate the best epoch on the test items."""

from __future__ import annotations

import json
from pathlib import Path

import click

from ss4rec.cli.options import Workers, config_options, data_folder, resolve_config


@click.command("train")
@click.option("--data", type=click.Path(path_type=Path), required=True, help="A prepared folder.")
@config_options(default_preset="paper")
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
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object at the end instead of tables.")
def train_command(
    data: Path,
    preset_name: str,
    assignments: tuple[str, ...],
    workers: Workers | None,
    storage: Path,
    name: str | None,
    address: str | None,
    skip_bad_steps: int | None,
    skip_bad_shards: bool,
    as_json: bool,
) -> None:
    """Train a model on a prepared folder; the same --name continues a run.

    The run folder STORAGE/NAME holds the resolved configuration, the run record, metrics, checkpoints and the
    result on the test items.
    """
    if skip_bad_steps is not None:
        assignments = (*assignments, f"train.skip_bad_steps={skip_bad_steps}")
    config = resolve_config(preset_name, assignments, workers)
    folder = data_folder(data)
    from ss4rec.train.run import train

    result = train(
        config,
        folder,
        storage.resolve() / (name or f"{config.preset}-{folder.path.name}"),
        address=address,
        skip_bad_shards=skip_bad_shards,
    )
    if as_json:
        click.echo(json.dumps(result))
    elif "test" in result:
        from ss4rec.cli.show import show_results

        show_results(f"{result['run']}: test items, best epoch by validation", result["test"])
