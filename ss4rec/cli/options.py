"""Options that several verbs share, and how they become a configuration."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ss4rec.auto.choose import usable_minutes
from ss4rec.auto.resolve import Auto
from ss4rec.config import RunConfig, override, parse_config
from ss4rec.errors import ConfigError, DataError
from ss4rec.io.paths import AnyPath, to_path
from ss4rec.io.untrusted import parse_json, read_json
from ss4rec.presets import AUTO, PRESETS, preset
from ss4rec.protocol.named import protocol_of
from ss4rec.protocol.settings import Protocol

if TYPE_CHECKING:
    from ss4rec.data.prepared.folder import PreparedFolder

Workers = tuple[int, int | None]
"""Fewest and most workers; None: a fixed number."""


class WorkerRange(click.ParamType):  # type: ignore[type-arg]  # click 8.1 takes no argument here
    """`N`, or `MIN:MAX` for an elastic run; gives the pair (fewest, most or None)."""

    name = "N|MIN:MAX"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Workers:
        """Parse the option; click shows a refusal."""
        if isinstance(value, tuple):
            return value
        least, colon, most = value.partition(":")
        numbers = (least, most) if colon else (least,)
        if not all(number.isdecimal() and int(number) for number in numbers):
            self.fail(f"{value!r}: write a number of workers, or MIN:MAX as in 1:8", param, ctx)
        if colon and int(most) < int(least):
            self.fail(f"{value!r}: the first number is the least and must not be the larger one", param, ctx)
        return int(least), int(most) if colon else None


def protocol_option(what: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return the option --protocol."""
    return click.option(
        "--protocol",
        "protocol_name",
        metavar="NAME|FILE",
        help=f"{what}: leave-one-out, time-to-split, recbole, s3rec, or a JSON file. "
        "--set protocol.FIELD=VALUE changes a field.",
    )


def set_option(about: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return the option --set; `assigned` reads what it gives."""
    return click.option("--set", "assignments", multiple=True, metavar="FIELD=VALUE", help=about)


def workers_option(about: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return the option --workers, which gives `Workers`."""
    return click.option("--workers", type=WorkerRange(), help=about)


def config_options(default_preset: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Add --preset, --protocol, --set and --workers to a command."""

    def add(function: Callable[..., Any]) -> Callable[..., Any]:
        for option in (
            workers_option(
                "Training workers (resources.workers), or MIN:MAX, as in 1:8: as many as there is room for "
                "while nodes come and go."
            ),
            set_option("Override a field, as in --set model.dim=128; `ss4rec config --fields` lists all."),
            protocol_option("How to divide events into training, validation and test"),
            click.option(
                "--preset",
                "preset_name",
                default=default_preset,
                show_default=True,
                help=f"A named configuration ({', '.join(PRESETS)}), or @FILE: config.json of a run, best.json of a "
                "sweep.",
            ),
        ):
            function = option(function)
        return function

    return add


def resolve_config(
    start: str | RunConfig,
    assignments: Iterable[str],
    workers: Workers | None = None,
    protocol_name: str | None = None,
) -> RunConfig:
    """Build the configuration that a command line asks for.

    Args:
        start: a configuration, a preset's name, or a JSON file (`@PATH`, or a path that ends in `.json`) of a run's
            `config.json` or a sweep's `best.json`.
        assignments: `FIELD=VALUE` texts.
        workers: `resources.workers` and `resources.max_workers`, if given.
        protocol_name: a protocol's name or file, instead of that of `start`.

    Raises:
        ConfigError: unknown preset, assignment without `=`, or refused values; all problems at once.
    """
    changes = assigned(assignments)
    if workers is not None:
        changes |= {"resources.workers": workers[0], "resources.max_workers": workers[1]}
    config = start if isinstance(start, RunConfig) else _named(start)
    if protocol_name is not None:
        config = config.model_copy(update={"protocol": protocol_of(protocol_name)})
    own = {name: value for name, value in changes.items() if name.startswith("protocol.")}
    if own and "protocol.name" not in own:
        texts = (f"{name.removeprefix('protocol.')}={value}" for name, value in own.items())
        changes["protocol.name"] = f"{config.protocol.name} with {', '.join(texts)}"
    return override(config, changes)


def minutes_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add --minutes."""
    return click.option(
        "--minutes",
        type=click.FloatRange(min=0, min_open=True),
        help="Time for the whole run. The schedule ends with it, and `auto` chooses what fits.",
    )(function)


def resolve_train(
    preset_name: str,
    assignments: Iterable[str],
    workers: Workers | None,
    protocol_name: str | None,
    minutes: float | None,
    start_from: RunConfig | None = None,
) -> RunConfig | Auto:
    """Build what a command line asks to train: a configuration, or `auto`, which needs the data first.

    `start_from` is the configuration of the run that a warm start goes on from; it stands in for `auto`.

    Raises:
        ConfigError: as `resolve_config`.
    """
    if preset_name == AUTO and start_from is None:
        plain = resolve_config(RunConfig(preset=AUTO), assignments, workers, protocol_name)
        changes = assigned(assignments)
        if workers is not None:
            changes |= {"resources.workers": workers[0], "resources.max_workers": workers[1]}
        own = {name: value for name, value in changes.items() if not name.startswith("protocol.")}
        return Auto(plain.protocol, own, minutes)
    start = start_from if start_from is not None and preset_name == AUTO else preset_name
    config = resolve_config(start, assignments, workers, protocol_name)
    if minutes is None:
        return config
    return override(config, {"train.max_minutes": usable_minutes(minutes), "train.fit_minutes": True})


def resolve_protocol(start: Protocol, name: str | None, assignments: Iterable[str]) -> Protocol:
    """Build the protocol that a command line asks for, where nothing else can be set.

    Raises:
        ConfigError: for another field than those of the protocol, and as `resolve_config`.
    """
    assignments = tuple(assignments)
    if others := [field for field in assigned(assignments) if not field.startswith("protocol.")]:
        raise ConfigError(
            f"--set {', '.join(others)}: only fields of the protocol can be set here (protocol.FIELD)"
        )
    return resolve_config(RunConfig(protocol=start), assignments, protocol_name=name).protocol


def assigned(assignments: Iterable[str], example: str = "model.dim=128") -> dict[str, Any]:
    """Return the values of `FIELD=VALUE` texts by field; values are JSON or plain strings.

    Args:
        assignments: as given to --set.
        example: an assignment that would be right, for the error.

    Raises:
        ConfigError: if one has no `=`.
    """
    changes: dict[str, Any] = {}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not equals:
            raise ConfigError(f"--set {assignment!r} has no value; write --set FIELD=VALUE, as in {example}")
        changes[name.strip()] = _value(text.strip())
    return changes


class FolderOrUri(click.ParamType):  # type: ignore[type-arg]  # as above
    """A path, or `s3://..` and its like; gives what `ss4rec.io.paths.to_path` gives."""

    name = "PATH|URI"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> AnyPath:
        """Parse the option; raises DataError for a scheme that nothing can open."""
        return to_path(value)


def data_folder(path: AnyPath) -> PreparedFolder:
    """Open a prepared folder by its absolute path and check the sizes of its files; a bare name may mean `data/NAME`.

    Raises:
        DataError: if it is missing, of another version, or a shard has the wrong size.
    """
    from ss4rec.data.prepared.folder import PreparedFolder

    known = Path("data") / path.name
    if not path.exists() and path.name == str(path) and known.is_dir():
        path = known
    if not path.exists():
        raise DataError(
            f"no data folder {path}; make it with `ss4rec data prepare --source ... --out {path}`"
        )
    folder = PreparedFolder.open(path.resolve())
    folder.quick_check()
    return folder


def _named(name: str) -> RunConfig:
    if not name.startswith("@") and not name.endswith(".json"):
        return preset(name)
    path = Path(name.removeprefix("@"))
    try:
        raw = read_json(path)
    except (OSError, ValueError) as error:
        raise ConfigError(f"--preset {name} cannot be read as JSON: {error}") from None
    return parse_config(raw.get("config", raw) if isinstance(raw, dict) else raw)


def _value(text: str) -> Any:
    """Read a value as JSON; what is no JSON is a string."""
    try:
        return parse_json(text)
    except ValueError:
        return text
