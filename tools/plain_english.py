"""Check the user guide and the README: no sentence over 30 words, no line over 120 characters.

python -m tools.plain_english [FILE ...]

The pages are those that mkdocs.yml has under "User guide".
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


def problems(path: Path) -> Iterator[str]:
    """Yield what is wrong with a page."""
    text = path.read_text(encoding="utf-8")
    for number, line in enumerate(text.splitlines(), start=1):
        if len(line) > MAX_LINE:
            yield f"{path.name}:{number}: {len(line)} characters, at most {MAX_LINE}"
    for number, paragraph in paragraphs(text):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", paragraph)
        for sentence in END.split(plain):
            words = [word for word in sentence.split() if any(letter.isalnum() for letter in word)]
            if len(words) > MAX_WORDS:
                yield f"{path.name}:{number}: {len(words)} words, at most {MAX_WORDS}: {sentence[:70]}..."


def main(arguments: list[str]) -> int:
    """Print what is wrong; return 1 if anything is."""
    found = (
        [line for path in map(Path, arguments) for line in problems(path)]
        if arguments
        else [line for path in pages() for line in problems(path)]
    )
    print("\n".join(found) or f"{len(arguments or pages())} pages are plain enough")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
