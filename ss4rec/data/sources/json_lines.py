"""JSON lines: one object per line, in blocks of whole lines."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.json as pajson

from ss4rec.data.sources.checks import (
    QUARANTINE_SCHEMA,
    Parsed,
    Rules,
    check_rows,
    quarantine_table,
    refuse_all_bad,
)
from ss4rec.data.sources.parts import Part
from ss4rec.data.sources.plan import TablePlan
from ss4rec.data.sources.quotes import NO_QUOTES
from ss4rec.data.sources.rows import CONTEXT, is_category, known_texts
from ss4rec.data.sources.text import MAX_UNREADABLE, constant_columns
from ss4rec.errors import DataError
from ss4rec.io.untrusted import parse_json

MAX_INT = 2**63 - 1
MAX_FLOAT = 2**1000
SAMPLE_LINES = 1000
"""Lines that tell the columns and their types."""


@dataclass(frozen=True, kw_only=True)
class JsonPlan(TablePlan):
    """How to read a table of JSON lines."""

    types: dict[str, pa.DataType]
    """As what Arrow reads each role at first."""
    newline: bytes = b"\n"
    """Where rows may be cut; JSON's strings hold no line breaks."""
    quoted: bool = False
    """Whether line breaks may stand within fields."""
    quotes: bool = False
    """The same, as for delimited text."""

    def user_of(self, line: bytes) -> bytes:
        """Return the user of a line; empty if there is none."""
        try:
            found = parse_json(line)
        except ValueError:
            return b""
        user = found.get(self.roles.get("user")) if isinstance(found, dict) else None
        return str(user).encode("utf-8", "surrogatepass")

    def quotes_in(self, data: bytes) -> npt.NDArray[np.int64]:
        """Return no places: every line break ends a row."""
        return NO_QUOTES


def sample_objects(data: bytes, where: str) -> list[dict[str, Any]]:
    """Return the objects of the first lines.

    Raises:
        DataError: if the text is one JSON array or object over many lines, or holds no objects.
    """
    text = data.removeprefix(b"\xef\xbb\xbf").lstrip()
    if text.startswith(b"["):
        raise DataError(
            f"{where} is one JSON array; write JSON lines, one object per line "
            "(pandas: to_json(orient='records', lines=True); jq -c '.[]')"
        )
    found = []
    for line in text.split(b"\n")[:SAMPLE_LINES]:
        try:
            value = parse_json(line)
        except ValueError:
            continue
        if isinstance(value, dict):
            found.append(value)
    if not found:
        raise DataError(
            f"{where} has no JSON object in its first lines, which begin with {text[:60]!r}; "
            "write one object per line"
        )
    return found


def type_of(values: list[Any], role: str) -> pa.DataType:
    """Return as what Arrow should read the values of a key: whole numbers, numbers or texts; ids are no decimals."""
    known = [value for value in values if value is not None]
    if known and all(isinstance(value, int) and not isinstance(value, bool) for value in known):
        return pa.int64()
    if role in ("user", "item"):
        return pa.string()
    if known and all(isinstance(value, int | float) and not isinstance(value, bool) for value in known):
        return pa.float64()
    return pa.string()


def time_array(values: list[Any], kind: pa.DataType) -> pa.Array:
    """Return times as an array; whole numbers that int64 does not hold become its ends, which are no times."""
    if pa.types.is_string(kind):
        return pa.array([None if value is None else str(value) for value in values], kind)
    if all(value is None or isinstance(value, int) for value in values):
        return pa.array([None if v is None else max(min(v, MAX_INT), -MAX_INT) for v in values], pa.int64())
    return pa.array([None if value is None else float(value) for value in values], pa.float64())


def parse_json_block(
    data: bytes, plan: JsonPlan, rules: Rules, part: Part | None = None, *, is_first: bool = False
) -> Parsed:
    """Turn a block of whole lines into columns; arguments and errors as for `text.parse_block`."""
    part = part or plan.parts[0]
    try:
        columns, unreadable, count = _by_arrow(data, plan)
    except pa.ArrowException:
        columns, unreadable, count = _by_line(data, plan, rules, is_first)
    aside = {row for row, *_ in unreadable}
    numbers_R = np.array([row for row in range(count) if row not in aside]) if aside else np.arange(count)
    columns |= constant_columns(part, len(numbers_R))
    bad = quarantine_table(unreadable) if unreadable else QUARANTINE_SCHEMA.empty_table()
    first_row = plan.first_row if is_first else None
    return check_rows(
        columns, rules, numbers_R.astype(np.int64), bad, count, plan.times, plan.where, first_row
    )


Columns = tuple[dict[str, pa.Array], list[tuple[int, str, str]], int]


def _by_arrow(data: bytes, plan: JsonPlan) -> Columns:
    """Read lines whose values all have the types of the plan."""
    schema = pa.schema([(key, plan.types[role]) for role, key in plan.roles.items()])
    if not data or data.isspace():
        return {role: _ids(pa.array([], plan.types[role]), role) for role in plan.roles}, [], 0
    table = pajson.read_json(
        pa.BufferReader(data),
        pajson.ReadOptions(use_threads=False, block_size=len(data) + 1),
        pajson.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore"),
    ).combine_chunks()
    columns = {role: table[key].combine_chunks() for role, key in plan.roles.items()}
    joined = {
        role: column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
        for role, column in columns.items()
    }
    for column in joined.values():
        column.validate(full=True)  # Arrow takes texts from JSON as they are, UTF-8 or not
    if table.num_rows != _lines(data):
        raise pa.ArrowInvalid("an object does not lie in a line of its own")
    return {role: _ids(column, role) for role, column in joined.items()}, [], table.num_rows


def _lines(data: bytes) -> int:
    """Return the number of lines that are not blank."""
    lines = data.count(b"\n") + (not data.endswith(b"\n"))
    return lines if b"\n\n" not in data else sum(bool(line.strip()) for line in data.split(b"\n"))


def _by_line(data: bytes, plan: JsonPlan, rules: Rules, is_first: bool) -> Columns:
    """Read line by line, with sentences for those that cannot be read."""
    values: dict[str, list[Any]] = {role: [] for role in plan.roles}
    unreadable: list[tuple[int, str, str]] = []
    count = 0
    for line in data.split(b"\n"):
        if not line.strip():
            continue
        try:
            row = _row(line, plan)
            for role, value in row.items():
                values[role].append(value)
        except _BadLineError as error:
            unreadable.append((count, *error.args))
            if is_first and len(unreadable) == count + 1:
                refuse_all_bad(unreadable, plan.first_row, rules, plan.where)
            if len(unreadable) > MAX_UNREADABLE:
                raise DataError(
                    f"{plan.where} has over {MAX_UNREADABLE:,} unreadable lines in {len(data) >> 20} MiB, such as "
                    f"{line[:80]!r} ({error.args[1]}); is it a file of ratings?"
                ) from None
        count += 1
    columns = {}
    for role, found in values.items():
        if is_category(role):
            columns[role] = pa.array(found, pa.string()).dictionary_encode()
        elif role == "time":
            columns[role] = time_array(found, pa.string() if plan.times.format else plan.types[role])
        else:
            columns[role] = pa.array([None if v is None else float(v) for v in found], pa.float64())
    return columns, unreadable, count


class _BadLineError(Exception):
    """Reason and sentence for a line that cannot be read."""


def _row(line: bytes, plan: JsonPlan) -> dict[str, Any]:
    """Return the value of each role in a line."""
    try:
        # As Arrow does, values that are not read may be no UTF-8.
        found = parse_json(line.decode("utf-8", "surrogateescape"))
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise _BadLineError("unreadable", f"the line {line[:80]!r} is no JSON object")
    row = {}
    for role, key in plan.roles.items():
        value = found.get(key)
        if role.startswith(CONTEXT):
            value = _text(value)
        elif role in ("user", "item"):
            value = _id(value, role)
        elif value is not None and not _fits(value, role, plan):
            wanted = "which is no time like the others" if role == "time" else "ratings are finite numbers"
            raise _BadLineError(f"{role}_unreadable", f"{role} is {json.dumps(value)[:80]}, {wanted}")
        row[role] = value
    return row


def _id(value: Any, role: str) -> str | None:
    """Return an id as text."""
    if value is None or value == "":
        return None
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, str) and _is_utf8(value):
        return value
    raise _BadLineError(
        f"{role}_unreadable", f"{role} is {json.dumps(value)[:80]}, ids are texts or whole numbers"
    )


def _text(value: Any) -> str | None:
    """Return a value about the event as the text that Arrow makes of it; neither text nor number: unknown."""
    if isinstance(value, str):
        return value if value and _is_utf8(value) else None
    if isinstance(value, float):
        return None if math.isnan(value) else str(pa.scalar(value).cast(pa.string()).as_py())
    return str(value).lower() if isinstance(value, int) else None


def _is_utf8(text: str) -> bool:
    """Return whether a text from JSON can be kept: it may hold half a surrogate pair, or bytes that were no UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _fits(value: Any, role: str, plan: JsonPlan) -> bool:
    """Return whether a time or a rating can be read as the plan says."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return False
    if isinstance(value, str):
        return role == "time" and pa.types.is_string(plan.types[role]) and _is_utf8(value)
    if isinstance(value, int) and abs(value) >= MAX_FLOAT:
        return False
    return not (role == "time" and pa.types.is_string(plan.types[role])) or plan.times.format is not None


def _ids(column: pa.Array, role: str) -> pa.Array:
    """Return ids as a dictionary of texts, and other columns as they are."""
    if not is_category(role):
        return column
    return known_texts(column).dictionary_encode()
