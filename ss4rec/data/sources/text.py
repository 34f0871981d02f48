"""Delimited text in blocks of whole rows: how a file is laid out, where it may be cut, and one block into rows."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import IO, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv

from ss4rec.data.sources.checks import (
    QUARANTINE_SCHEMA,
    Parsed,
    Rules,
    check_rows,
    quarantine_table,
    refuse_all_bad,
)
from ss4rec.data.sources.delimited import UNIT_SEPARATOR
from ss4rec.data.sources.head import BLANKS, MAX_ROW_BYTES
from ss4rec.data.sources.parts import Part
from ss4rec.data.sources.plan import TablePlan
from ss4rec.data.sources.quotes import (
    NO_QUOTES,
    field_quotes,
    last_row_end,
    next_row_end,
    refuse_quotes,
    split_fields,
)
from ss4rec.data.sources.rows import is_category
from ss4rec.data.sources.times import parsed_or_null
from ss4rec.errors import DataError

BLOCK_BYTES = 16 << 20
"""Text that is parsed at a time."""
MAX_UNREADABLE = 50_000
"""More unreadable lines in one block mean that the file is something else; finding each takes time."""
ID = pa.dictionary(pa.int32(), pa.string())


class QuotesFoundError(Exception):
    """A file that was cut as if it had no quoted fields has one; it must be read from its beginning."""


class LinePlan(Protocol):
    """What cutting text needs to know."""

    @property
    def where(self) -> str:
        """What messages call the source."""

    @property
    def newline(self) -> bytes:
        """Where rows may be cut."""

    def user_of(self, line: bytes) -> bytes:
        """Return the user of a row."""

    def quotes_in(self, data: bytes) -> npt.NDArray[np.int64]:
        """Return the places of quotes that open and close fields."""


@dataclass(frozen=True, kw_only=True)
class TextPlan(TablePlan):
    """How to read a table of delimited text."""

    delimiter: str
    """One character, `::`, or BLANKS."""
    quotes: bool
    """Whether fields may stand in double quotes."""
    names: tuple[str, ...]
    """All columns of the files, each name once."""
    types: dict[str, pa.DataType]
    """Type of each role."""
    newline: bytes = b"\n"
    """Where rows may be cut."""
    quoted: bool = False
    """Whether fields are quoted, as far as that is known; then only reading from the beginning tells where rows end."""
    strip: bool = False
    """Whether blanks around ids do not count."""

    @property
    def separator(self) -> str:
        """The one character at which fields are split."""
        return self.delimiter if len(self.delimiter) == 1 else UNIT_SEPARATOR.decode()

    def fields(self, text: str) -> list[str]:
        """Split a row."""
        if self.delimiter == BLANKS:
            return text.split()
        return split_fields(text, self.delimiter, self.quotes)

    def user_of(self, line: bytes) -> bytes:
        """Return the user's field of a row, as it stands there."""
        if "user" not in self.roles:
            return b""
        place = self.names.index(self.roles["user"])
        if self.delimiter == BLANKS or (self.quotes and b'"' in line):
            fields = self.fields(line.decode("utf-8", "replace").strip("\r\n"))
            return fields[place].encode() if place < len(fields) else b""
        found = line.strip(b"\r\n").split(self.delimiter.encode(), place + 1)
        return found[place] if place < len(found) else b""

    def quotes_in(self, data: bytes) -> npt.NDArray[np.int64]:
        """Return the places of quotes that open and close fields, in text that begins with a row."""
        return field_quotes(data, self.delimiter.encode()) if self.quotes else NO_QUOTES


def line_blocks(pieces: Iterable[bytes], plan: LinePlan, block_bytes: int = BLOCK_BYTES) -> Iterator[bytes]:
    """Cut a stream into blocks of whole rows that end where the user changes (as far as the stream is in that order).

    Args:
        pieces: the data rows, cut anywhere.
        plan: how rows end, and where the user stands in one.
        block_bytes: minimum size of a block but the last.

    Raises:
        DataError: if a row has no end within MAX_ROW_BYTES.
    """
    held: list[bytes] = []
    size, enough = 0, block_bytes
    for piece in pieces:
        held.append(piece)
        size += len(piece)
        if size < enough:
            continue
        data = b"".join(held)
        quotes_Q = plan.quotes_in(data)
        end = last_change(data, plan, quotes_Q)
        if end:
            yield data[:end]
        else:
            _refuse_endless(data, plan, quotes_Q)
        held, size = [data[end:]], len(data) - end
        # Where one user fills a block, twice as much is read before it is looked at again.
        enough = max(block_bytes, 2 * size if not end else 0)
    if rest := b"".join(held):
        yield rest


def last_change(data: bytes, plan: LinePlan, quotes_Q: npt.NDArray[np.int64] = NO_QUOTES) -> int:
    """Return where the rows of the last whole row's user begin; 0 if the whole of `data` may be of one user."""
    end = last_row_end(data, quotes_Q, len(data), plan.newline)
    user = None
    while end > 0:
        begin = last_row_end(data, quotes_Q, end - 1, plan.newline)
        line = data[begin:end]
        if not line.isspace():
            found = plan.user_of(line)
            if user is not None and found != user:
                return end
            user = found
        end = begin
    return 0


def next_change(stream: IO[bytes], place: int, plan: LinePlan) -> int:
    """Return the first row start behind `place` whose user differs from that of the row at or after `place`.

    A file's blocks cut at these places hold whole users if the file is in the order of users. Only for files whose
    every line is a row.
    """
    stream.seek(place - 1)
    stream.readline()  # to the start of a line, also where `place` is one
    user = None
    while True:
        at = stream.tell()
        line = stream.readline()
        if not line:
            return at
        if line.isspace():
            continue
        found = plan.user_of(line)
        if user is not None and found != user:
            return at
        user = found


def parse_block(
    data: bytes, plan: TextPlan, rules: Rules, part: Part | None = None, *, is_first: bool = False
) -> Parsed:
    """Turn a block of whole rows into columns; rows that cannot be read or break a rule go into quarantine.

    Empty lines are no rows.

    Args:
        data: begins at the start of a row and ends at the end of one.
        plan: how to read it.
        rules: what a row must be.
        part: the file that it is from; by default the first.
        is_first: whether it is the first of the source; if its first thousands of rows are all bad, no more is read.

    Raises:
        DataError: if quotes do not say where a field ends, or so many rows are unreadable that the file must be
            something else.
    """
    part = part or plan.parts[0]
    quotes_Q = plan.quotes_in(data)
    where = part.file if len(plan.parts) > 1 else plan.where
    refuse_quotes(data, plan.delimiter.encode(), quotes_Q, where, plan.newline)
    unreadable: list[tuple[int, str, str]] = []
    tables, numbers = [], []
    count = 0
    for piece in _readable(data, plan, quotes_Q, 0, len(data)):
        if isinstance(piece, pa.Table):
            tables.append(piece)
            numbers.append(np.arange(count, count + piece.num_rows))
            count += piece.num_rows
            continue
        unreadable.append((count, *_why(piece, plan)))
        count += 1
        if is_first and not tables:
            refuse_all_bad(unreadable, plan.first_row, rules, plan.where)
        if len(unreadable) > MAX_UNREADABLE:
            raise DataError(
                f"{plan.where} has over {MAX_UNREADABLE:,} unreadable lines in {len(data) >> 20} MiB, such as "
                f"{piece[:80]!r} ({unreadable[-1][2]}); is it a file of ratings?"
            )
    if not tables:
        tables, numbers = [_empty(plan)], [np.arange(0)]
    table = pa.concat_tables(tables).combine_chunks() if len(tables) > 1 else tables[0]
    if len(tables) > 1:
        table = table.unify_dictionaries()
    columns = {role: _one(table[column]) for role, column in plan.roles.items()}
    if plan.strip:
        columns |= {role: _stripped(columns[role]) for role in ("user", "item") if role in columns}
    if part.values:
        columns |= constant_columns(part, table.num_rows)
    bad = quarantine_table(unreadable) if unreadable else QUARANTINE_SCHEMA.empty_table()
    numbers_R = np.concatenate(numbers) if len(numbers) > 1 else numbers[0]
    first_row = plan.first_row if is_first else None
    return check_rows(columns, rules, numbers_R, bad, count, plan.times, plan.where, first_row)


def constant_columns(part: Part, rows: int) -> dict[str, pa.Array]:
    """Return the columns that stand in the name of a part's folder."""
    columns = {role: pa.array([value], pa.string()) for role, value in part.values}
    zeros = pa.array(np.zeros(rows, np.int32))
    return {
        role: pa.DictionaryArray.from_arrays(zeros, value) if is_category(role) else value.take(zeros)
        for role, value in columns.items()
    }


def infer_type(values: Iterable[str], types: Iterable[pa.DataType]) -> pa.DataType | None:
    """Return the first of `types` as which most of the first 200 texts can be read; None if no more than half can."""
    texts = pa.array([text.strip() for text in list(values)[:200] if text], pa.string())
    best, most = None, len(texts) / 2
    for kind in types:
        able = len(texts) - parsed_or_null(texts, kind).null_count
        if able > most:
            best, most = kind, able
        if able == len(texts):
            break
    return best


def _refuse_endless(data: bytes, plan: LinePlan, quotes_Q: npt.NDArray[np.int64]) -> None:
    """Refuse a row that has no end within MAX_ROW_BYTES."""
    whole = last_row_end(data, quotes_Q, len(data), plan.newline)
    if len(data) - whole <= MAX_ROW_BYTES:
        return
    why = "a quote opens a field that is never closed" if len(quotes_Q) % 2 else "it is no text of rows"
    raise DataError(
        f"{plan.where} has a row of over {MAX_ROW_BYTES >> 20} MiB ({why}), which begins with "
        f"{data[whole : whole + 60]!r}; repair the file"
    )


def _readable(
    data: bytes, plan: TextPlan, quotes_Q: npt.NDArray[np.int64], low: int, high: int
) -> Iterator[pa.Table | bytes]:
    """Yield tables and unreadable single rows, in order: halves of what cannot be read are read again."""
    here = data if high - low == len(data) else data[low:high]
    if not here or (here.isspace() and not here.strip(b"\r\n")):
        return
    try:
        yield _read_trimmed(here, plan, plan.quotes and len(quotes_Q) > 0)
    except pa.ArrowInvalid:
        middle = last_row_end(data, quotes_Q, (low + high) // 2, plan.newline)
        if middle <= low:
            middle = next_row_end(data, quotes_Q, low, plan.newline)
        if not low < middle < high:
            middle = _lone_return(data, quotes_Q, low, high)
        if not low < middle < high:
            yield here
            return
        yield from _readable(data, plan, quotes_Q, low, middle)
        yield from _readable(data, plan, quotes_Q, middle, high)


def _lone_return(data: bytes, quotes_Q: npt.NDArray[np.int64], low: int, high: int) -> int:
    """Return the place behind the first carriage return within a row; it ends a row too. 0 if there is none."""
    end = next_row_end(data, quotes_Q, low, b"\r")
    return end if low < end < high and data[end : end + 1] != b"\n" else 0


def _read_trimmed(data: bytes, plan: TextPlan, quotes: bool) -> pa.Table:
    """Read whole rows; blanks around a time do not count. Arrow removes them from numbers, but not from dates.

    Args:
        data: the rows.
        plan: how to read them.
        quotes: whether a quote opens a field in the block that they are of; without one Arrow has less to look for.
    """
    types = {plan.roles[role]: plan.types[role] for role in plan.roles}
    try:
        return _read(data, plan, types, quotes)
    except pa.ArrowInvalid:
        name = plan.roles.get("time")
        if name is None or not pa.types.is_timestamp(types[name]):
            raise
    table = _read(data, plan, types | {name: pa.string()}, quotes)
    times = pc.utf8_trim(table[name], characters=" \t").cast(types[name])
    return table.set_column(table.column_names.index(name), name, times)


def _read(data: bytes, plan: TextPlan, types: dict[str, pa.DataType], quotes: bool) -> pa.Table:
    """Read whole rows with Arrow, columns as `types` says."""
    if plan.delimiter == BLANKS:
        data = re.sub(rb"(?m)^[ \t]+|[ \t]+(?=\r?$)", b"", data)
        data = re.sub(rb"[ \t]+", UNIT_SEPARATOR, data)
    elif len(plan.delimiter) > 1:
        data = data.replace(plan.delimiter.encode(), UNIT_SEPARATOR)
    parse = pacsv.ParseOptions(
        delimiter=plan.separator, quote_char='"' if quotes else False, newlines_in_values=quotes
    )
    convert = pacsv.ConvertOptions(
        column_types=types, include_columns=list(types), null_values=[""], strings_can_be_null=True
    )
    # A block of Arrow's own is a piece of a table each; one piece needs no copy to be joined.
    options = pacsv.ReadOptions(
        column_names=list(plan.names), use_threads=False, block_size=max(len(data) + 1, 1 << 12)
    )
    return pacsv.read_csv(pa.BufferReader(data), options, parse, convert)


def _why(line: bytes, plan: TextPlan) -> tuple[str, str]:
    """Return reason and sentence for a row that Arrow cannot read."""
    try:
        text = line.decode("utf-8").strip("\r\n")
    except UnicodeDecodeError:
        return "not_utf8", f"the line {line[:80]!r} is not UTF-8; convert the file"
    fields = plan.fields(text)
    if len(fields) != len(plan.names):
        return "fields", f"expected {len(plan.names)} columns, got {len(fields)}: {text[:80]!r}"
    values = dict(zip(plan.names, fields, strict=True))
    for role in plan.roles:
        value, kind = values[plan.roles[role]], plan.types[role]
        if value and kind != ID and not _castable(value.strip(), kind):
            wanted = {
                "time": f"which is no time of type {kind}",
                "rating": "ratings are finite numbers; repair or remove the row",
            }.get(role, "ids of this layout are whole numbers; repair the row")
            return f"{role}_unreadable", f"{role} is {value[:80]!r}, {wanted}"
    return "unreadable", f"the line {text[:80]!r} cannot be read"


def _castable(text: str, kind: pa.DataType) -> bool:
    try:
        pa.array([text]).cast(kind)
    except pa.ArrowInvalid:
        return False
    return True


def _empty(plan: TextPlan) -> pa.Table:
    return pa.table({plan.roles[role]: pa.array([], plan.types[role]) for role in plan.roles})


def _one(column: pa.ChunkedArray) -> pa.Array:
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def _stripped(ids: pa.Array) -> pa.Array:
    """Return ids without blanks around them."""
    if not pa.types.is_dictionary(ids.type):
        return ids
    texts = pc.utf8_trim_whitespace(ids.dictionary_decode())
    return pc.if_else(pc.equal(texts, ""), pa.scalar(None, pa.string()), texts).dictionary_encode()
