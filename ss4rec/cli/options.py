"""Options that several verbs share, and how they become a configuration."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import click

from ss4rec.config import RunConfig, override, parse_config
from ss4rec.errors import ConfigError, DataError
from ss4rec.files import parse_json, read_json
from ss4rec.presets import preset


def config_options(default_preset: str) -> Callable[[Callable], Callable]:
    """Add --preset, --set and --workers to a command."""

    def add(function: Callable) -> Callable:
        for option in (
            click.option(
                "--workers", type=click.IntRange(min=1), help="Training workers (resources.workers)."
            ),
            click.option(
                "--set",
                "assignments",
                multiple=True,
                metavar="FIELD=VALUE",
                help="Override a field, as in --set model.dim=128. `ss4rec config --fields` lists them.",
            ),
            click.option(
                "--preset",
                "preset_name",
                default=default_preset,
                show_default=True,
                help="A named configuration, or a JSON file of one (config.json of a run).",
            ),
        ):
            function = option(function)
        return function

    return add


def resolve_config(preset_name: str, assignments: Iterable[str], workers: int | None = None) -> RunConfig:
    """Build the configuration that a command line asks for.

    Raises:
        ConfigError: unknown preset, assignment without `=`, or refused values; all problems at once.
    """
    base = _from_file(Path(preset_name)) if preset_name.endswith(".json") else preset(preset_name)
    changes: dict[str, Any] = {} if workers is None else {"resources.workers": workers}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not equals:
            raise ConfigError(
                f"--set {assignment!r} has no value; write --set FIELD=VALUE, as in model.dim=128"
            )
        changes[name.strip()] = _value(text.strip())
    return override(base, changes)


def data_folder(path: Path) -> Path:
    """Return the absolute path of a prepared folder after looking at its manifest.

    Raises:
        DataError: if it is missing, of another version, or a shard has the wrong size.
    """
    from ss4rec.data.manifest import Manifest

    if not path.exists():
        raise DataError(
            f"no data folder {path}; make it with `ss4rec data prepare --source ... --out {path}`"
        )
    folder = path.resolve()
    Manifest.load(folder).quick_check(folder)
    return folder


def _from_file(path: Path) -> RunConfig:
    try:
        return parse_config(read_json(path))
    except (OSError, ValueError) as error:
        raise ConfigError(f"--preset {path} cannot be read as JSON: {error}") from None


def _value(text: str) -> Any:
    """Read a value as JSON; what is no JSON is a string."""
    try:
        return parse_json(text)
    except ValueError:
        return text
