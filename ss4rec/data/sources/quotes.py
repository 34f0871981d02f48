"""Which quotes in delimited text open and close fields, and so which line breaks end rows.

The rules are RFC 4180's as pandas, Arrow and Python's csv module apply them: a quote opens a field only at its start,
two quotes within a quoted field are one that belongs to the value, and what follows a closing quote is plain text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

QUOTE = ord('"')
BACKSLASH = ord("\\")
LINE_ENDS = b"\r\n"
NO_QUOTES: npt.NDArray[np.int64] = np.zeros(0, np.int64)


def field_quotes(data: bytes, delimiter: bytes) -> npt.NDArray[np.int64]:
    """Return the places of the quotes that open and close fields; a byte behind an odd number of them is quoted.

    Of a doubled quote the first closes and the second opens again, which leaves nothing unquoted between them. Quotes
    within unquoted fields are left out. An odd number means that the last field is not closed within `data`.

    Args:
        data: text that begins at the start of a row.
        delimiter: one byte.
    """
    if b'"' not in data:
        return NO_QUOTES
    places_Q = np.flatnonzero(np.frombuffer(data, np.uint8) == QUOTE)
    if _all_in_place(data, delimiter, places_Q):
        return places_Q
    # A quote within an unquoted field stands for itself. Slower, so only where there is one.
    quoted = rb"(?:(?<=[\r\n" + re.escape(delimiter) + rb'])|\A)"[^"]*(?:""[^"]*)*(?:"|(\Z))'
    places: list[int] = []
    for field in re.finditer(quoted, data):
        places += [field.start()] if field.group(1) is not None else [field.start(), field.end() - 1]
    return np.array(places, np.int64)


def _all_in_place(data: bytes, delimiter: bytes, places_Q: npt.NDArray[np.int64]) -> bool:
    """Return whether every second quote, from the first on, opens a field or is the second of a doubled one."""
    bytes_N = np.frombuffer(data, np.uint8)
    starts_256 = np.zeros(256, bool)
    starts_256[list(delimiter + LINE_ENDS)] = True
    opening, closing = places_Q[::2], places_Q[1::2]
    in_place = starts_256[bytes_N[opening - 1]]
    in_place[0] |= opening[0] == 0
    in_place[1:] |= opening[1:] - closing[: len(opening) - 1] == 1
    return bool(in_place.all())


def is_quoted(quotes_Q: npt.NDArray[np.int64], place: int) -> bool:
    """Return whether the byte at `place`, which is no quote, stands in a quoted field."""
    return bool(len(quotes_Q) and np.searchsorted(quotes_Q, place) % 2)


def last_row_end(data: bytes, quotes_Q: npt.NDArray[np.int64], stop: int, newline: bytes = b"\n") -> int:
    """Return the place behind the last line break before `stop` that ends a row; 0 if there is none."""
    while True:
        found = data.rfind(newline, 0, stop)
        if found < 0:
            return 0
        before = int(np.searchsorted(quotes_Q, found))
        if before % 2 == 0:
            return found + 1
        stop = int(quotes_Q[before - 1])


def next_row_end(data: bytes, quotes_Q: npt.NDArray[np.int64], start: int, newline: bytes = b"\n") -> int:
    """Return the place behind the first line break at or after `start` that ends a row; 0 if there is none."""
    while True:
        found = data.find(newline, start)
        if found < 0:
            return 0
        before = int(np.searchsorted(quotes_Q, found))
        if before % 2 == 0:
            return found + 1
        if before == len(quotes_Q):
            return 0
        start = int(quotes_Q[before])


def rows_of(data: bytes, quotes_Q: npt.NDArray[np.int64], newline: bytes = b"\n") -> Iterator[bytes]:
    """Yield the rows of `data` with their line breaks; the last may lack one."""
    at = 0
    while at < len(data):
        end = next_row_end(data, quotes_Q, at, newline) or len(data)
        yield data[at:end]
        at = end


def escaped_quote(data: bytes, delimiter: bytes, quotes_Q: npt.NDArray[np.int64]) -> int | None:
    r"""Return the place of the first quote that looks escaped by a backslash, as in `"a\"b"`; None if none does."""
    closing = quotes_Q[1::2]
    closing = closing[closing + 1 < len(data)]
    bytes_N = np.frombuffer(data, np.uint8)
    ends_256 = np.zeros(256, bool)
    ends_256[list(delimiter + LINE_ENDS + b'"')] = True
    found = closing[(bytes_N[closing - 1] == BACKSLASH) & ~ends_256[bytes_N[closing + 1]]]
    return int(found[0]) if len(found) else None


def split_fields(text: str, delimiter: str, quotes: bool) -> list[str]:
    """Split a row without its line break into fields of any length (the csv module stops at 131,072 characters)."""
    if not quotes or '"' not in text:
        return text.split(delimiter)
    fields: list[str] = []
    at = 0
    while True:
        value = ""
        if text.startswith('"', at):
            at += 1
            while True:
                close = text.find('"', at)
                if close < 0:
                    return [*fields, value + text[at:]]
                value += text[at:close]
                at = close + 1
                if not text.startswith('"', at):
                    break
                value, at = value + '"', at + 1
        end = text.find(delimiter, at)
        fields.append(value + (text[at:] if end < 0 else text[at:end]))
        if end < 0:
            return fields
        at = end + len(delimiter)
