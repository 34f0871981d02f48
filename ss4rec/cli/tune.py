"""`ss4rec tune`: search hyperparameters with Ray Tune and Optuna."""

from __future__ import annotations

import json
from pathlib import Path

import click

from ss4rec.cli.options import (
    Workers,
    assigned,
    data_folder,
    protocol_option,
    resolve_config,
    set_option,
    workers_option,
)
from ss4rec.cli.steps import quoted, say_next
from ss4rec.errors import ConfigError
from ss4rec.train.status import shown


@click.command("tune")
@click.option("--data", required=True, type=click.Path(path_type=Path), help="Prepared folder.")
@click.option(
    "--space",
    "space_file",
    required=True,
    type=click.Path(path_type=Path),
    help="Python file that defines SPACE.",
)
@click.option("--trials", default=64, show_default=True, type=click.IntRange(min=1), help="Trials in all.")
@click.option(
    "--storage", default="runs", show_default=True, type=click.Path(path_type=Path), help="Parent folder."
)
@click.option("--name", required=True, help="Name of the sweep; the same name continues it.")
@click.option("--preset", "preset_name", help="Start from this preset instead of the space's own.")
@protocol_option("What trains and what chooses in every trial")
@set_option("A field of every trial, as in --set train.epochs=20.")
@workers_option("Training workers of a trial.")
@click.option(
    "--objective",
    "objectives",
    multiple=True,
    default=("ndcg@10",),
    show_default=True,
    type=click.Choice(["ndcg@10", "events_per_s", "parameters"]),
    help="What to improve; give it twice for two objectives.",
)
@click.option("--pruner", default="asha", show_default=True, type=click.Choice(["asha", "median", "none"]))
@click.option("--grace-epochs", default=0, help="Epochs that every trial gets; 0: a ninth of the most.")
@click.option("--seed", default=2020, show_default=True, help="Seed of the search.")
@click.option(
    "--trials-per-gpu", default=1, show_default=True, type=click.IntRange(min=1), help="Trials on a card."
)
@click.option("--concurrent", default=0, help="Maximum concurrent trials; 0: as many as fit.")
@click.option(
    "--minutes",
    default=0.0,
    type=click.FloatRange(min=0),
    help="End in order after this long (the same command goes on later); 0: when all trials are done.",
)
@click.option("--address", help="Ray cluster; default as in `ss4rec train`.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object at the end.")
def tune_command(
    data: Path,
    space_file: Path,
    storage: Path,
    name: str,
    preset_name: str | None,
    protocol_name: str | None,
    assignments: tuple[str, ...],
    workers: Workers | None,
    address: str | None,
    as_json: bool,
    **search: object,
) -> None:
    """Search hyperparameters; the same --name continues a sweep that was stopped or killed.

    STORAGE/NAME holds the Optuna study, a run folder a trial, report.html, and best.json, which
    `ss4rec train --preset @STORAGE/NAME/best.json` trains.
    """
    from tuning.space import load_space
    from tuning.sweep import SweepConfig, run_sweep

    folder, space = data_folder(data), load_space(space_file)
    searched = sorted(set(assigned(assignments)) & set(space.parameters))
    if searched:
        raise ConfigError(
            f"--set {', '.join(searched)}: searched by {space_file}; take it out there, or here"
        )
    base = resolve_config(preset_name or space.start(), assignments, workers, protocol_name)
    if base.protocol.refit:
        raise ConfigError(
            "protocol.refit is true, and with it nothing is left that a sweep could choose by; leave it out here and "
            "set it when the best configuration is trained"
        )
    sweep_dir = storage.resolve() / name
    summary = run_sweep(
        space, folder, sweep_dir, SweepConfig.model_validate(search), base=base, address=address
    )
    if as_json:
        click.echo(json.dumps(summary))
        return
    best = summary["best"]
    click.echo(
        f"best trial {best['trial']}: {', '.join(f'{value:.4f}' for value in best['values'])} on validation\n"
        f"page: {shown(sweep_dir / 'report.html')}"
    )
    say_next(f"ss4rec train --data {quoted(data)} --preset @{quoted(sweep_dir / 'best.json')}")
