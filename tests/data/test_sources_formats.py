"""Forms in which people have ratings: each is read to the right rows, or refused with one sentence (field reports)."""

import bz2
import csv
import gzip
import io
import json
import pickle
import zipfile

import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ss4rec.data.sources import Archive, Source, TableOptions
from ss4rec.errors import DataError
from tests.data.reading import ALL, chunked, read, reasons, write

ROWS = [("1", "a", 1_000_000_100, 1.0), ("1", "b", 1_000_000_200, 1.0), ("2", "a", 1_000_000_050, 1.0)]
NUMBERED = {"user": "1", "item": "2", "time": "3"}


def text(delimiter=",", header=True, end="\n"):
    lines = [["user_id", "item_id", "timestamp"]] * header + [[u, i, str(t)] for u, i, t, _ in ROWS]
    return "".join(delimiter.join(line) + end for line in lines)


def jsonl():
    return "".join(json.dumps({"user": int(u), "item": i, "time": t}) + "\n" for u, i, t, _ in ROWS)


def frame():
    return pd.DataFrame(
        {"user": [r[0] for r in ROWS], "item": [r[1] for r in ROWS], "time": [r[2] for r in ROWS]}
    )


FORMS = {
    "comma": ("t.csv", text()),
    "semicolon": ("t.csv", text(";")),
    "tab in .csv": ("t.csv", text("\t")),
    "tab": ("t.tsv", text("\t")),
    "pipe": ("t.txt", text("|")),
    "blank": ("t.txt", text(" ")),
    "runs of blanks": ("t.txt", text("   ")),
    "blanks at the ends": ("t.txt", "".join(f"  {line}  \n" for line in text("  ").splitlines())),
    "two colons": ("t.dat", text("::")),
    "upper case": ("T.CSV", text()),
    "upper case, tabs": ("T.TSV", text("\t")),
    "any suffix": ("ratings.base", text("\t")),
    "no suffix": ("ratings", text()),
    "carriage returns": ("t.csv", text(end="\r")),
    "DOS": ("t.csv", text(end="\r\n")),
    "blank first lines": ("t.csv", "\n\r\n\n" + text()),
    "byte order mark": ("t.csv", b"\xef\xbb\xbf" + text().encode()),
    "blanks in the header": ("t.csv", text().replace("user_id,item_id,", "user_id, item_id , ")),
    "blanks everywhere": ("t.csv", text(", ")),
    "no line end at the end": ("t.csv", text().rstrip()),
    "quoted header": ("t.csv", text().replace("item_id", '"item_id"')),
    "line break in the header": ("t.csv", '"a\nb",' + text().replace("\n1", "\nx,1").replace("\n2", "\nx,2")),
    "gzip": ("t.csv.gz", gzip.compress(text().encode())),
    "gzip in two members": ("t.csv.gz", gzip.compress(text()[:40].encode()) + gzip.compress(text()[40:].encode())),
    "gzip, tabs": ("t.TSV.GZ", gzip.compress(text("\t").encode())),
    "gzip under another name": ("t.csv", gzip.compress(text().encode())),
    "bzip2": ("t.csv.bz2", bz2.compress(text().encode())),
    "Zstandard": ("t.csv.zst", pa.Codec("zstd").compress(text().encode(), asbytes=True)),
    "JSON lines": ("t.jsonl", jsonl()),
    "JSON lines, packed": ("t.json.gz", gzip.compress(jsonl().encode())),
    "JSON lines, other keys": ("t.ndjson", jsonl().replace('"user"', '"x": {"y": [1]}, "reviewerID"')),
    "JSON lines without suffix": ("reviews", jsonl()),
    "Parquet": ("t.parquet", lambda path: frame().to_parquet(path)),
    "Parquet, upper case": ("T.PARQUET", lambda path: frame().to_parquet(path)),
    "Polars' Parquet": ("t.pq", lambda path: pl.from_pandas(frame()).write_parquet(path)),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("place", ["file", "folder", "zip"])
def test_what_people_have_is_read(tmp_path, form, place):
    name, content = FORMS[form]
    folder = write(tmp_path / "x", {name: content, "README.txt": "read me", "SOURCE.txt": "from"})
    path = folder / name
    if place == "folder":
        path = folder
    if place == "zip":
        path = tmp_path / "x.zip"
        with zipfile.ZipFile(path, "w") as archive:
            archive.write(folder / name, f"deep/er/{name}")
            archive.writestr(f"__MACOSX/deep/er/._{name}", b"\0\5\x16\7")
            archive.writestr("deep/.DS_Store", b"\0")
    if place != "file" and form in ("any suffix", "no suffix", "JSON lines without suffix"):
        with pytest.raises(DataError, match=r"give it as the source"):
            read(path)
        return
    assert read(path) == ROWS


@pytest.mark.parametrize("delimiter", [",", "\t", ";", " ", "|", "::"])
def test_files_without_a_header_are_read_by_number(tmp_path, delimiter):
    lines = [f"{u}{delimiter}{i}{delimiter}{r}{delimiter}{t}\n" for u, i, t, r in ROWS]
    path = write(tmp_path, {"t.csv": "".join(lines)}) / "t.csv"
    numbered = {"user": "1", "item": "2", "time": "4", "rating": "3"}
    assert read(path, numbered) == ROWS
    assert read(path, numbered, delimiter=delimiter) == ROWS
    with pytest.raises(DataError, match=r"no header, number the columns: --columns user=1,item=2,time=3"):
        read(path)
    with pytest.raises(DataError, match=r"has 4 columns; there is no column 5"):
        read(path, numbered | {"time": "5"})
    path.write_text("u;i;r;t\n".replace(";", delimiter) + "".join(lines))
    assert read(path, numbered) == ROWS


def test_numbers_that_are_names(tmp_path):
    frame().to_csv(tmp_path / "t.csv", header=["0", "1", "2"], index=False)
    assert read(tmp_path / "t.csv", {"user": "0", "item": "1", "time": "2"}) == ROWS
    frame().to_parquet(tmp_path / "t.parquet")
    assert read(tmp_path / "t.parquet", NUMBERED) == ROWS


@pytest.mark.parametrize(
    ("word", "delimiter"), [("tab", "\t"), ("\\t", "\t"), ("blank", " "), ("semicolon", ";"), ("^", "^")]
)
def test_the_delimiter_may_be_given(tmp_path, word, delimiter):
    (tmp_path / "t.csv").write_text(text(delimiter))
    assert read(tmp_path / "t.csv", delimiter=word) == ROWS


def test_what_is_no_delimiter_is_refused(tmp_path):
    (tmp_path / "t.csv").write_text(text())
    for word in ("", ", ", '"', "\n", "commas"):
        if word:
            with pytest.raises(DataError, match=r"give one character, '::', or a word: comma"):
                read(tmp_path / "t.csv", delimiter=word)


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_parts_of_one_table_are_one_table(tmp_path, kind):
    parts = [frame()[:1], frame()[1:2], frame()[2:]]
    for number, part in zip((2, 9, 10), parts, strict=True):
        path = tmp_path / f"part-{number}-0b1c2d3e-0b1c-0b1c-0b1c-0b1c2d3e4f50-c000.snappy.{kind}"
        part.to_csv(path, index=False) if kind == "csv" else part.to_parquet(path, index=False)
        write(tmp_path, {f".{path.name}.crc": "crc", f"._{path.name}": "x"})
    write(
        tmp_path,
        {"_SUCCESS": "", "_metadata": "PAR1", "part-11-c000.csv" if kind == "csv" else "part-11.x": ""},
    )
    assert read(tmp_path) == ROWS
    assert any("3 files are read as one table" in note for note in Source.open(tmp_path).notes)
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as archive:
        for path in tmp_path.glob(f"part*.{kind}"):
            archive.write(path, f"table/{path.name}")
    assert sorted(read(tmp_path / "z.zip")) == sorted(ROWS)


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_folders_that_are_columns(tmp_path, kind):
    """Hive's folders: user in the file, time or item in the name of its folder."""
    for day, part in (("2001-09-09", frame()[:2]), ("2001-09-10", frame()[2:])):
        folder = tmp_path / f"day={day}" / "shop=a%20b"
        folder.mkdir(parents=True)
        part = part.drop(columns="time")
        part.to_csv(folder / "data_0.csv", index=False) if kind == "csv" else part.to_parquet(
            folder / "p.parquet"
        )
    expected = [("1", "a", 999_993_600), ("1", "b", 999_993_600), ("2", "a", 1_000_080_000)]
    assert [row[:3] for row in read(tmp_path, {"time": "day"})] == expected
    assert [row[:3] for row in read(tmp_path, {"time": "day", "item": "shop"})] == [
        (user, "a b", time) for user, _, time in expected
    ]
    missing = tmp_path / "day=__HIVE_DEFAULT_PARTITION__" / "shop=c"
    missing.mkdir(parents=True)
    frame()[:1].drop(columns="time").to_csv(
        missing / "data_0.csv", index=False
    ) if kind == "csv" else frame()[:1].drop(columns="time").to_parquet(missing / "p.parquet")
    assert [row[:3] for row in read(tmp_path, {"time": "day"})] == expected
    assert [reason for _, reason in reasons(tmp_path, {"time": "day"})] == ["time_missing"]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"train.csv": text(), "test.csv": text()}, r"2 files that may be the table \(test.csv, train.csv\)"),
        ({"part-0.csv": text(), "part-1.csv": text(";")}, r"part-1.csv begins with .* the header 'user_id, item_id"),
        ({"part-0.csv": text(), "part-1.csv": text(header=False)}, r"part-1.csv begins with '1, a"),
        ({"a=1/p.csv": text(), "p.csv": text()}, r"2 files that may be the table"),
        ({"x.zip": "PK"}, r"x.zip is a zip; unpack it"),
        ({"x.xlsx": "PK"}, r"x.xlsx is an Excel workbook; save it as CSV"),
        ({"x.tar.gz": "x"}, r"x.tar.gz is a tar archive; unpack it and give the folder"),
        ({"t.csv": text().replace("item_id", "user_id")}, r"has the column 'user_id' twice"),
        ({"t.csv": '{"user": 1}\n'}, r"none is known to be the user"),
        ({"t.csv": b"PAR1xxxx"}, r"t.csv is a Parquet file; give it the suffix .parquet"),
        ({"t.csv": b"PK\x03\x04xxxx"}, r"t.csv is a zip"),
        ({"t.csv": text().encode("utf-16")}, r"the header is not UTF-8; convert the file to UTF-8"),
        ({"t.csv": text().encode("utf-16-le")}, r"the header is not UTF-8"),
        ({"t.csv.gz": gzip.compress(text().encode() * 50)[:-20]}, r"t.csv.gz is damaged \(.*\); copy or download"),
        ({"t.csv.zst": b"\x28\xb5\x2f\xfd1234567"}, r"t.csv.zst is damaged"),
        ({"t.csv.bz2": b"BZh91AY&SY12345678"}, r"t.csv.bz2 is damaged"),
        ({"t.json": json.dumps([{"user": 1, "item": 2, "time": 3}])}, r"is one JSON array; write JSON lines"),
        ({"t.json": json.dumps({"user": 1, "item": [2]}, indent=2)}, r"no JSON object in its first lines"),
        ({"t.csv": text() + '3,"open,5\n4,b,6\n'}, r"quoted field that is never closed.*b'3,\"open,5"),
        ({"t.csv": text() + '3,"a\\"b",1000000000\n'}, r"quotes behind a backslash.*write such quotes doubled"),
        ({"_delta_log/0.json": "{}", "p.parquet": "x"}, r"is a Delta table; install its reader"),
        ({"metadata/v1.metadata.json": "{}", "data/p.parquet": "x"}, r"is an Iceberg table"),
    ],
)  # fmt: skip
def test_what_is_not_read_is_named(tmp_path, files, message):
    with pytest.raises(DataError, match=message) as found:
        read(write(tmp_path / "x", files))
    assert "\n" not in str(found.value)


def test_nested_archives_are_named_by_themselves_too(tmp_path):
    write(tmp_path, {"x.tgz": "x", "x.7z": "x", "x.xz": "x"})
    for name in ("x.tgz", "x.7z", "x.xz"):
        with pytest.raises(DataError, match=rf"{name} is .*; unpack it"):
            Source.open(tmp_path / name)


def test_bombs_are_refused(tmp_path, monkeypatch):
    from ss4rec.io import untrusted

    monkeypatch.setattr(untrusted, "BOMB_BYTES", 1 << 20)
    line = b"1,a,1000000000\n"
    for name, pack in (
        ("t.csv.gz", gzip.compress),
        ("t.csv.bz2", bz2.compress),
        ("t.csv.zst", pa.Codec("zstd").compress),
    ):
        (tmp_path / name).write_bytes(bytes(pack(b"user,item,time\n" + line * 200_000)))
        with pytest.raises(DataError, match=r"unpacks from .* more than 100 times"):
            Source.open(tmp_path / name).read(ALL)


def test_fields_of_any_length(tmp_path):
    """Python's csv module stops at 131,072 characters."""
    long = "x" * 300_000
    lines = f'user,item,time,text\n1,a,1000000000,"{long}"\n1,{long},1000000001,t\n2,b,soon,{long}\n'
    path = write(tmp_path, {"t.csv": lines}) / "t.csv"
    assert read(path, blocks=(1000, 10**6)) == [("1", "a", 10**9, 1.0), ("1", long, 10**9 + 1, 1.0)]
    assert reasons(path) == [(4, "time_unreadable")]
    header = f'"{long}",user,item,time\nx,1,a,1000000000\n'
    path.write_text(header)
    assert read(path, blocks=(10**6,)) == [("1", "a", 10**9, 1.0)]


def test_a_row_without_an_end_is_refused(tmp_path, monkeypatch):
    from ss4rec.data.sources import text as reader

    monkeypatch.setattr(reader, "MAX_ROW_BYTES", 1 << 20)
    (tmp_path / "t.csv").write_text('user,item,time\n1,a,1000000000\n2,"' + "open,5\n" * (1 << 20))
    with pytest.raises(
        DataError, match=r"a row of over 1 MiB \(a quote opens a field that is never closed\)"
    ):
        chunked(Source.open(tmp_path / "t.csv"), 1 << 16)


def test_reading_stops_when_the_first_thousands_all_fail(tmp_path, monkeypatch):
    from ss4rec.data.sources import text as reader

    parsed, real = [], reader._read
    monkeypatch.setattr(reader, "_read", lambda data, *rest: parsed.append(len(data)) or real(data, *rest))
    whole = "user,item,time\n" + "".join(f"{n},a,1000000000\n" for n in range(100))
    cases = {
        "fields": "".join(f"{n},a\n" for n in range(8_000)),
        "time_late": "".join(f"{n},a,9999999999999999\n" for n in range(8_000)),
        "time_missing": "".join(f"{n},a,\n" for n in range(8_000)),
    }
    for reason, rows in cases.items():
        (tmp_path / "t.csv").write_text("user,item,time\n" + rows)
        with pytest.raises(
            DataError, match=rf"row 2: .*None of the first 5,000 rows can be used \({reason} 5,000\)"
        ):
            Source.open(tmp_path / "t.csv", TableOptions(time_unit="s")).read()
        (tmp_path / "t.csv").write_text(whole + rows)
        assert Source.open(tmp_path / "t.csv", TableOptions(time_unit="s")).read(ALL).rows == 8_100
    assert len(parsed) < 1_000_000
    lines = '{"user": 1, "item": 2, "time": "soon"}\n' * 20_000
    (tmp_path / "t.jsonl").write_text("x" * 300 + "\n" + jsonl() * 400 + lines)
    assert Source.open(tmp_path / "t.jsonl").read(ALL).rows == 21_201


def test_types_that_arrow_writes(tmp_path):
    ids = {
        "string": pa.array(["a", "b"]),
        "large": pa.array(["a", "b"], pa.large_string()),
        "view": pa.array(["a", "b"], pa.string_view()),
        "bytes": pa.array([b"a", b"b"]),
        "large dictionary": pa.array(["a", "b"], pa.large_string()).dictionary_encode(),
        "dictionary": pa.array(["a", "b"]).dictionary_encode(),
    }
    for name, values in ids.items():
        table = pa.table(
            {"user": values, "item": pa.array([1, 2], pa.uint8()), "time": pa.array([10**9] * 2)}
        )
        pq.write_table(table, tmp_path / "t.parquet")
        assert read(tmp_path / "t.parquet") == [("a", 1, 10**9, 1.0), ("b", 2, 10**9, 1.0)], name


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
def test_unsigned_ids_above_63_bits(tmp_path, suffix):
    table = pa.table(
        {"user": pa.array([2**64 - 1, 7], pa.uint64()), "item": ["a", "b"], "time": [10**9, 10**9]}
    )
    path = tmp_path / f"t.{suffix}"
    pq.write_table(table, path) if suffix == "parquet" else table.to_pandas().to_csv(path, index=False)
    assert [row[0] for row in read(path)] == ["18446744073709551615", "7"]


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("user", pa.array([1.0, 2.0]), r"user has type double; ids must be strings or integers"),
        ("item", pa.array([[1], [2]]), r"item has type list.*; ids must be strings or integers"),
        ("item", pa.array([True, False]), r"item has type bool; ids"),
        ("item", pa.array([b"\xff", b"a"]), r"t.parquet: .*UTF"),
        ("time", pa.array([1, 2], pa.duration("s")), r"time has type duration\[s\]"),
        ("time", pa.array([1, 2]).cast(pa.decimal128(20, 0)), r"time has type decimal"),
        ("time", pa.array([1, 2], pa.time64("us")), r"time has type time64"),
        ("rating", pa.array(["good", "bad"]), r"rating has type string; ratings must be numbers"),
    ],
)
def test_types_that_cannot_play_a_role(tmp_path, column, values, message):
    columns = {"user": pa.array([1, 2]), "item": pa.array([1, 2]), "time": pa.array([10**9] * 2)} | {
        column: values
    }
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    with pytest.raises(DataError, match=message):
        read(tmp_path / "t.parquet")


def test_ratings_may_be_decimals(tmp_path):
    columns = {"user": [1], "item": [2], "time": [10**9], "rating": pa.array([4.5]).cast(pa.decimal128(5, 2))}
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    assert read(tmp_path / "t.parquet") == [(1, 2, 10**9, 4.5)]


def test_a_doubled_name_is_refused_in_parquet_too(tmp_path):
    table = pa.Table.from_arrays([pa.array([1])] * 4, names=["user", "item", "time", "user"])
    pq.write_table(table, tmp_path / "t.parquet")
    with pytest.raises(DataError, match=r"has the column 'user' twice"):
        read(tmp_path / "t.parquet")


def test_json_lines_of_mixed_kinds(tmp_path):
    lines = [
        '{"user": 1, "item": "a", "time": 1000000000, "rating": 3}',
        '{"user": "1", "item": "b", "time": 1000000001, "rating": 2.5, "user": "2"}',
        "",
        '{"user": true, "item": "b", "time": 1000000001}',
        '{"user": 18446744073709551616, "item": "c", "time": 1000000002, "rating": 1}',
        "no object",
        '{"user": "", "item": "c", "time": 1000000002, "rating": 1}',
        '{"user": "\\ud83d", "item": "c", "time": 1000000002, "rating": 1}',
        '{"user": 5, "item": "c", "time": 1e9, "rating": NaN}',
        '{"user": 5, "item": "c"}',
    ]
    path = write(tmp_path, {"t.jsonl": "\n".join(lines)}) / "t.jsonl"
    assert read(path) == [("1", "a", 10**9, 3), ("2", "b", 10**9 + 1, 2.5), (str(2**64), "c", 10**9 + 2, 1)]
    assert reasons(path) == [
        (3, "user_unreadable"),
        (5, "unreadable"),
        (6, "user_missing"),
        (7, "user_unreadable"),
        (8, "rating_missing"),
        (9, "time_missing"),
    ]


def test_a_file_that_is_called_ratings_csv_but_is_not_of_grouplens(tmp_path):
    (tmp_path / "ratings.csv").write_text(text())
    assert read(tmp_path / "ratings.csv") == ROWS
    assert Source.open(tmp_path).layout.name == "table"


def test_a_source_travels_to_other_processes(tmp_path):
    (tmp_path / "t.csv").write_text(text())
    source = pickle.loads(pickle.dumps(Source.open(tmp_path / "t.csv")))
    assert source.read().rows == 3
    assert isinstance(source.archive, Archive)


def test_rows_are_counted_as_a_person_counts(tmp_path):
    sheet = io.StringIO(newline="")
    rows = [
        ["user", "item", "time"],
        ["1", "a\nb", "1000000000"],
        ["2", "c", "soon"],
        ["", "d", "1000000000"],
    ]
    csv.writer(sheet).writerows(rows)
    (tmp_path / "t.csv").write_bytes(sheet.getvalue().encode())
    assert read(tmp_path / "t.csv") == [("1", "a\nb", 10**9, 1.0)]
    assert reasons(tmp_path / "t.csv") == [(3, "time_unreadable"), (4, "user_missing")]


def test_what_cannot_be_opened_is_named(tmp_path, monkeypatch):
    import os
    from pathlib import Path

    os.mkfifo(tmp_path / "pipe.csv")
    with pytest.raises(DataError, match=r"pipe.csv is neither a file nor a folder"):
        Source.open(tmp_path / "pipe.csv")
    (tmp_path / "t.csv").write_text(text())

    def refuse(path, *_):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(DataError, match=r"t.csv cannot be opened: Permission denied"):
        Source.open(tmp_path / "t.csv")
