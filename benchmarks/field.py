"""Do the readers of `ss4rec data prepare` read what others read? Hostile tables, compared row by row with reference readers.

    python -m benchmarks.field [--rows 1000000]           a million rows, every format, several block sizes; writes a record
    python -m benchmarks.field --minutes 15 [--seed 0]    fuzzing: tables of every kind, also damaged ones, until time is up

Tables hold delimiters, quotes, line breaks, backslashes and other alphabets in their fields, and are written by pandas,
Polars, Arrow, Python's csv and json modules. The reference is Python's csv module for delimited text, the json module
for JSON lines, and the table itself for Parquet. A source may be refused with one of our own errors; read to other
rows it may not be. Prints what differs, with the seed that makes it again; exit code 1 if anything did.
"""

from __future__ import annotations

import argparse
import bz2
import csv
import gzip
import io
import json
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from benchmarks.field_tables import ROLES, Case, damage, make_table, write_json, write_parquet, write_text
from benchmarks.record import headline, write_record
from ss4rec.data.prepare.chunks import parse_chunk, source_chunks
from ss4rec.data.sources import Rules, Source
from ss4rec.data.sources.checks import Parsed, concatenated
from ss4rec.data.sources.text import QuotesFoundError, TextPlan
from ss4rec.data.sources.times import FACTORS, parsed_or_null
from ss4rec.errors import DataError

RULES = Rules(max_bad_share=1.0)

Row = tuple[int, str, str, int, float]
"""Number, user, item, unix seconds, rating."""


def read(source: Source) -> list[Row]:
    """Read a source from its beginning to its end."""
    return as_rows(source.read(RULES))


def read_chunks(source: Source, block_bytes: int) -> list[Row]:
    """Read a source by chunks, as tasks do."""
    try:
        return _read_chunks(source, block_bytes)
    except QuotesFoundError:
        return _read_chunks(source.with_quotes(), block_bytes)


def _read_chunks(source: Source, block_bytes: int) -> list[Row]:
    chunks, known = source_chunks(source, block_bytes)
    parsed = [parse_chunk(source, RULES, chunk) for chunk in chunks]
    assert known in (None, len(parsed))
    return as_rows(concatenated(parsed, source.plan.first_row))


def as_rows(parsed: Parsed) -> list[Row]:
    """Return the rows that can be used, ids as texts, numbered from the first row of data."""
    users, items = ((str(value) for value in column.to_pylist()) for column in (parsed.users, parsed.items))
    numbers = parsed.numbers_R.tolist()
    return list(zip(numbers, users, items, parsed.times_R.tolist(), parsed.ratings_R.tolist(), strict=True))


def reference(case: Case, source: Source) -> list[Row]:
    """Return the rows as a reference reader reads them."""
    first = source.plan.first_row
    if case.format == "parquet":
        table = case.table
        columns = [table[name].tolist() for name in ROLES.values()]
        rows = [
            (number, str(user), str(item), second, float(np.float32(rating)))
            for number, (user, item, _, rating), second in zip(
                range(first, first + len(table)), zip(*columns, strict=True), case.seconds, strict=True
            )
        ]
        return [row for row in rows if row[1] and row[2]]
    data = case.path.read_bytes()
    data = {".gz": gzip.decompress, ".bz2": bz2.decompress}.get(case.path.suffix, bytes)(data)
    if case.path.suffix == ".zst":
        data = pa.CompressedInputStream(pa.BufferReader(data), "zstd").read()
    read = _json_rows if case.format == "json" else _text_rows
    return read(data, source, first)


def _text_rows(data: bytes, source: Source, first: int) -> list[Row]:
    """Read delimited text with Python's csv module; rows have all columns, and values that Arrow can cast."""
    plan = source.plan
    assert isinstance(plan, TextPlan)
    text = data.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "surrogateescape")
    found = [row for row in csv.reader(io.StringIO(text, newline=""), delimiter=plan.delimiter) if row]
    found = found[first - 1 :]
    numbered = [(n, row) for n, row in enumerate(found, start=first) if len(row) == len(plan.names)]
    places = {role: plan.names.index(column) for role, column in plan.roles.items()}
    # Text that is not UTF-8 matters in the columns that are read.
    numbered = [(n, row) for n, row in numbered if all(_is_text(row[place]) for place in places.values())]

    def cast(role: str) -> list[Any]:
        texts = pa.array([row[places[role]].strip(" \t") or None for _, row in numbered], pa.string())
        return parsed_or_null(texts, plan.types[role]).to_pylist()

    times, ratings = cast("time"), cast("rating")
    rows = []
    for (n, row), time_s, rating in zip(numbered, times, ratings, strict=True):
        user, item = row[places["user"]], row[places["item"]]
        if user and item and time_s is not None and rating is not None:
            rows.append((n, user, item, _seconds(time_s, source), float(np.float32(rating))))
    return [row for row in rows if 0 <= row[3] <= RULES.latest_s and np.isfinite(row[4])]


def _seconds(value: Any, source: Source) -> int:
    """Return a time as unix seconds; -1 for a number too small for the unit of the others."""
    if isinstance(value, str):
        kind = source.plan.times.text
        value = parsed_or_null(pa.array([value]), kind).to_pylist()[0]
        if value is None:
            return -1
    if not isinstance(value, int | float):
        return int(np.floor(pd.Timestamp(value).timestamp()))
    factor = FACTORS[source.plan.times.unit]
    return -1 if factor > 1 and value < 2**33 * factor / 1000 else int(np.floor(value // factor))


def _json_rows(data: bytes, source: Source, first: int) -> list[Row]:
    """Read JSON lines with Python's json module."""
    texts = source.plan.times.text is not None
    rows = []
    lines = [line for line in data.removeprefix(b"\xef\xbb\xbf").split(b"\n") if line.strip()]
    for number, line in enumerate(lines, start=first):
        try:
            row = json.loads(line.decode("utf-8", "surrogateescape"))
        except ValueError:
            continue
        if not isinstance(row, dict):
            continue
        user, item, time_s, rating = (row.get(name) for name in ROLES.values())
        ids = all(isinstance(v, int | str) and not isinstance(v, bool) and v != "" for v in (user, item))
        known = isinstance(time_s, str) if texts else isinstance(time_s, int | float)
        numbers = known and all(
            isinstance(v, int | float | str) and not isinstance(v, bool) for v in (time_s, rating)
        )
        if ids and numbers and not isinstance(rating, str) and _is_text(f"{user}{item}{time_s}"):
            second = _seconds(time_s, source)
            rows.append((number, str(user), str(item), second, float(np.float32(rating))))
    return [row for row in rows if 0 <= row[3] <= RULES.latest_s and np.isfinite(row[4])]


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def check(case: Case, blocks: tuple[int, ...]) -> tuple[int, str]:
    """Return how many rows are wrong, and what happened: `same`, `refused: ..` or what differs."""
    try:
        source = Source.open(case.path, case.options)
        found = {"whole": read(source), **{f"blocks of {size}": read_chunks(source, size) for size in blocks}}
    except DataError as error:
        return (
            (0, f"refused: {error}") if case.damaged else (len(case.table), f"refused a sound table: {error}")
        )
    if case.format == "text" and not case.damaged and source.plan.delimiter != case.delimiter:  # type: ignore[union-attr]
        return len(case.table), f"delimiter {source.plan.delimiter!r}"  # type: ignore[union-attr]
    wanted = reference(case, source)
    first = source.plan.first_row
    if not case.damaged and any(row[3] != case.seconds[row[0] - first] for row in wanted):
        return len(wanted), f"the plan reads times as {source.plan.times}"
    for how, rows in found.items():
        if rows != wanted:
            missing, more = set(wanted) - set(rows), set(rows) - set(wanted)
            wrong = max(len(missing) + len(more), 1)
            return (
                wrong,
                f"{how}: {len(rows)} rows for {len(wanted)}; lacks {sorted(missing)[:2]}, has {sorted(more)[:2]}",
            )
    return 0, "same"


WRITERS: tuple[Callable[[random.Random, pd.DataFrame, Path], Case], ...] = (
    write_text,
    write_json,
    write_parquet,
)


def one(seed: int, folder: Path, rows: int | None = None) -> tuple[Case, int, str]:
    """Write a table of one seed, perhaps damage it, and compare."""
    rng = random.Random(seed)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    table, seconds = make_table(rng, rows or rng.choice([1, 2, 5, 30, 200]))
    case = rng.choices(WRITERS, weights=(6, 2, 1))[0](rng, table, folder)
    case.seconds = seconds
    if rng.random() < 0.4:
        case = damage(rng, case)
    size = max(case.path.stat().st_size, 1)
    blocks = tuple(rng.sample([max(size // 40, 1), size // 7 + 1, size // 3 + 1, size // 2 + 1, 10**6], 3))
    return case, *check(case, blocks)


def fuzz(minutes: float, seed: int) -> int:
    """Compare tables until time is up, and return how many were read wrong."""
    folder, failed, refused, count = Path(tempfile.mkdtemp(prefix="ss4rec-field-")), 0, 0, 0
    end = time.monotonic() + 60 * minutes
    while time.monotonic() < end:
        try:
            case, wrong, what = one(seed, folder / "case")
        except Exception as error:
            case, wrong, what = None, 1, f"{type(error).__name__}: {error}"  # type: ignore[assignment]
        count += 1
        refused += what.startswith("refused")
        if wrong:
            failed += 1
            print(f"seed {seed}: {case.label if case else '?'}: {what}", flush=True)
        seed += 1
    shutil.rmtree(folder)
    print(f"{count:,} tables, {refused:,} refused with one sentence, {failed} wrong")
    return failed


def million(rows: int, seed: int = 1) -> tuple[list[dict[str, Any]], int]:
    """Write large hostile tables in every format, and return what came of each and how many rows are wrong."""
    folder, results, total, number = Path(tempfile.mkdtemp(prefix="ss4rec-field-")), [], 0, 0
    each = rows // 10
    while total < rows:
        rng = random.Random(seed + number)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        writer = WRITERS[(0, 0, 0, 1, 2)[number % 5]]
        table, seconds = make_table(rng, each)
        case = writer(rng, table, folder)
        case.seconds = seconds
        wrong, what = check(case, (1 << 16, 1 << 20, 16 << 20))
        results.append({"table": case.label, "rows": each, "wrong": wrong, "outcome": what[:200]})
        print(f"{case.label}: {each:,} rows, {what[:200]}", flush=True)
        total, number = total + each, number + 1
    shutil.rmtree(folder)
    return results, sum(result["wrong"] for result in results)


def main() -> int:
    """Compare, print and write the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--minutes", type=float, help="fuzz for so long instead")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    if options.minutes:
        return int(fuzz(options.minutes, options.seed) > 0)
    results, wrong = million(options.rows)
    figure = headline("field.rows_wrong_against_reference", wrong, "rows", 0, "csv, json and Parquet readers")
    print(write_record("field", results, [figure], options.out))
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
