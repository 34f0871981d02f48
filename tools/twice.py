"""Lists runs of ten lines or more that stand twice in the product, letter by letter or with other names.

    python -m tools.twice [--lines 10]

Blank lines, comments, docstrings, imports and lines of punctuation alone do not count. With other names: the same
after names, numbers and texts have been replaced by the order in which they first come, so `a = b + a` is `c = d + c`
but not `c = d + d`; words of Python and names of its own (`len`, `int`) stay. Runs that are mostly lists (fields,
arguments, entries of a table) are alike in shape without meaning the same, so only letter by letter counts there.
Exit code 1 with a line for each pair.
"""

from __future__ import annotations

import argparse
import ast
import builtins
import io
import keyword
import re
import sys
import tokenize
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
PRODUCT = ("ss4rec", "ray_jobs", "cluster", "drift", "tuning")
OWN = frozenset((*dir(builtins), *keyword.kwlist, "self", "Tensor"))
ENTRY = re.compile(r'^[*"\'\w.\[\](){}, |=:-]*[,\]})]*$|^\w+: [\w\[\], .|]+( = .*)?$')
"""A field, a parameter, an argument or an entry of a table."""
SKIPPED = (
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
)


class Line(NamedTuple):
    """A line that counts."""

    number: int
    text: str
    tokens: tuple[str, ...]


class Place(NamedTuple):
    """Where a run begins."""

    file: Path
    index: int
    """Among the lines of the file that count."""


def lines_of(source: str) -> list[Line]:
    """Return the lines of a program that count."""
    tree, left_out = ast.parse(source), set()
    for node in ast.walk(tree):
        texts = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if texts or isinstance(node, ast.Import | ast.ImportFrom):
            left_out.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    tokens = defaultdict(list)
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in SKIPPED:
            tokens[token.start[0]].append(token.string)
    rows = source.splitlines()
    return [
        Line(number, rows[number - 1].strip(), tuple(found))
        for number, found in sorted(tokens.items())
        if number not in left_out and re.search(r"\w", "".join(found))
    ]


def renamed(run: list[Line]) -> tuple[tuple[str, ...], ...]:
    """Return a run with names, numbers and texts replaced by the order in which they first come."""
    order: dict[str, str] = {}
    return tuple(
        tuple(
            order.setdefault(token, f"#{len(order)}")
            if token not in OWN and (token[0].isalnum() or token[0] in "_\"'")
            else token
            for token in line.tokens
        )
        for line in run
    )


def places(files: dict[Path, list[Line]], length: int) -> Iterator[list[Place]]:
    """Give the places of every run of `length` lines that stands more than once."""
    same, other = defaultdict(list), defaultdict(list)
    for file, lines in files.items():
        for index in range(len(lines) - length + 1):
            run = lines[index : index + length]
            same[tuple(line.text for line in run)].append(Place(file, index))
            if sum(bool(ENTRY.match(line.text)) for line in run) <= length / 2:
                other[renamed(run)].append(Place(file, index))
    for found in (*same.values(), *other.values()):
        if len(found) > 1:
            yield found


def twice(length: int) -> list[str]:
    """Return a sentence for each pair of places that share a run of `length` lines or more."""
    paths = [path for folder in PRODUCT for path in sorted((ROOT / folder).rglob("*.py"))]
    files = {path: lines_of(path.read_text()) for path in paths}
    pairs = {
        (one, two)
        for found in places(files, length)
        for position, one in enumerate(found)
        for two in found[position + 1 :]
        if one.file != two.file or abs(one.index - two.index) >= length
    }
    said = []
    for one, two in sorted(pairs):
        if (one._replace(index=one.index - 1), two._replace(index=two.index - 1)) in pairs:
            continue  # inside of a longer run
        extra = 0
        while (one._replace(index=one.index + extra), two._replace(index=two.index + extra)) in pairs:
            extra += 1
        where = [
            f"{place.file.relative_to(ROOT)}:{files[place.file][place.index].number}" for place in (one, two)
        ]
        said.append(f"{where[0]} and {where[1]}: {length + extra - 1} lines")
    return said


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--lines", type=int, default=10, help="length of a run (default: 10)")
    found = twice(parser.parse_args().lines)
    print("\n".join(found) or "no run of lines stands twice")
    sys.exit(bool(found))
