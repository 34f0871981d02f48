"""Writes docs/tree.md, every file of the product in a line; with `--check` it only says whether the page is right.

    python tools/tree.py [--check]

A line is the first sentence of the file's docstring, so that the page can't differ from the code.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from itertools import groupby
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "tree.md"
FOLDERS = ("ss4rec", "ray_jobs", "cluster", "tuning", "drift")
HEAD = """# The tree

Every file in a line, the folders in alphabetical order. [Architecture](architecture.md) has them in the order in which
data pass them. `python tools/tree.py` writes this page from the files' own first sentences.
"""


def first_sentence(path: Path) -> str:
    """Return the first sentence of a module's docstring, in one line."""
    text = " ".join((ast.get_docstring(ast.parse(path.read_text())) or "").split("\n\n")[0].split())
    end = text.find(". ")
    return text if end < 0 else text[: end + 1]


def page() -> str:
    """Return the text of the page."""
    listed = subprocess.run(
        ["git", "ls-files", "--", *(f"{folder}/*.py" for folder in FOLDERS)],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    files = sorted(map(Path, listed.stdout.split()), key=lambda path: (path.parent.parts, path.name))
    parts = [HEAD]
    for folder, members in groupby(files, key=lambda path: path.parent):
        named = {path.stem: first_sentence(ROOT / path) for path in members}
        parts.append(f"\n## {folder}/\n\n{named.pop('__init__', '')}\n".rstrip() + "\n")
        if named:
            parts.append("\n| file | what it is |\n| --- | --- |\n")
        parts += [f"| `{name}` | {text.replace('|', chr(92) + '|')} |\n" for name, text in named.items()]
    return "".join(parts)


def main() -> int:
    """Write the page, or say that it is out of date."""
    text = page()
    if "--check" not in sys.argv[1:]:
        PAGE.write_text(text)
        return 0
    if PAGE.is_file() and PAGE.read_text() == text:
        return 0
    print("docs/tree.md is out of date: run `python tools/tree.py`")
    return 1


if __name__ == "__main__":
    sys.exit(main())
