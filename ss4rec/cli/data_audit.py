"""`ss4rec data audit`: say what is wrong with a prepared folder before anyone trains."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ss4rec.cli.options import data_folder, resolve_protocol, set_option
from ss4rec.cli.steps import quoted, say_next
from ss4rec.train.status import shown

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from ss4rec.data.audit import Audit, Light

_MARKS = {"good": ("●", "green"), "warn": ("▲", "yellow"), "bad": ("■", "red")}
_STRONGEST_FIRST = ("bad", "warn", "good")


@click.command("audit")
@click.option("--data", required=True, type=click.Path(path_type=Path), help="A prepared folder.")
@click.option(
    "--split",
    "split_name",
    metavar="NAME|FILE|DATE",
    help="How it would be divided: leave-one-out (default), time-to-split, recbole, s3rec, a JSON file, or the last "
    "day of training, as in 2024-03-31.",
)
@set_option("Change a field of the protocol, as in --set protocol.cut=0.8.")
@click.option(
    "--users",
    type=click.IntRange(min=1),
    default=2000,
    show_default=True,
    help="Users whom simple scorers rank.",
)
@click.option("--html", type=click.Path(path_type=Path), metavar="FILE", help="Write a page with pictures.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def audit_command(
    data: Path,
    split_name: str | None,
    assignments: tuple[str, ...],
    users: int,
    html: Path | None,
    as_json: bool,
) -> None:
    """Look at a prepared folder: sizes, times, repeats, robots, holes, cold items, leaks, what is easy.

    Each finding has a light, green, yellow or red, with the rule beside it and what follows for protocol and
    configuration. Nothing is trained.
    """
    import torch
    from rich.console import Console

    from ss4rec.data.audit import audit
    from ss4rec.protocol.named import protocol_or_cut
    from ss4rec.protocol.settings import Protocol
    from ss4rec.report import write_page

    folder = data_folder(data)
    start = protocol_or_cut(split_name) if split_name else Protocol()
    protocol = resolve_protocol(start, None, assignments)
    with Console(stderr=True).status("reading") as status:
        found = audit(folder, protocol, users=users, gpu=torch.cuda.is_available(), progress=status.update)
    if html:
        write_page(html, found.to_html())
    if as_json:
        click.echo(json.dumps(found.to_dict() | {"page": str(html) if html else None}))
        return
    show_audit(Console(highlight=False), found)
    if html:
        click.echo(f"page: {shown(html)}")
    option = next((choice.value for choice in found.choices if choice.field == "--protocol"), None)
    say_next(f"ss4rec train --data {quoted(data)}{f' --protocol {option}' if option else ''}")


def show_audit(console: Console, found: Audit) -> None:
    """Print an audit in 80 columns: lights with their rules, the strongest first, then what follows."""
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    console.print(found.headline, style="bold", soft_wrap=True)
    for tone in _STRONGEST_FIRST:
        lights = [light for light in found.lights if light.tone == tone]
        table = Table.grid(padding=(0, 1))
        table.add_column(no_wrap=True)
        table.add_column(ratio=1)
        for light in lights:
            mark, colour = _MARKS[tone]
            table.add_row(Text(mark, colour), _words(light, tone != "good"))
        if lights:
            console.print()
            console.print(table)
    console.print("\nwhat follows", style="bold")
    for choice in found.choices:
        text = Text.assemble((f"{choice.field} {choice.value}", "bold"), f"  {choice.reason}")
        console.print(Padding(text, (0, 0, 0, 2)))
    console.print("\nwhat --preset auto would do", style="bold")
    for line in found.configuration:
        console.print(Padding(Text(line), (0, 0, 0, 2)))


def _words(light: Light, at_length: bool) -> Text:
    """Return a light's topic and finding; at length its rule and advice too."""
    from rich.text import Text

    parts: list[str | tuple[str, str]] = [(light.topic, "bold"), f"  {light.found}\n"]
    parts.append((f"rule: {light.rule}", "dim"))
    if at_length:
        parts.append(f"\n{light.advice}")
    return Text.assemble(*parts)
