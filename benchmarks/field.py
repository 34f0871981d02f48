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
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from benchmarks.record import headline, write_record
from ss4rec.data.prepare.chunks import parse_chunk, source_chunks
from ss4rec.data.sources import Rules, Source, TableOptions
from ss4rec.data.sources.checks import Parsed, concatenated
from ss4rec.data.sources.text import QuotesFoundError, TextPlan
from ss4rec.data.sources.times import FACTORS, parsed_or_null
from ss4rec.errors import DataError

RULES = Rules(max_bad_share=1.0)
FRAGMENTS = (
    "a",
    "b7",
    " ",
    ",",
    ";",
    "\t",
    "|",
    "::",
    '"',
    '""',
    "\n",
    "\r\n",
    "\\",
    "'",
    "é",
    "日本",
    "🎬",
    "NA",
    "null",
    "0",
)
"""What hostile fields are made of."""
BASE_S = 978_300_000
csv.field_size_limit(2**31 - 1)

Row = tuple[int, str, str, int, float]
"""Number, user, item, unix seconds, rating."""


@dataclass
class Case:
    """One written source and what it must be read to."""

    path: Path
    options: TableOptions
    label: str
    table: pd.DataFrame
    """What was written."""
    format: str
    """`text`, `json` or `parquet`."""
    header: bool = True
    delimiter: str = ","
    damaged: bool = False
    seconds: list[int] = field(default_factory=list)
    """The true times of the rows."""


def hostile(rng: random.Random, most: int = 5) -> str:
    """Return a field of a few fragments."""
    return "".join(rng.choice(FRAGMENTS) for _ in range(rng.randint(1, most)))


def written_times(rng: random.Random, seconds: list[int]) -> list[Any] | pd.Series:
    """Return times in one of the ways in which people write them."""
    how = rng.choice(["s", "s", "s", "ms", "us", "ns", "float", "iso", "zone", "datetime"])
    if how in FACTORS:
        factor = FACTORS[how]  # type: ignore[index]
        return [second * factor + rng.randrange(factor) for second in seconds]
    if how == "float":
        return [second + rng.choice([0.0, 0.25, 0.75]) for second in seconds]
    moments = pd.Series(pd.to_datetime(seconds, unit="s"))
    if how == "datetime":
        return moments.astype(
            rng.choice(["datetime64[s]", "datetime64[ms]", "datetime64[us]", "datetime64[ns]"])
        )
    zone = "+00:00" if how == "zone" else ""
    return [f"{moment.isoformat(sep=rng.choice(' T'))}{zone}" for moment in moments]


def make_table(rng: random.Random, rows: int) -> tuple[pd.DataFrame, list[int]]:
    """Return a table with the four roles and up to three more columns, in any order; and its times, unix seconds."""
    seconds = [BASE_S + rng.randint(0, 10**8) for _ in range(rows)]
    kind = rng.choice(["whole", "whole", "plain", "hostile"])
    users = (
        [rng.randint(-5, 40) for _ in range(rows)]
        if kind == "whole"
        else [f"u{rng.randint(0, 30):03d}" if kind == "plain" else hostile(rng, 3) for _ in range(rows)]
    )
    if rng.random() < 0.5:
        users = sorted(users)
    pool = [hostile(rng) for _ in range(20)] + [str(n) for n in range(20)]
    columns: dict[str, list[Any]] = {
        "user_id": users,
        "item_id": [rng.choice(pool) for _ in range(rows)],
        "timestamp": written_times(rng, seconds),
        "rating": [rng.choice([0.5, 1.0, 3.5, 5.0]) for _ in range(rows)],
    }
    for number in range(rng.randint(0, 3)):
        columns[f"text {number}"] = [hostile(rng, 8) if rng.random() < 0.7 else "" for _ in range(rows)]
    names = list(columns)
    rng.shuffle(names)
    return pd.DataFrame({name: columns[name] for name in names}), seconds


def pack(rng: random.Random, path: Path, data: bytes) -> Path:
    """Write bytes as they are or packed, and return the path."""
    how = rng.choice(["", "", "", ".gz", ".bz2", ".zst"])
    packed = {
        ".gz": gzip.compress,
        ".bz2": bz2.compress,
        ".zst": lambda raw: pa.Codec("zstd").compress(raw, asbytes=True),
    }
    target = path.with_name(path.name + how)
    target.write_bytes(packed[how](data) if how else data)
    return target


def write_text(rng: random.Random, table: pd.DataFrame, folder: Path) -> Case:
    """Write delimited text by one of four writers."""
    delimiter = rng.choice([",", ",", ";", "\t", "|"])
    end = rng.choice(["\n", "\n", "\r\n"])
    header = rng.random() < 0.8
    writer = rng.choice(["pandas", "polars", "arrow", "csv"])
    quoting = rng.choice([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC])
    if writer == "pandas":
        text = table.to_csv(
            sep=delimiter, quoting=quoting, lineterminator=end, index=False, header=header
        ).encode()
    elif writer == "polars":
        style = rng.choice(["necessary", "always", "non_numeric"])
        text = (
            pl.from_pandas(table)
            .write_csv(separator=delimiter, quote_style=style, line_terminator=end, include_header=header)
            .encode()
        )
    elif writer == "arrow":
        sink = io.BytesIO()
        options = pacsv.WriteOptions(include_header=header, delimiter=delimiter)
        pacsv.write_csv(pa.Table.from_pandas(table, preserve_index=False), sink, options)
        text = sink.getvalue()
    else:
        sheet = io.StringIO(newline="")
        out = csv.writer(sheet, delimiter=delimiter, quoting=quoting, lineterminator=end)
        out.writerows(([list(table)] if header else []) + table.to_numpy(object).tolist())
        text = sheet.getvalue().encode()
    if rng.random() < 0.2:
        text = b"\xef\xbb\xbf" + text
    if rng.random() < 0.2:
        text = text.removesuffix(b"\n").removesuffix(b"\r")
    columns = {} if header else {role: str(1 + list(table).index(name)) for role, name in ROLES.items()}
    given = delimiter if not header or rng.random() < 0.3 else None
    path = pack(rng, folder / ("t.tsv" if delimiter == "\t" and rng.random() < 0.5 else "t.csv"), text)
    label = f"{writer} {delimiter!r} {path.suffix} quoting {quoting} {'header' if header else 'no header'}"
    return Case(path, TableOptions(columns, delimiter=given), label, table, "text", header, delimiter)


ROLES = {"user": "user_id", "item": "item_id", "time": "timestamp", "rating": "rating"}


def write_json(rng: random.Random, table: pd.DataFrame, folder: Path) -> Case:
    """Write JSON lines by one of three writers."""
    writer = rng.choice(["pandas", "polars", "json"])
    if writer == "pandas":
        if table["timestamp"].dtype.kind == "M":  # pandas 2.3 writes other units wrongly
            table["timestamp"] = table["timestamp"].astype("datetime64[ns]")
        text = table.to_json(orient="records", lines=True, force_ascii=rng.random() < 0.5)
    elif writer == "polars":
        text = pl.from_pandas(table).write_ndjson()
    else:
        text = "".join(json.dumps(row, default=str) + "\n" for row in table.to_dict("records"))
    path = pack(rng, folder / rng.choice(["t.jsonl", "t.ndjson", "t.json"]), text.encode())
    return Case(path, TableOptions(), f"{writer} json {path.suffix}", table, "json")


def write_parquet(rng: random.Random, table: pd.DataFrame, folder: Path) -> Case:
    """Write Parquet by one of three writers, in one file or in parts."""
    writer = rng.choice(["pandas", "polars", "arrow", "parts"])
    group = rng.choice([1, 7, 100, 10**6]) if len(table) < 1000 else 100_000
    if writer == "pandas":
        table.to_parquet(folder / "t.parquet", index=False, row_group_size=group)
    elif writer == "polars":
        pl.from_pandas(table).write_parquet(folder / "t.parquet", row_group_size=group)
    elif writer == "arrow":
        arrow = pa.Table.from_pandas(table, preserve_index=False)
        for name in arrow.column_names:
            if pa.types.is_string(arrow[name].type) or pa.types.is_large_string(arrow[name].type):
                kind = rng.choice(
                    [pa.string(), pa.large_string(), pa.string_view(), pa.binary(), "dictionary"]
                )
                column = arrow[name].cast(pa.string())
                column = column.dictionary_encode() if kind == "dictionary" else column.cast(kind)
                arrow = arrow.set_column(arrow.column_names.index(name), name, column)
        pq.write_table(arrow, folder / "t.parquet", row_group_size=group)
    else:
        half = len(table) // 2
        for number, part in enumerate((table[:half], table[half:])):
            part.to_parquet(folder / f"part-{number:05d}.snappy.parquet", index=False)
        (folder / "_SUCCESS").touch()
        return Case(folder, TableOptions(), "parquet parts", table, "parquet")
    return Case(folder / "t.parquet", TableOptions(), f"{writer} parquet", table, "parquet")


def damage(rng: random.Random, case: Case) -> Case:
    """Change a few bytes of a text file, so that rows are broken in every way."""
    if case.format == "parquet" or case.path.suffix in (".gz", ".bz2", ".zst"):
        return case
    data = bytearray(case.path.read_bytes())
    start = data.find(b"\n") + 1 if case.header else 0
    for _ in range(rng.randint(1, 4)):
        place = rng.randint(start, max(len(data) - 1, start))
        new = rng.choice(
            [b'"', b"\n", b"\r", case.delimiter.encode(), b"x", b'""', b"\\", b"\xff", b" ", b"{", b"1"]
        )
        data[place : place + rng.randint(0, 2)] = new
    case.path.write_bytes(bytes(data))
    case.damaged, case.label = True, case.label + " damaged"
    return case


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
