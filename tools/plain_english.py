"""Check the user guide and the README: no sentence over 30 words, no line over 120 characters, code too.

python -m tools.plain_english [FILE ...]

The pages are those that mkdocs.yml has under "User guide". The lines of all other pages are looked at too, but for rows
of tables, which cannot be broken.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent
MAX_WORDS, MAX_LINE = 30, 120
CODE = re.compile(r"^(```|:::|<!--|!\[)")
END = re.compile(r"(?<=[.!?:])\s+")


def pages() -> list[Path]:
    """Return what is checked."""
    tabs = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]
    (guide,) = [tab["User guide"] for tab in tabs if "User guide" in tab]
    names = ["index.md", *(name for page in guide for name in page.values())]
    return [ROOT / "README.md", *(ROOT / "docs" / name for name in names)]


def other_pages() -> list[Path]:
    """Return the pages of which lines alone are checked."""
    found = [ROOT / name for name in ("CONTRIBUTING.md", "SECURITY.md", "benchmarks/NOTES.md")]
    return sorted({*found, *(ROOT / "docs").rglob("*.md")} - set(pages()))


def paragraphs(text: str) -> Iterator[tuple[int, str]]:
    """Yield (first line, text) of each paragraph, list item and table cell; code is left out."""
    inside_code, first, words = False, 0, ""
    for number, line in enumerate([*text.splitlines(), ""], start=1):
        stripped = line.strip()
        if stripped.startswith("```"):
            inside_code = not inside_code
        begins = not stripped or bool(re.match(r"([-*|#]|\d+\.)\s?", stripped)) or inside_code
        if begins and words:
            yield first, words
            words = ""
        if inside_code or not stripped or CODE.match(stripped) or line.startswith("    "):
            continue
        if stripped.startswith("|"):
            for cell in stripped.strip("|").split("|"):
                yield number, cell.strip()
            continue
        first = first if words else number
        words = f"{words} {stripped}".strip()


def long_lines(path: Path, *, tables: bool) -> Iterator[str]:
    """Yield the lines of a page that are too long, of code as well; of tables only where asked for."""
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if len(line) > MAX_LINE and (tables or not line.startswith("|")):
            yield f"{path.name}:{number}: {len(line)} characters, at most {MAX_LINE}"


def problems(path: Path) -> Iterator[str]:
    """Yield what is wrong with a page."""
    yield from long_lines(path, tables=True)
    for number, paragraph in paragraphs(path.read_text(encoding="utf-8")):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", paragraph)
        for sentence in END.split(plain):
            words = [word for word in sentence.split() if any(letter.isalnum() for letter in word)]
            if len(words) > MAX_WORDS:
                yield f"{path.name}:{number}: {len(words)} words, at most {MAX_WORDS}: {sentence[:70]}..."


def main(arguments: list[str]) -> int:
    """Print what is wrong; return 1 if anything is."""
    chosen = list(map(Path, arguments)) or pages()
    found = [line for path in chosen for line in problems(path)]
    if not arguments:
        found += [line for path in other_pages() for line in long_lines(path, tables=False)]
    print("\n".join(found) or f"{len(chosen)} pages are plain enough")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
