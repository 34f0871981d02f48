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

from ss4rec.cli.steps import say_sentences
from ss4rec.cluster.secrets import adopt_in_driver, redact
from ss4rec.errors import SS4RecError
from ss4rec.interrupt import EXIT_CODE, interruptible, last_words
from ss4rec.train.status import Screen, use_display

VERBS = {
    "demo": ("demo", "Make synthetic ratings, train, evaluate: the whole path in minutes."),
    "train": ("train", "Train a model on a prepared folder."),
    "evaluate": ("evaluate", "Rank all items for every user with a trained run."),
    "recommend": ("recommend", "Write the best items of every user into files."),
    "score": ("score", "Write the scores of given pairs of user and item."),
    "similar": ("similar", "Show or write items that are like an item."),
    "show": ("show", "Show a run: data, curves, metrics, segments; or list runs."),
    "compare": ("compare", "Say which of several runs is better, and whether it is luck."),
    "serve": ("serve", "Serve a run over HTTP: events in, lists out."),
    "tune": ("tune", "Search hyperparameters with Ray Tune and Optuna."),
    "config": ("config", "Print a preset as JSON, or every field with its meaning."),
    "doctor": ("doctor", "Check this machine or a cluster."),
    "submit": ("submit", "Submit a verb as a job to a Ray cluster."),
    "drift": ("drift", "Report drift of data and model after a cut in time."),
    "watch": ("watch", "Look, decide, retrain, compare, promote: one round."),
}
REGISTRY_VERBS = {
    "list": ("registry", "List the models of a registry and what serves."),
    "show": ("registry", "Show versions and history of a model."),
    "promote": ("registry", "Let a run serve, and say why."),
    "rollback": ("registry", "Go back to the champion before."),
}
EXPORT_VERBS = {
    "items": ("export_model", "Write item vectors as Parquet and npy."),
    "index": ("export_model", "Build an index of items, and measure its recall."),
    "card": ("export_model", "Write the model card as Markdown and JSON."),
    "torch": ("export_programs", "Write encoder, state step and scores for torch."),
    "onnx": ("export_programs", "Write state step and scores as ONNX."),
}
DATA_VERBS = {
    "prepare": ("prepare", "Turn a ratings archive or table into a prepared folder."),
    "synth": ("synth", "Generate MovieLens-shaped ratings with planted structure."),
    "get": ("get", "Download a MovieLens archive from GroupLens."),
    "export": ("export", "Write a prepared folder as RecBole's files."),
    "compare": ("data_compare", "Say what two releases of a data set have in common."),
    "audit": ("data_audit", "Say what is wrong with prepared data before anyone trains."),
    "split": ("split", "Cut a prepared folder at a moment into past and future."),
}


class LazyGroup(click.Group):
    """A group that imports its commands when they are used: verb `v` is `v_command` of the module in the table."""

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
        module = importlib.import_module(f"ss4rec.cli.{self.lazy[cmd_name][0]}")
        command: click.Command = getattr(module, f"{cmd_name}_command")
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
        say_sentences(redact(f"error: {error}"), err=True)
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
