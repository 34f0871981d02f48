"""Files of features and lists of ids in the forms that people have: read alike, or refused with one sentence."""

import bz2
import csv
import datetime as dt
import gzip
import io
import random
from decimal import Decimal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks import field
from ss4rec.data.prepared.features import encode_features
from ss4rec.data.sources.features import as_profiles, read_features
from ss4rec.data.sources.small_tables import DELIMITERS, read_small
from ss4rec.errors import DataError

TEXT = "item_id,price,brand\na,1.5,x\nb,2.5,y\nc,3,x\n"
IDS = pa.array(list("abc"))
NAMES = ("item_id",)


def jsonl(price="1.5"):
    return f'{{"item_id":"a","price":{price},"brand":"x"}}\n{{"price":2.5,"item_id":"b","brand":"y"}}\n' + (
        '{"item_id":"c","price":3,"brand":"x","deep":{"x":1}}\n'
    )


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("f.csv", TEXT),
        ("F.CSV", TEXT),
        ("f.csv", b"\xef\xbb\xbf" + TEXT.encode()),
        ("f.csv", TEXT.replace("\n", "\r\n")),
        ("f.csv", TEXT.replace("\n", "\r")),
        ("f.csv", TEXT.replace(",", ";")),
        ("f.csv", TEXT.replace(",", "\t")),
        ("f.txt", TEXT.replace(",", "|")),
        ("f.dat", TEXT.replace(",", "::")),
        ("f.txt", TEXT),
        ("f.tsv", TEXT),
        ("f.tsv", TEXT.replace(",", "\t")),
        ("f.csv", TEXT.replace(",", ", ")),
        ("f.csv", TEXT.replace("item_id,", '"item_id", ', 1).replace("brand", " brand ")),
        ("f.csv.gz", gzip.compress(TEXT.encode())),
        ("f.csv", bz2.compress(TEXT.encode())),
        ("f.jsonl", jsonl()),
        ("f.json.gz", gzip.compress(jsonl().encode())),
        ("f", jsonl()),
    ],
)
def test_one_table_in_all_forms(tmp_path, name, content):
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    found = read_features(tmp_path / name, NAMES)
    assert found.source_id.to_pylist() == ["a", "b", "c"]
    assert found.columns.select(["price", "brand"]).to_pydict() == {
        "price": [1.5, 2.5, 3.0],
        "brand": ["x", "y", "x"],
    }
    assert found.notes == (
        (f"{tmp_path / name}: columns of structures are not read: deep",)
        if b"deep" in _bytes(content)
        else ()
    )


def _bytes(content):
    data = content if isinstance(content, bytes) else content.encode()
    return gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (pa.array(["x", "y", None]).dictionary_encode(), ["x", "y", None]),
        (pa.array(["x", "", "z"], pa.large_string()), ["x", None, "z"]),
        (pa.array(["x", "y", "z"], pa.string_view()), ["x", "y", "z"]),
        (pa.array([b"x", b"y", b"z"]), ["x", "y", "z"]),
        (pa.array([Decimal("1.5"), None, Decimal("2.25")]), [1.5, None, 2.25]),
        (pa.array([1.5, float("nan"), 2.5]), [1.5, None, 2.5]),
        (pa.array(np.array([1, 2, 3], np.float16)), [1.0, 2.0, 3.0]),
        (pa.array([True, False, None]), ["true", "false", None]),
        (pa.array([2**63 + 1, 2, 3], pa.uint64()), ["9223372036854775809", "2", "3"]),
        (pa.array([5, None, 7], pa.int8()), [5, None, 7]),
        (pa.array([1_500_000_000_500, 2000, 3000], pa.timestamp("ms", "UTC")), [1_500_000_000.0, 2.0, 3.0]),
        (pa.array([dt.date(1970, 1, 2)] * 3), [86400.0] * 3),
        (pa.nulls(3), [None] * 3),
        (pa.array([["x"], None, []], pa.large_list(pa.string())), [["x"], None, []]),
        (pa.array([[1, 2]] * 3, pa.list_(pa.float32(), 2)), [[1.0, 2.0]] * 3),
        (pa.array([["x", "y"]] * 3, pa.list_(pa.dictionary(pa.int8(), pa.string()))), [["x", "y"]] * 3),
    ],
)
def test_columns_of_parquet(tmp_path, column, expected):
    pq.write_table(pa.table({"c": column, "item_id": IDS.dictionary_encode()}), tmp_path / "f.parquet")
    found = read_features(tmp_path / "f.parquet", NAMES)
    assert found.columns["c"].to_pylist() == expected
    encode_features(IDS, found)
    as_profiles(found)


def test_categories_of_pandas(tmp_path):
    frame = pd.DataFrame({"item_id": pd.Categorical(list("abc")), "n": pd.Categorical([1, 2, 2])})
    frame.to_parquet(tmp_path / "f.parquet")
    assert read_features(tmp_path / "f.parquet", NAMES).columns["n"].to_pylist() == [1, 2, 2]


def test_values_of_json(tmp_path):
    lines = [
        '{"item_id": 1, "tags": ["x", 2], "v": [1, 2.5], "n": 1, "t": true, "mix": "a", "late": null, "m": 1}',
        '{"item_id": 2, "tags": [], "v": null, "n": 2.5, "t": null, "mix": 7, "d": {"x": 1}, "m": [1]}',
        '{"item_id": 3, "n": NaN, "late": "x", "big": 9223372036854775808, "l": [{"a": 1}]}',
    ]
    (tmp_path / "f.jsonl").write_text("\n".join(lines))
    found = read_features(tmp_path / "f.jsonl", NAMES)
    assert found.source_id.to_pylist() == [1, 2, 3]
    assert found.columns.to_pydict() == {
        "tags": [["x", "2"], [], None],
        "v": [[1.0, 2.5], None, None],
        "n": [1.0, 2.5, None],
        "t": ["true", None, None],
        "mix": ["a", "7", None],
        "late": [None, None, "x"],
        "big": [None, None, "9223372036854775808"],
    }
    assert found.notes[0].endswith("columns of structures are not read: m, d, l")


def test_ids_stay_as_they_are_written(tmp_path):
    (tmp_path / "f.csv").write_text("item_id,code\n1.0,007\n1,7\n1e5,1e5\n")
    found = read_features(tmp_path / "f.csv", NAMES)
    assert found.source_id.to_pylist() == ["1.0", "1", "1e5"]
    assert found.columns["code"].to_pylist() == ["007", "7", "1e5"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("f.csv", TEXT.encode("utf-16"), "header is not UTF-8; convert"),
        ("f.csv", TEXT.replace("x", "é").encode("latin-1"), r"Row #2: .*invalid UTF8"),
        ("f.csv", TEXT.replace("brand", "price"), "has the column 'price' twice"),
        ("f.csv", TEXT + "d,1\n", r"Row #5: Expected 3 columns, got 2"),
        ("f.csv", TEXT + 'd,1,"x" y\n', "goes on behind its closing quote"),
        ("f.csv", TEXT + "a,1,x\n", "empty or repeated ids"),
        ("f.csv", "item_id,price\n", "has no rows"),
        ("f.csv", "", "is empty"),
        ("f.csv", b"PAR1xxxx", "is a Parquet file; give it the suffix .parquet"),
        ("f.xlsx", b"PK\3\4", "is an Excel workbook; save it as CSV"),
        ("f.parquet", b"PAR1xxxx", "is no complete Parquet file"),
        ("f.csv.gz", gzip.compress(TEXT.encode() * 500)[:-30], "is damaged"),
        ("f.jsonl", jsonl() + "[1]\n", r"line 4: b'\[1\]' is no JSON object"),
        ("f.json", "[" + jsonl() + "]", "no JSON object"),
        ("f.zip", b"PK\3\4xxx", "is no complete zip"),
        ("f.item", "item_id:token\tv:float_seq\na\t1 x\n", "v:float_seq is no list of numbers"),
    ],
)
def test_what_is_not_read_is_refused(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=message) as found:
        read_features(tmp_path / name, NAMES)
    assert "\n" not in str(found.value)


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (pa.array([{"a": 1}] * 3), r"no column beside item_id but for structures \(c\)"),
        (pa.array([[("a", 1)]] * 3, pa.map_(pa.string(), pa.int64())), "but for structures"),
        (pa.array([b"\xff"] * 3), "column c cannot be read"),
        (pa.array([1, 2, 3], pa.duration("s")), "column c cannot be read"),
    ],
)
def test_columns_that_are_not_read(tmp_path, column, message):
    pq.write_table(pa.table({"item_id": IDS, "c": column}), tmp_path / "f.parquet")
    with pytest.raises(DataError, match=message):
        read_features(tmp_path / "f.parquet", NAMES)


def test_a_folder_and_a_missing_file(tmp_path):
    (tmp_path / "x").mkdir()
    with pytest.raises(DataError, match="has 0 files that may be the table"):
        read_features(tmp_path / "x", NAMES)
    with pytest.raises(DataError, match="does not exist; give a file"):
        read_features(tmp_path / "y.csv", NAMES)


@pytest.mark.parametrize("seed", range(60))
def test_delimited_text_is_read_as_the_csv_module_reads_it(tmp_path, seed):
    """Tables with delimiters, quotes and line breaks in their fields, by four writers, packed or not."""
    rng = random.Random(seed)
    table, _ = field.make_table(rng, 30)
    case = field.write_text(rng, table, tmp_path)
    if not case.header or case.delimiter not in DELIMITERS:
        return
    data = case.path.read_bytes()
    data = {".gz": gzip.decompress, ".bz2": bz2.decompress}.get(case.path.suffix, bytes)(data)
    if case.path.suffix == ".zst":
        data = pa.CompressedInputStream(pa.BufferReader(data), "zstd").read()
    text = data.removeprefix(b"\xef\xbb\xbf").decode()
    names, *rows = (row for row in csv.reader(io.StringIO(text, newline=""), delimiter=case.delimiter) if row)
    found = read_small(case.path).table
    assert found.column_names == names
    for place, name in enumerate(names):
        texts = [row[place] or None for row in rows]
        values = found[name].to_pylist()
        if pa.types.is_string(found[name].type):
            assert values == texts, name
        else:
            number = int if pa.types.is_integer(found[name].type) else float
            assert values == [None if one is None else number(one) for one in texts], name
