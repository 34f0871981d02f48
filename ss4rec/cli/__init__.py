"""The console script `ss4rec <verb>`; `python -m ray_jobs.<verb>` runs the same commands.

Verbs are imported when they are called, so that `ss4rec --help` answers without loading torch and Ray.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import click

from ss4rec.cluster.secrets import adopt_in_driver, redact
from ss4rec.errors import SS4RecError
from ss4rec.interrupt import EXIT_CODE, interruptible, last_words
from ss4rec.train.status import Screen, use_display

VERBS = {
    "demo": (
        "ss4rec.cli.demo:demo_command",
        "Make synthetic ratings, train, evaluate: the whole path in minutes.",
    ),
    "train": ("ss4rec.cli.train:train_command", "Train a model on a prepared folder."),
    "evaluate": ("ss4rec.cli.evaluate:evaluate_command", "Rank all items for every user with a trained run."),
    "recommend": (
        "ss4rec.cli.recommend:recommend_command",
        "Write the best items of every user into files.",
    ),
    "score": ("ss4rec.cli.score:score_command", "Write the scores of given pairs of user and item."),
    "similar": ("ss4rec.cli.similar:similar_command", "Show or write items that are like an item."),
    "show": ("ss4rec.cli.show:show_command", "Show a run: data, learning curves, metrics, segments, cost."),
    "compare": (
        "ss4rec.cli.compare:compare_command",
        "Say which of several runs is better, and whether it is luck.",
    ),
    "serve": ("ss4rec.cli.serve:serve_command", "Serve a run over HTTP: events in, lists out."),
    "tune": ("ss4rec.cli.tune:tune_command", "Search hyperparameters with Ray Tune and Optuna."),
    "config": (
        "ss4rec.cli.config:config_command",
        "Print a preset as JSON, or every field with its meaning.",
    ),
    "doctor": ("ss4rec.cli.doctor:doctor_command", "Check this machine or a cluster."),
    "submit": ("ss4rec.cli.submit:submit_command", "Submit a verb as a job to a Ray cluster."),
    "drift": ("ss4rec.cli.drift:drift_command", "Report drift of data and model after a cut in time."),
    "watch": ("ss4rec.cli.watch:watch_command", "Look, decide, retrain, compare, promote: one round."),
}
REGISTRY_VERBS = {
    "list": ("ss4rec.cli.registry:list_command", "List the models of a registry and what serves."),
    "show": ("ss4rec.cli.registry:show_command", "Show versions and history of a model."),
    "promote": ("ss4rec.cli.registry:promote_command", "Let a run serve, and say why."),
    "rollback": ("ss4rec.cli.registry:rollback_command", "Go back to the champion before."),
}
EXPORT_VERBS = {
    "items": ("ss4rec.cli.export_model:items_command", "Write item vectors as Parquet and npy."),
    "index": ("ss4rec.cli.export_model:index_command", "Build an index of items, and measure its recall."),
    "card": ("ss4rec.cli.export_model:card_command", "Write the model card as Markdown and JSON."),
    "torch": ("ss4rec.cli.export_programs:torch_command", "Write encoder, state step and scores for torch."),
    "onnx": ("ss4rec.cli.export_programs:onnx_command", "Write state step and scores as ONNX."),
}
DATA_VERBS = {
    "prepare": (
        "ss4rec.cli.prepare:prepare_command",
        "Turn a ratings archive or table into a prepared folder.",
    ),
    "synth": ("ss4rec.cli.synth:synth_command", "Generate MovieLens-shaped ratings with planted structure."),
    "get": ("ss4rec.cli.get:get_command", "Download a MovieLens archive from GroupLens."),
    "export": ("ss4rec.cli.export:export_command", "Write a prepared folder as RecBole's files."),
    "compare": (
        "ss4rec.cli.data_compare:compare_command",
        "Say what two releases of a data set have in common.",
    ),
    "audit": (
        "ss4rec.cli.data_audit:audit_command",
        "Say what is wrong with prepared data before anyone trains.",
    ),
    "split": ("ss4rec.cli.split:split_command", "Cut a prepared folder at a moment into past and future."),
}


class LazyGroup(click.Group):
    """A group whose commands are named as `module:attribute` and imported when they are used."""

    def __init__(self, *args: Any, lazy: dict[str, tuple[str, str]], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.lazy = lazy

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return all verbs, in the order of a newcomer's path."""
        return [*self.lazy, *super().list_commands(ctx)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return the command of a verb."""
        if cmd_name not in self.lazy:
            return super().get_command(ctx, cmd_name)
        module, attribute = self.lazy[cmd_name][0].split(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the verbs from their one-line descriptions, importing none."""
        rows = [(name, line) for name, (_, line) in self.lazy.items()]
        rows += [(name, command.get_short_help_str()) for name, command in self.commands.items()]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


main_group = LazyGroup(
    "ss4rec",
    lazy=VERBS,
    help="Train and watch SS4Rec, a state-space recommender, on Ray.",
    no_args_is_help=True,
)
main_group.params.append(
    click.Option(
        ["--version"],
        is_flag=True,
        expose_value=False,
        is_eager=True,
        callback=lambda context, option, wanted: _show_version(context) if wanted else None,
        help="Show the version and exit.",
    )
)
main_group.add_command(
    LazyGroup(
        "data",
        lazy=DATA_VERBS,
        help="Prepare, look at, generate, download, export and split data.",
        short_help="Prepare, audit, generate, export, split data.",
        no_args_is_help=True,
    )
)
main_group.add_command(
    LazyGroup(
        "registry",
        lazy=REGISTRY_VERBS,
        help="Say which run serves, and go back.",
        short_help="Say which run serves, and go back.",
        no_args_is_help=True,
    )
)
main_group.add_command(
    LazyGroup(
        "export",
        lazy=EXPORT_VERBS,
        help="Hand a trained run on to other programs.",
        short_help="Hand a run on: item vectors, index, card, torch, ONNX.",
        no_args_is_help=True,
    )
)


def _show_version(context: click.Context) -> None:
    from importlib.metadata import PackageNotFoundError, version

    try:
        found = version("ss4rec")
    except PackageNotFoundError:  # a checkout that is not installed
        found = "unknown (not installed)"
    click.echo(f"ss4rec {found}")
    context.exit()


def run(command: click.Command, args: Sequence[str] | None = None) -> None:
    """Run a command and exit: an expected error becomes one sentence on stderr and its exit code."""
    adopt_in_driver()
    try:
        with interruptible(), _display():
            result = command.main(args=None if args is None else list(args), standalone_mode=False)
        sys.exit(result if isinstance(result, int) else 0)
    except SS4RecError as error:
        click.echo(redact(f"error: {error}"), err=True)
        sys.exit(error.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo(last_words(), err=True)
        sys.exit(EXIT_CODE)


@contextmanager
def _display() -> Iterator[None]:
    """Show what happens on a live display while a command uses Ray, where there is a terminal."""

    def make() -> AbstractContextManager[Screen]:
        from rich.console import Console

        from ss4rec.cli.display import Display, display_wanted

        console = Console(stderr=True)
        return Display(console=console) if display_wanted(console) else nullcontext(Screen())

    use_display(make)
    try:
        yield
    finally:
        use_display(None)


def main() -> None:
    """Entry point of the console script."""
    run(main_group)
