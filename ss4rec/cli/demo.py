"""`ss4rec demo`: the whole path on synthetic ratings, for a first look."""

from __future__ import annotations

from pathlib import Path

import click

from ss4rec.cli.options import Workers, config_options, data_folder, resolve_config


@click.command("demo")
@config_options(default_preset="demo")
@click.option("--data", type=click.Path(path_type=Path), default=Path("data/synthetic"), show_default=True)
@click.option("--storage", type=click.Path(path_type=Path), default=Path("runs"), show_default=True)
@click.option(
    "--all", "everything", is_flag=True, help="Show all settings of the ranking, not only the protocol's."
)
def demo_command(
    preset_name: str,
    protocol_name: str | None,
    assignments: tuple[str, ...],
    workers: Workers | None,
    data: Path,
    storage: Path,
    everything: bool,
) -> None:
    """Generate MovieLens-shaped ratings, train on Ray, and rank all items for every user.

    The ratings are made once. Which item follows which is planted, and half of it depends on the time that passed: a
    model of order and time beats popularity by far, and a Markov chain too.
    """
    config = resolve_config(preset_name, assignments, workers, protocol_name)
    if not data.exists():
        from ss4rec.data.synth.generate import synth
        from ss4rec.data.synth.settings import LIKE

        click.echo(f"generating ratings in {data}")
        like = LIKE["demo"]
        synth(data, users=like.users, items=like.items, mean_len=like.mean_len, settings=like.settings)
    from ss4rec.cli.results import show_results
    from ss4rec.train.run import train

    # Always a Ray of its own: a first look must not depend on what else ran on this machine.
    result = train(config, data_folder(data), storage.resolve() / "demo", address="local")
    show_results(
        "demo: test items, best epoch by validation",
        result["test"],
        everything=everything,
        then=(
            f"ss4rec show {result['run']}",
            "ss4rec data prepare --source YOUR.csv --out data/yours && ss4rec train --data data/yours",
        ),
    )
