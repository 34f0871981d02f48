"""What to try next: the last lines that a verb prints."""

from __future__ import annotations

import os
import shlex
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from ss4rec.io.paths import AnyPath


def say_next(*commands: str, err: bool = False) -> None:
    """Print commands, one a line, never cut: they are to be copied.

    Args:
        commands: what may be run next, as one types it.
        err: print to stderr, where stdout is for a program.
    """
    for number, command in enumerate(commands):
        click.echo(f"{'next:' if number == 0 else '     '} {command}", err=err)


def shown(path: str | AnyPath) -> str:
    """Return a path as a reader types it here: from the working directory on, if it lies below."""
    text, here = str(path), os.getcwd() + os.sep
    return text.removeprefix(here)


def quoted(path: str | AnyPath) -> str:
    """Return a path as a shell takes it here."""
    return shlex.quote(shown(path))
