"""Hooks of the documentation site: pages made from the code, and links that leave the site.

`<!-- generated: NAME -->` in a page becomes a table of commands, presets or fields. Files beside docs/ that belong to
the site are taken in (`TAKEN`). A link to any other file of the checkout becomes its path, after a look that it is
there: a link to nothing is a warning, and `make docs` takes warnings for errors.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
from mkdocs.structure.files import File, Files
from pydantic import BaseModel

ROOT = Path(__file__).resolve().parent.parent
TAKEN = {"contributing.md": "CONTRIBUTING.md", "notes.md": "benchmarks/NOTES.md"}
"""Pages of the site that lie elsewhere in the checkout."""
MARK = re.compile(r"^<!-- generated: (\w+) -->$", re.MULTILINE)
LINK = re.compile(r"\[([^\]]*)\]\(([^)#\s]+)(#[^)\s]*)?\)")
log = logging.getLogger("mkdocs.hooks.docs")


def on_files(files: Files, config: Any) -> Files:
    """Take in the pages that lie elsewhere."""
    for name, source in TAKEN.items():
        files.append(File.generated(config, name, content=(ROOT / source).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Fill in what is generated and see to links that leave the site."""
    uri = page.file.src_uri
    base = (ROOT / TAKEN[uri]).parent if uri in TAKEN else (ROOT / "docs" / uri).parent
    markdown = MARK.sub(lambda found: GENERATED[found[1]](), markdown)
    pages = {os.path.normpath(ROOT / path): name for name, path in TAKEN.items()}
    pages |= {os.path.normpath(ROOT / "docs" / name): name for name in files.src_uris}

    def replaced(found: re.Match[str]) -> str:
        text, target, anchor = found[1], found[2], found[3] or ""
        if re.match(r"[a-z]+:", target):
            return found[0]
        path = os.path.normpath(base / target)
        if path in pages:
            return f"[{text}]({os.path.relpath(pages[path], os.path.dirname(uri) or '.')}{anchor})"
        if not os.path.exists(path):
            log.warning(f"{uri}: link to {target}, which does not exist")
        shown = os.path.relpath(path, ROOT)
        return f"`{shown}`" if text.strip("`") in (shown, target) else f"{text} (`{shown}`)"

    return LINK.sub(replaced, markdown)


def commands() -> str:
    """Return every verb with its options."""
    from ss4rec.cli import main_group

    parts = []
    for name, command in _leaves(main_group, "ss4rec"):
        context = click.Context(command, info_name=name)
        rows = []
        for parameter in command.get_params(context):
            record = parameter.get_help_record(context) if isinstance(parameter, click.Option) else None
            if record and record[0] != "--help":
                rows.append(f"| {_code(record[0])} | {_cell(record[1])} |")
        arguments = "".join(
            f" {p.make_metavar(context)}" for p in command.params if isinstance(p, click.Argument)
        )
        help_text = "\n\n".join(" ".join(part.split()) for part in (command.help or "").split("\n\n"))
        table = "\n".join(["| option | meaning |", "|---|---|", *rows]) if rows else ""
        parts.append(f"## {name}\n\n`{name}{arguments} [OPTIONS]`\n\n{help_text}\n\n{table}")
    return "\n\n".join(parts)


def _leaves(group: click.Group, prefix: str) -> Iterator[tuple[str, click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if isinstance(command, click.Group):
            yield from _leaves(command, f"{prefix} {name}")
        elif command is not None:
            yield f"{prefix} {name}", command


def presets() -> str:
    """Return every preset with what it says about itself."""
    from ss4rec.presets import PRESETS

    about = {name: (make.__doc__ or "").split("\n\n")[0] for name, make in PRESETS.items()}
    rows = [f"| `{name}` | {_cell(text)} |" for name, text in about.items()]
    chosen = "| `auto` | Looks at the data and the machine and chooses; the default of `ss4rec train`. |"
    return "\n".join(["| preset | what it is |", "|---|---|", chosen, *rows])


def fields() -> str:
    """Return every field of a run."""
    from ss4rec.config import RunConfig

    return _fields(RunConfig)


def drift() -> str:
    """Return every field of a drift report."""
    from drift.config import DriftConfig

    return _fields(DriftConfig)


def _fields(section: type[BaseModel]) -> str:
    rows = [f"| `{name}` | {default} | {meaning} |" for name, default, meaning in _rows(section, "")]
    return "\n".join(["| field | default | meaning |", "|---|---|---|", *rows])


def _rows(section: type[BaseModel], prefix: str) -> Iterator[tuple[str, str, str]]:
    for name, field in section.model_fields.items():
        if isinstance(field.default, BaseModel):
            yield from _rows(type(field.default), f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", _code(str(field.default)), _cell(field.description or "")


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("<", "&lt;").replace("|", "&#124;")


def _code(text: str) -> str:
    return f"<code>{_cell(text)}</code>"


GENERATED: dict[str, Callable[[], str]] = {
    "commands": commands,
    "presets": presets,
    "fields": fields,
    "drift": drift,
}
