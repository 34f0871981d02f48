"""Lists on the command line: `name=value,..` and the like."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from ss4rec.data.prepared.manifest import EventTargets


def pairs_of(what: str, example: str) -> Callable[..., dict[str, str]]:
    """Return the callback of an option that takes `name=value,name=value`, as a dictionary.

    Args:
        what: what the two sides are, as in `role=column`.
        example: how to write it.
    """

    def parse(context: click.Context, option: click.Parameter, text: str | None) -> dict[str, str]:
        pairs = [part.partition("=") for part in (text or "").split(",") if part]
        if wrong := [name for name, _, value in pairs if not (name and value)]:
            raise click.BadParameter(f"{wrong[0]!r} is not {what}; write {example}")
        return {name.strip(): value.strip() for name, _, value in pairs}

    return parse


parse_columns = pairs_of("role=column", "user=..,item=..,time=..,rating=..")
parse_kinds = pairs_of("name=kind", "as in price=number,brand=categorical")


def parse_names(context: click.Context, option: click.Parameter, text: str | None) -> tuple[str, ...]:
    """Parse `device,price` into names, each once."""
    return tuple(dict.fromkeys(name.strip() for name in (text or "").split(",") if name.strip()))


def parse_targets(context: click.Context, option: click.Parameter, text: str | None) -> EventTargets | None:
    """Parse `event=purchase|gift`.

    Raises:
        click.BadParameter: if it is not `column=value`.
    """
    from ss4rec.data.prepared import event_columns
    from ss4rec.errors import ConfigError

    try:
        return event_columns.parse_targets(text) if text else None
    except ConfigError as error:
        raise click.BadParameter(str(error)) from None
