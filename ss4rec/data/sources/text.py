"""Delimited text in blocks of whole lines: how a file is laid out, where it may be cut, and one block into rows.

Whatever reads a source parses with `parse_block`, so all agree on every row.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import IO

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv

from ss4rec.data.sources.checks import QUARANTINE_SCHEMA, Parsed, Rules, check_rows, quarantine_table
from ss4rec.data.sources.delimited import UNIT_SEPARATOR
from ss4rec.errors import DataError

BLOCK_BYTES = 16 << 20
"""Text that is parsed at a time."""
MAX_UNREADABLE = 50_000
"""More unreadable lines in one block mean that the file is something else; finding each takes time."""
ID = pa.dictionary(pa.int32(), pa.string())


@dataclass(frozen=True)
class TextPlan:
    """How to read one delimited file."""

    layout: str
    """Name of the layout."""
    file: str
    """The file, relative to the source."""
    where: str
    """What messages call it."""
    delimiter: str
    """One character, or `::`."""
    quotes: bool
    """Whether fields may stand in double quotes."""
    names: tuple[str, ...]
    """All columns of the file."""
    roles: dict[str, str]
    """Column of `user`, `item`, `time` and perhaps `rating`."""
    types: dict[str, pa.DataType]
    """Type of each role."""
    start: int
    """Bytes of the header."""

    @property
    def first_row(self) -> int:
        """Number of the first data row as a person counts: 1, or 2 below a header."""
        return 2 if self.start else 1

    def user_of(self, line: bytes) -> bytes:
        """Return the user's field of a line, as it stands there."""
        place = self.names.index(self.roles["user"])
        if self.quotes and b'"' in line:
            fields = next(csv.reader([line.decode("utf-8", "replace")], delimiter=self.delimiter), [])
            return fields[place].encode() if place < len(fields) else b""
        found = line.rstrip(b"\r\n").split(self.delimiter.encode(), place + 1)
        return found[place] if place < len(found) else b""


def line_blocks(pieces: Iterable[bytes], plan: TextPlan, block_bytes: int = BLOCK_BYTES) -> Iterator[bytes]:
    """Cut a stream into blocks of whole lines that end where the user changes (as far as the stream is in that order).

    Args:
        pieces: the data rows, cut anywhere.
        plan: where the user stands in a line.
        block_bytes: least size of a block but the last.
    """
    held: list[bytes] = []
    size = 0
    for piece in pieces:
        held.append(piece)
        size += len(piece)
        if size < block_bytes:
            continue
        data = b"".join(held)
        cut = last_change(data, plan)
        if cut:
            yield data[:cut]
        held, size = [data[cut:]], len(data) - cut
    if rest := b"".join(held):
        yield rest


def last_change(data: bytes, plan: TextPlan) -> int:
    """Return where the lines of the last whole line's user begin; 0 if the whole of `data` may be of one user."""
    end = data.rfind(b"\n") + 1
    user = None
    while end > 0:
        begin = data.rfind(b"\n", 0, end - 1) + 1
        found = plan.user_of(data[begin:end])
        if user is not None and found != user:
            return end
        user, end = found, begin
    return 0


def next_change(stream: IO[bytes], place: int, plan: TextPlan) -> int:
    """Return the first line start behind `place` whose user differs from that of the line at or after `place`.

    A file's blocks cut at these places hold whole users if the file is in the order of users.
    """
    stream.seek(place - 1)
    stream.readline()  # to the start of a line, also where `place` is one
    user = None
    while True:
        at = stream.tell()
        line = stream.readline()
        if not line:
            return at
        found = plan.user_of(line)
        if user is not None and found != user:
            return at
        user = found


def parse_block(data: bytes, plan: TextPlan, rules: Rules) -> Parsed:
    """Turn a block of whole lines into rows; lines that cannot be read or break a rule go into quarantine.

    Empty lines are no rows.

    Raises:
        DataError: if the text is not UTF-8 or so many lines are unreadable that the file must be something else.
    """
    unreadable: list[tuple[int, str, str]] = []
    tables, numbers = [], []
    count = 0
    for piece in _readable(data, plan):
        if isinstance(piece, bytes):
            unreadable.append((count, *_why(piece, plan)))
            count += 1
            if len(unreadable) > MAX_UNREADABLE:
                raise DataError(
                    f"{plan.where} has over {MAX_UNREADABLE:,} unreadable lines in {len(data) >> 20} MiB, such as "
                    f"{piece[:80]!r} ({unreadable[-1][2]}); is it a file of ratings?"
                )
        else:
            tables.append(piece)
            numbers.append(np.arange(count, count + piece.num_rows))
            count += piece.num_rows
    if not tables:
        tables, numbers = [_empty(plan)], [np.arange(0)]
    table = pa.concat_tables(tables).combine_chunks() if len(tables) > 1 else tables[0]
    if len(tables) > 1:
        table = table.unify_dictionaries()
    columns = {role: _one(table[column]) for role, column in plan.roles.items()}
    quarantine = quarantine_table(unreadable) if unreadable else QUARANTINE_SCHEMA.empty_table()
    numbers_R = np.concatenate(numbers) if len(numbers) > 1 else numbers[0]
    return check_rows(columns, rules, numbers_R, quarantine, count)


def infer_type(values: pa.ChunkedArray, types: Iterable[pa.DataType]) -> pa.DataType | None:
    """Return the first of `types` as which most of the first 200 strings can be read; None if no more than half can."""
    texts = [text for text in values.slice(0, 200).to_pylist() if text is not None]
    best, most = None, len(texts) / 2
    for kind in types:
        able = sum(_castable(text.strip(), kind) for text in texts)
        if able > most:
            best, most = kind, able
    return best


def read_head(stream: IO[bytes], plan: TextPlan, most_bytes: int = 1 << 18) -> pa.Table:
    """Read the first lines as strings, leaving out those with the wrong number of fields."""
    data = stream.read(most_bytes)
    if len(data) == most_bytes:
        data = data[: data.rfind(b"\n") + 1]
    if not data.strip():
        return pa.table({name: pa.array([], pa.string()) for name in plan.names})
    strings = dict.fromkeys(plan.roles.values(), pa.string())
    return _read(data, plan, strings, skip=True)


def _readable(data: bytes, plan: TextPlan) -> Iterator[pa.Table | bytes]:
    """Yield tables and unreadable single lines, in order: halves of what cannot be read are read again."""
    if not data or data.isspace():  # `strip` would copy
        return
    try:
        yield _read(data, plan, {plan.roles[role]: kind for role, kind in plan.types.items()})
    except pa.ArrowInvalid:
        middle = data.rfind(b"\n", 0, len(data) // 2) + 1 or data.find(b"\n") + 1
        if middle in (0, len(data)):
            yield data
            return
        yield from _readable(data[:middle], plan)
        yield from _readable(data[middle:], plan)


def _read(data: bytes, plan: TextPlan, types: dict[str, pa.DataType], skip: bool = False) -> pa.Table:
    """Read whole lines with Arrow, columns as `types` says."""
    if plan.delimiter == "::":
        data = data.replace(b"::", UNIT_SEPARATOR)
    parse = pacsv.ParseOptions(
        delimiter=UNIT_SEPARATOR.decode() if plan.delimiter == "::" else plan.delimiter,
        quote_char='"' if plan.quotes else False,
        invalid_row_handler=(lambda row: "skip") if skip else None,
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
    """Return reason and sentence for a line that Arrow cannot read."""
    try:
        text = line.decode("utf-8").rstrip("\r\n")
    except UnicodeDecodeError:
        return "not_utf8", f"the line {line[:80]!r} is not UTF-8; convert the file"
    if plan.delimiter == "::":
        fields = text.split("::")
    else:
        fields = text.split(plan.delimiter)
        if plan.quotes:
            fields = next(csv.reader([text], delimiter=plan.delimiter), [])
    if len(fields) != len(plan.names):
        return "fields", f"expected {len(plan.names)} columns, got {len(fields)}: {text[:80]!r}"
    values = dict(zip(plan.names, fields, strict=True))
    for role, kind in plan.types.items():
        value = values[plan.roles[role]]
        if value and kind != ID and not _castable(value.strip(), kind):
            wanted = {
                "time": f"which is no time of type {kind}",
                "rating": "ratings are finite numbers; repair or remove the row",
            }.get(role, "ids of this layout are whole numbers; repair the row")
            return f"{role}_unreadable", f"{role} is {value!r}, {wanted}"
    return "unreadable", f"the line {text[:80]!r} cannot be read"


def _castable(text: str, kind: pa.DataType) -> bool:
    try:
        pa.array([text]).cast(kind)
    except pa.ArrowInvalid:
        return False
    return True


def _empty(plan: TextPlan) -> pa.Table:
    return pa.table({plan.roles[role]: pa.array([], kind) for role, kind in plan.types.items()})


def _one(column: pa.ChunkedArray) -> pa.Array:
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
