"""What a verb prints last: what it found, in sentences, and what to try next."""

from __future__ import annotations

import shlex
import shutil
import sys
import textwrap
from typing import TYPE_CHECKING

import click

from ss4rec.train.status import shown

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


def say_sentences(text: str, err: bool = False) -> None:
    """Print sentences: a terminal gets them broken between words, a program a line each as they are.

    Args:
        text: one or more lines; an indent is kept.
        err: print to stderr.
    """
    terminal = (sys.stderr if err else sys.stdout).isatty()
    click.echo(wrapped(text, shutil.get_terminal_size().columns) if terminal else text, err=err)


def wrapped(text: str, width: int) -> str:
    """Return lines of at most `width` characters, broken between words; a word that is longer stays whole."""
    wrapper = textwrap.TextWrapper(width, break_long_words=False, break_on_hyphens=False)
    return "\n".join(line if len(line) <= width else wrapper.fill(line) for line in text.split("\n"))


def quoted(path: str | AnyPath) -> str:
    """Return a path as a shell takes it here."""
    return shlex.quote(shown(path))
