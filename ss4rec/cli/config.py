"""`ss4rec config`: print a resolved configuration, or every field with its default and meaning."""

from __future__ import annotations

import click
from pydantic import BaseModel

from ss4rec.cli.options import Workers, config_options, resolve_config
from ss4rec.config import RunConfig


@click.command("config")
@config_options(default_preset="paper")
@click.option("--fields", is_flag=True, help="List every field with its default and meaning.")
def config_command(
    preset_name: str,
    protocol_name: str | None,
    assignments: tuple[str, ...],
    workers: Workers | None,
    fields: bool,
) -> None:
    """Print the configuration that the same options give to `train`, as JSON."""
    config = resolve_config(preset_name, assignments, workers, protocol_name)
    if fields:
        _show_fields(config)
    else:
        click.echo(config.model_dump_json(indent=2))


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
