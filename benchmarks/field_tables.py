"""Hostile tables for `benchmarks.field`, as pandas, Polars, Arrow and Python write them, whole or damaged."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from ss4rec.data.sources import TableOptions
from ss4rec.data.sources.times import FACTORS

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
