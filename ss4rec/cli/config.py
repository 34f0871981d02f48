"""`ss4rec config`: print a resolved configuration, or every field with its default and meaning."""

from __future__ import annotations

import textwrap
from pathlib import Path

import click
from click.core import ParameterSource
from pydantic import BaseModel

from ss4rec.auto.choose import Decision, Machine
from ss4rec.auto.explain import explained, headline
from ss4rec.auto.look import Facts
from ss4rec.auto.resolve import Auto
from ss4rec.cli.options import (
    Workers,
    assigned,
    config_options,
    data_folder,
    minutes_option,
    resolve_train,
)
from ss4rec.cli.steps import quoted, say_next
from ss4rec.config import RunConfig
from ss4rec.errors import UsageError
from ss4rec.presets import AUTO


@click.command("config")
@config_options(default_preset="paper")
@minutes_option
@click.option("--data", type=click.Path(path_type=Path), help="The prepared folder that `auto` looks at.")
@click.option("--gpu/--no-gpu", default=None, help="For which machine `auto` chooses; by default this one.")
@click.option("--fields", is_flag=True, help="List every field with its default and meaning.")
@click.option("--explain", is_flag=True, help="Say what decided each field that `auto` chooses.")
def config_command(
    preset_name: str,
    protocol_name: str | None,
    assignments: tuple[str, ...],
    workers: Workers | None,
    minutes: float | None,
    data: Path | None,
    gpu: bool | None,
    fields: bool,
    explain: bool,
) -> None:
    """Print the configuration that the same options give to `train`, as JSON.

    With --data the preset is `auto` unless another is named.
    """
    named = click.get_current_context().get_parameter_source("preset_name") is not ParameterSource.DEFAULT
    config = resolve_train(
        AUTO if data is not None and not named else preset_name, assignments, workers, protocol_name, minutes
    )
    if isinstance(config, Auto):
        if data is None:
            raise UsageError(
                "preset auto looks at the data before it chooses: give them, as in --data data/ml-1m"
            )
        config, decisions, facts, machine = config.decide(
            data_folder(data), _has_gpu() if gpu is None else gpu
        )
        if explain:
            _explain(config, decisions, facts, machine, tuple(assigned(assignments)))
            _train_with_this()
            return
    elif explain:
        raise UsageError(
            f"--explain says what auto decided; preset {config.preset} is as it stands in the documents"
        )
    if fields:
        _show_fields(config)
    else:
        click.echo(config.model_dump_json(indent=2))
    _train_with_this()


def _train_with_this() -> None:
    """Say how to train with what was shown; on stderr, since stdout may go into a file."""
    context = click.get_current_context()
    words = []
    for parameter in context.command.params:
        name, value = parameter.name or "", context.params[parameter.name or ""]
        given = context.get_parameter_source(name) is ParameterSource.COMMANDLINE
        if not given or name in ("fields", "explain", "gpu"):
            continue
        for one in value if parameter.multiple else [value]:
            text = ":".join(str(number) for number in one if number is not None) if name == "workers" else one
            words += [parameter.opts[0], quoted(str(text))]
    if context.params["data"] is None:
        words = ["--data", "DATA", *words]
        if "--preset" not in words:
            words += ["--preset", context.params["preset_name"]]
    say_next(" ".join(["ss4rec train", *words]), err=True)


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def _explain(
    config: RunConfig, decisions: list[Decision], facts: Facts, machine: Machine, own: tuple[str, ...]
) -> None:
    """Print what was seen and what it decided."""
    for line in headline(facts, machine, config):
        click.echo(line)
    click.echo()
    rows = list(explained(config, decisions, own))
    fields, values = max(len(row[0]) for row in rows), max(len(row[1]) for row in rows[:99])
    last = ""
    for field, value, reason in rows:
        if reason not in ("as above", last):
            click.echo(textwrap.fill(f"# {reason}", 78, subsequent_indent="#   "))
        last = reason
        click.echo(f"  {field:<{fields}}  {value:<{min(values, 30)}}")


def _show_fields(config: RunConfig) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("field", config.preset, "meaning", title="Configuration", title_justify="left")
    for name, value, meaning in _rows(config, ""):
        table.add_row(name, value, meaning)
    Console().print(table)


def _rows(section: BaseModel, prefix: str) -> list[tuple[str, str, str]]:
    rows = []
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        if isinstance(value, BaseModel):
            rows += _rows(value, f"{prefix}{name}.")
        else:
            rows.append((prefix + name, str(value), field.description or ""))
    return rows
