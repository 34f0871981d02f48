"""From a template and values to one HTML file that needs nothing else."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from ss4rec.io.atomic import write_whole
from ss4rec.report.axis import label


@dataclass(frozen=True)
class Cell:
    """A table cell with a colour or a tooltip."""

    text: Any
    tone: str = ""
    tip: str = ""


def render(package: str, template: str, /, **values: Any) -> str:
    """Return a page.

    Args:
        package: import name of the package with the folder `templates`.
        template: file name in it; it extends `page.html.j2`.
        **values: what the template shows. Texts are escaped; charts, which are `Markup`, are not.

    Raises:
        jinja2.UndefinedError: if the template names a value that is missing.
    """
    return _environment(package).get_template(template).render(**values)


def write_page(path: Path, text: str) -> None:
    """Write a page so that a reader finds the old one or the new one, never a part."""
    write_whole(path, text.encode())


@cache
def _environment(package: str) -> Environment:
    """Return Jinja with the templates of a package and those of all reports."""
    environment = Environment(
        loader=ChoiceLoader([PackageLoader(package), PackageLoader("ss4rec.report")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    folder = files("ss4rec.report") / "templates"
    style, script = ((folder / name).read_text(encoding="utf-8") for name in ("style.css", "page.js"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    # Both are files of this package, and nothing from data is in them.
    own = {"style": Markup(style), "script": Markup(script)}  # nosec B704
    environment.globals |= own | {"script_digest": digest}
    environment.filters["number"] = label
    environment.filters["rank"] = lambda value: "none" if value == float("inf") else f"{value:,.10g}"
    environment.tests["cell"] = lambda value: isinstance(value, Cell)
    return environment
