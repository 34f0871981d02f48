"""Which quotes in delimited text open and close fields, and so which line breaks end rows.

The rules are RFC 4180's as pandas, Arrow and Python's csv module apply them: a quote opens a field only at its start,
two quotes within a quoted field are one that belongs to the value. Where text follows a closing quote, those readers
take it as plain text, and so may take two damaged rows for one; such text is refused here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from ss4rec.errors import DataError

QUOTE = ord('"')
BACKSLASH = ord("\\")
LINE_ENDS = b"\r\n"
UTF8_BOM = b"\xef\xbb\xbf"
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


def misplaced_quotes(data: bytes, delimiter: bytes, quotes_Q: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return the places of quotes that close a field which goes on behind them, as in `"a"b,c"`.

    Such a quote belongs to the value and should be doubled, or the field began earlier than where it seems to. Either
    way nobody knows where this field and those behind it end.
    """
    closing = quotes_Q[1::2]
    closing = closing[closing + 1 < len(data)]
    ends_256 = np.zeros(256, bool)
    ends_256[list(delimiter + LINE_ENDS + b'"')] = True
    return np.asarray(closing[~ends_256[np.frombuffer(data, np.uint8)[closing + 1]]])


def refuse_quotes(
    data: bytes, delimiter: bytes, quotes_Q: npt.NDArray[np.int64], where: str, newline: bytes = b"\n"
) -> None:
    """Refuse quotes from which nobody can tell where fields end.

    Args:
        data: whole rows.
        delimiter: one byte.
        quotes_Q: what `field_quotes` says of them.
        where: what messages call the file.
        newline: what ends rows.

    Raises:
        DataError: if a quoted field has no end or goes on behind it, or quotes are escaped by a backslash.
    """
    if not len(quotes_Q):
        return
    misplaced = misplaced_quotes(data, delimiter, quotes_Q)
    escaped = misplaced[np.frombuffer(data, np.uint8)[misplaced - 1] == BACKSLASH]
    if len(escaped):
        raise DataError(
            f"{where} has quotes behind a backslash within quotes, as in {_around(data, int(escaped[0]))!r}; "
            "write such quotes doubled (Spark: option('escape', '\"'); pandas: doublequote=True)"
        )
    if len(misplaced):
        raise DataError(
            f"{where} has a quoted field that goes on behind its closing quote, as in "
            f"{_around(data, int(misplaced[0]))!r}; double a quote that belongs to a value, "
            "and close or remove a stray one"
        )
    if len(quotes_Q) % 2:
        begin = last_row_end(data, quotes_Q, int(quotes_Q[-1]), newline)
        raise DataError(
            f"{where} has a quoted field that is never closed, in the row that begins with "
            f"{data[begin : begin + 60]!r}; close the quote, or double it if it belongs to the value"
        )


def refuse_quotes_of_file(data: bytes, delimiter: bytes, where: str) -> None:
    """Refuse the quotes of a whole file, which may begin with a byte order mark, as `refuse_quotes` does."""
    data = data.removeprefix(UTF8_BOM)
    refuse_quotes(data, delimiter, field_quotes(data, delimiter), where)


def _around(data: bytes, place: int) -> bytes:
    return data[max(place - 20, 0) : place + 20]


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
