"""`ss4rec demo`: the whole path on synthetic ratings, for a first look, or at the size of ML-32M."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from ss4rec.cli.options import Workers, config_options, data_folder, resolve_config
from ss4rec.cli.steps import quoted, say_next
from ss4rec.config import RunConfig
from ss4rec.errors import UsageError

if TYPE_CHECKING:
    from ss4rec.cli.pipeline import Settings

WHOLE = "ml-32m"


@click.command("demo")
@click.option(
    "--like",
    type=click.Choice(["demo", WHOLE]),
    default="demo",
    show_default=True,
    help="ml-32m: from 32 million ratings to lists of all users and a drift report (a GPU, 24 GiB).",
)
@click.option("--source", metavar="PATH", help="With --like ml-32m: these ratings instead of generated ones.")
@click.option(
    "--cutoff", metavar="DATE", help="With --like ml-32m: last day of the past; default: 2018-12-31."
)
@click.option("--users", type=int, help="With --like ml-32m: generate fewer users.")
@click.option("--items", type=int, help="With --like ml-32m: generate fewer movies.")
@config_options(default_preset="demo")
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    default=Path("data/synthetic"),
    show_default=True,
    help="Folder for the generated ratings; with --like ml-32m by default data/ml-32m.",
)
@click.option("--storage", type=click.Path(path_type=Path), default=Path("runs"), show_default=True)
@click.option(
    "--all", "everything", is_flag=True, help="Show all settings of the ranking, not only the protocol's."
)
@click.pass_context
def demo_command(
    context: click.Context,
    like: str,
    source: str | None,
    cutoff: str | None,
    users: int | None,
    items: int | None,
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

    --like ml-32m takes 32 million ratings from CSV to top 100 of all users and a drift report. Killed, the same
    command goes on with the stage that it was in.
    """
    if like == WHOLE:
        from ss4rec.cli.pipeline import CUTOFF, Settings

        asked = Settings(
            like=WHOLE,
            source=source,
            users=users,
            items=items,
            cutoff=cutoff or CUTOFF,
            preset=preset_name if _is_given(context, "preset_name") else "ml_20m_best",
            train=_train_words(protocol_name, assignments, workers),
        )
        _whole_path(asked, data if _is_given(context, "data") else Path("data") / WHOLE, storage)
        return
    if source or cutoff or users or items:
        raise UsageError("--source, --cutoff, --users and --items go with --like ml-32m; add it")
    _first_look(resolve_config(preset_name, assignments, workers, protocol_name), data, storage, everything)


def _is_given(context: click.Context, name: str) -> bool:
    return context.get_parameter_source(name) is not ParameterSource.DEFAULT


def _train_words(
    protocol_name: str | None, assignments: tuple[str, ...], workers: Workers | None
) -> tuple[str, ...]:
    """Return options as words for `ss4rec train`."""
    words = [word for text in assignments for word in ("--set", text)]
    if protocol_name:
        words += ["--protocol", protocol_name]
    if workers:
        words += ["--workers", ":".join(str(number) for number in workers if number)]
    return tuple(words)


def _whole_path(asked: Settings, data: Path, storage: Path) -> None:
    """Run all stages that are not done, and print what each took."""
    from ss4rec.cli.pipeline import run_pipeline

    folder = storage.resolve() / WHOLE
    done = run_pipeline(asked, data.resolve(), folder)
    for stage in done:
        took = "?" if stage.seconds is None else f"{stage.seconds:,.1f}"
        again = f", begun {stage.attempts} times" if stage.attempts > 1 else ""
        click.echo(f"{stage.name:10} {took:>9} s{again}")
    click.echo(f"lists: {folder / 'lists'}\nreport: {folder / 'drift' / 'report.html'}")
    say_next(f"ss4rec show {quoted(folder / 'run')}", f"ss4rec serve --run {quoted(folder / 'run')}")


def _first_look(config: RunConfig, data: Path, storage: Path, everything: bool) -> None:
    """Generate if there is nothing yet, train, and show the test."""
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
            f"ss4rec show {quoted(result['run'])}",
            "ss4rec data prepare --source YOUR.csv --out data/yours && ss4rec train --data data/yours",
        ),
    )
