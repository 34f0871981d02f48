"""The beginning of a delimited file: what delimits its fields, whether it has a header, how rows end."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt
import pyarrow as pa

from ss4rec.data.sources.archive import Archive
from ss4rec.data.sources.packed import OTHER_MAGIC, damage_named
from ss4rec.data.sources.quotes import NO_QUOTES, UTF8_BOM, field_quotes, is_quoted, split_fields
from ss4rec.errors import DataError

HEAD_BYTES = 1 << 18
"""Text that is looked at first; more only where the first row is longer."""
MAX_ROW_BYTES = 64 << 20
"""Longest row, and longest quoted field, that is read."""
SAMPLE_ROWS = 1000
"""Rows that are looked at."""
BLANKS = "blanks"
"""Stands for runs of blanks and tabs."""
DELIMITERS = (",", "\t", ";", "|", "::", " ", BLANKS)
"""What is tried, in this order; a file's suffix may put another first."""
DELIMITER_NAMES = {
    "comma": ",",
    "tab": "\t",
    "\\t": "\t",
    "semicolon": ";",
    "pipe": "|",
    "blank": " ",
    "space": " ",
    "blanks": BLANKS,
}
"""Words for delimiters that are hard to type."""
MIN_CONSISTENT = 0.9
"""Fraction of rows that must have as many fields as the first, if nothing else tells the delimiter."""


@dataclass(frozen=True)
class Head:
    """The beginning of a delimited file."""

    delimiter: str
    """One character, `::`, or BLANKS."""
    quotes: bool
    """Whether fields may stand in double quotes."""
    rows: tuple[tuple[str, ...], ...]
    """Fields of the first rows, the header among them."""
    starts: tuple[int, ...]
    """First byte of each row, and of one more that the beginning of the file cuts off."""
    newline: bytes
    """Where rows may be cut."""
    quoted: bool
    """Whether a quoted field was seen."""


def delimiter_of(text: str) -> str:
    """Return the delimiter that a word or a character names.

    Raises:
        DataError: if it is not one character, `::`, or one of the words.
    """
    found = DELIMITER_NAMES.get(text.lower(), text)
    if found in ("::", BLANKS) or (len(found) == 1 and found.isascii() and found not in '"\r\n\x1f'):
        return found
    raise DataError(
        f"--delimiter {text!r} is none; give one character, '::', or a word: {', '.join(DELIMITER_NAMES)}"
    )


def may_quote(delimiter: str) -> bool:
    """Return whether fields may be quoted; not where a delimiter is no single byte, as in GroupLens' files."""
    return len(delimiter) == 1


def first_bytes(archive: Archive, name: str, *, may_be_empty: bool = False) -> bytes:
    """Return the beginning of a text file, at least up to its first line break.

    Raises:
        DataError: if the file is empty, is no text, or is not UTF-8.
    """
    where = archive.where(name)
    with archive.open(name) as stream, damage_named(where):
        data = read_fully(stream, HEAD_BYTES)
        while len(data) < MAX_ROW_BYTES and not re.search(rb"[\r\n]", data.lstrip(UTF8_BOM + b" \r\n")):
            more = read_fully(stream, len(data))
            if not more:
                break
            data += more
    kind = next((said for magic, said in OTHER_MAGIC.items() if data.startswith(magic)), None)
    if kind:
        raise DataError(f"{where} is {kind}")
    first = data.removeprefix(UTF8_BOM).lstrip().split(b"\n", 1)[0]
    try:
        first.decode("utf-8")
    except UnicodeDecodeError:
        if len(first) < len(data) - 4 or data.startswith((b"\xff\xfe", b"\xfe\xff")):
            raise DataError(f"{where}: the header is not UTF-8; convert the file to UTF-8") from None
    if b"\x00" in first:
        raise DataError(
            f"{where}: the header is not UTF-8 text (it holds zero bytes); convert the file to UTF-8"
        )
    if not may_be_empty and not data.removeprefix(UTF8_BOM).strip():
        raise DataError(f"{where} is empty; it needs a header and rows")
    return data


def read_fully(stream: object, size: int) -> bytes:
    """Read `size` bytes, fewer at the end only."""
    parts, left = [], size
    while left and (part := stream.read(left)):  # type: ignore[attr-defined]
        parts.append(part)
        left -= len(part)
    return b"".join(parts)


def look(data: bytes, delimiter: str, lines: Sequence[tuple[int, int]] | None = None) -> Head:
    """Split the beginning of a file into rows.

    Args:
        data: the first bytes, whose last row may be cut off.
        delimiter: one character, `::`, or BLANKS.
        lines: what `_rows` says of data without quotes, whatever the delimiter, if the caller knows it.
    """
    start = len(UTF8_BOM) if data.startswith(UTF8_BOM) else 0
    body = data[start:]
    quotes = may_quote(delimiter)
    quotes_Q = field_quotes(body, delimiter.encode()) if quotes else NO_QUOTES
    spans = list(_rows(body, quotes_Q)) if lines is None else lines
    whole = spans[:-1] if len(data) >= HEAD_BYTES and len(spans) > 1 else spans
    rows = [_fields(body[low:high].decode("utf-8", "replace"), delimiter, quotes) for low, high in whole]
    ends_lf = any(not is_quoted(quotes_Q, found.start()) for found in re.finditer(rb"\n", body))
    ends_cr = not ends_lf and any(
        not is_quoted(quotes_Q, found.start()) for found in re.finditer(rb"\r", body[:HEAD_BYTES])
    )
    return Head(
        delimiter=delimiter,
        quotes=quotes,
        rows=tuple(map(tuple, rows)),
        starts=tuple(start + low for low, _ in spans),
        newline=b"\r" if ends_cr else b"\n",
        quoted=len(quotes_Q) > 0,
    )


def find_head(
    data: bytes,
    first: str,
    is_known: Callable[[Sequence[str]], bool],
    fields: int,
    where: str,
    delimiters: Sequence[str] = DELIMITERS,
) -> Head:
    """Find the delimiter of a file.

    Args:
        data: its first bytes.
        first: the delimiter that its suffix suggests.
        is_known: whether the fields of a header name the columns that are needed.
        fields: number of fields that a row has at least, if the delimiter is right.
        where: what messages call the file.
        delimiters: what is tried, in this order behind `first`.
    """
    lines = None if b'"' in data else list(_rows(data.removeprefix(UTF8_BOM), NO_QUOTES))
    heads = [look(data, delimiter, lines) for delimiter in dict.fromkeys((first, *delimiters))]
    heads = [head for head in heads if head.rows]
    known = [head for head in heads if is_known([name.strip() for name in head.rows[0]])]
    if known:
        return _seen(max(known, key=_fitness), known)
    even = [head for head in heads if _consistency(head) >= MIN_CONSISTENT]
    if even:
        return next((head for head in even if len(head.rows[0]) >= fields), even[0])
    if not heads:
        raise DataError(f"{where} is empty; it needs a header and rows")
    return heads[0]


def unique_names(names: Sequence[str], where: str) -> tuple[str, ...]:
    """Return the names of a header, stripped, with a stand-in for those that are empty.

    Raises:
        DataError: if a name stands twice.
    """
    stripped = [name.strip() for name in names]
    doubled = next((name for name in stripped if name and stripped.count(name) > 1), None)
    if doubled:
        raise DataError(
            f"{where} has the column {doubled!r} twice; rename one, or name columns by number, as in user=1"
        )
    return tuple(name or f"column {number}" for number, name in enumerate(stripped, start=1))


def by_number(columns: Mapping[str, str], first_row: Sequence[str]) -> bool:
    """Return whether all asked columns are numbers, counted from 1, and not names of a header such as `0,1,2`."""
    if not columns or not all(column.isascii() and column.isdigit() for column in columns.values()):
        return False
    names = [name.strip() for name in first_row if name.strip()]
    return names != [str(number) for number in range(len(names))]


def is_name(text: str) -> bool:
    """Return whether a text looks like the name of a column, and not like a time or a number that is misspelt."""
    return re.match(r"[^\W\d]", text.strip()) is not None and not is_value(text)


def is_value(text: str) -> bool:
    """Return whether a text is a time or a number."""
    text = text.strip()
    for kind in (pa.float64(), pa.timestamp("ns"), pa.timestamp("ns", "UTC")):
        try:
            pa.array([text]).cast(kind)
            return True
        except pa.ArrowInvalid:
            continue
    return False


def _seen(best: Head, heads: Sequence[Head]) -> Head:
    """Return the head for a delimiter that is seen, where blanks fit a damaged row but another splits the header alike.

    Blanks know no quotes: they would keep them in the values of all rows.
    """
    if best.delimiter not in (" ", BLANKS):
        return best
    others = [head for head in heads if head.delimiter not in (" ", BLANKS) and head.rows[0] == best.rows[0]]
    return max((head for head in others if _consistency(head) > 0.5), key=_fitness, default=best)


def _fitness(head: Head) -> tuple[bool, float, bool, int]:
    """Return what makes a delimiter likely, most telling first; names, titles and dates have blanks within them too."""
    names = head.rows[0]
    is_visible = head.delimiter not in (" ", BLANKS)
    return len(set(names)) == len(names), _consistency(head), is_visible, len(names)


def _consistency(head: Head) -> float:
    """Return the fraction of rows that have as many fields as the first; 0 for a single field."""
    if len(head.rows[0]) < 2:
        return 0.0
    return sum(len(row) == len(head.rows[0]) for row in head.rows) / len(head.rows)


def _rows(body: bytes, quotes_Q: npt.NDArray[Any]) -> Iterator[tuple[int, int]]:
    """Yield begin and end of the first rows that are not empty, without their line breaks."""
    begin = count = 0
    for found in re.finditer(rb"\r\n|\n|\r", body):
        if is_quoted(quotes_Q, found.start()):
            continue
        if body[begin : found.start()].strip():
            yield begin, found.start()
            count += 1
            if count == SAMPLE_ROWS:
                return
        begin = found.end()
    if body[begin:].strip():
        yield begin, len(body)


def _fields(text: str, delimiter: str, quotes: bool) -> list[str]:
    return text.split() if delimiter == BLANKS else split_fields(text, delimiter, quotes)
