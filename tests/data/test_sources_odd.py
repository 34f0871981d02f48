"""Odd files of ratings, of the kinds that people meet: every engine and block size reads the same, or refuses."""

import datetime as dt
import gzip
import json
from decimal import Decimal

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ss4rec.data.prepare.engine import prepare
from ss4rec.data.sources import Rules, Source, TableOptions
from ss4rec.errors import DataError
from tests.data.reading import read, reasons, write
from tests.data.reference import many_blocks, read_back

USERS, ITEMS = list("111222"), list("abcabc")
TIMES = [1_600_000_000 + 100 * n for n in range(6)]
ROWS = [(user, item, time, 1.0) for user, item, time in zip(USERS, ITEMS, TIMES, strict=True)]
HEADER = "user_id,item_id,timestamp\n"
TABS = "user_id\titem_id\ttimestamp\tx\n"
NOON = "2020-09-13T12:26:40"


LARGE, ZONE = pa.large_string(), pa.timestamp("ns", "America/New_York")
CODES = ["007", "007", "7", "1e5", "100000", "+1"]
BLANKS = ["a b", " a b", "a b ", "x\u00a0", "\u2028", "x\x85"]


def coded(values):
    return pa.array(values).dictionary_encode()


def frame():
    return pd.DataFrame({"user": USERS, "item": ITEMS, "time": TIMES})


def text(users=USERS, items=ITEMS, times=TIMES, line="{},{},{}\n", header=HEADER):
    rows = (line.format(*row) for row in zip(users, items, times, strict=True))
    return header + "".join(rows)


def lines(**changes):
    rows = ({"user": int(u), "item": i, "time": t} for u, i, t, _ in ROWS)
    return "".join(
        json.dumps(row | {key: change(row) for key, change in changes.items()}) + "\n" for row in rows
    )


def parquet(**columns):
    own = {"user": pa.array(USERS), "item": pa.array(ITEMS), "time": pa.array(TIMES)} | columns
    return lambda path: pq.write_table(pa.table(own), path)


READ_ALIKE = {
    "line ends of all kinds": ("t.csv", text().replace("\n", "\r\n", 3).replace("\r\n", "\r", 1)),
    "a mark and DOS": ("t.csv", b"\xef\xbb\xbf" + text().replace("\n", "\r\n").encode()),
    "a delimiter behind every row": ("t.csv", text(line="{},{},{},\n", header=HEADER[:-1] + ",\n")),
    "all quoted": ("t.csv", text(line='"{}","{}","{}"\n', header='"user_id","item_id","timestamp"\n')),
    "an index of pandas": ("t.csv", text(line="9,{},{},{}\n", header="," + HEADER)),
    "commas in titles of tabs": ("t.csv", text(line="{}\t{}\t{}\ta, b, c, d\n", header=TABS)),
    "inches": ("t.tsv", text(line='{}\t{}\t{}\t12" x\n', header=TABS)),
    "plus signs": ("t.csv", text(times=[f"+{t}" for t in TIMES])),
    "seconds as decimals": ("t.csv", text(times=[f"{t}.0" for t in TIMES])),
    "all digits of a power": ("t.csv", text(times=[f"{t:.9e}" for t in TIMES])),
    "names in camels": ("t.csv", text(header="userId,itemID,TimeStamp\n")),
    "gzip called .zst": ("t.csv.zst", gzip.compress(text().encode())),
    "plain called .gz": ("t.csv.gz", text()),
    "dots in the name": ("t.v1.2.csv", text()),
    "a mark and DOS in JSON": ("t.jsonl", b"\xef\xbb\xbf" + lines().replace("\n", "\r\n").encode()),
    "times as texts in JSON": ("t.jsonl", lines(time=lambda row: str(row["time"]))),
    "large strings": ("t.parquet", parquet(user=pa.array(USERS, LARGE), time=pa.array(map(str, TIMES), LARGE))),
    "dictionaries": ("t.parquet", parquet(user=coded(USERS), item=coded(ITEMS))),
    "categories of pandas": ("t.parquet", lambda path: frame().astype("category").to_parquet(path)),
    "bytes": ("t.parquet", parquet(user=pa.array(USERS).cast(pa.binary()), item=pa.array(ITEMS).cast(pa.binary()))),
    "nanoseconds with a zone": ("t.parquet", parquet(time=pa.array([t * 10**9 for t in TIMES], ZONE))),
    "nested columns beside": ("t.parquet", parquet(tags=pa.array([["x"]] * 6), deep=pa.array([{"a": 1}] * 6))),
}  # fmt: skip


@pytest.mark.parametrize("form", READ_ALIKE)
def test_the_same_rows(tmp_path, form):
    name, content = READ_ALIKE[form]
    assert read(write(tmp_path, {name: content}) / name) == ROWS
    prepare(tmp_path / name, tmp_path / "whole", k_core=0, rules=Rules(max_bad_share=1))
    with many_blocks():
        prepare(tmp_path / name, tmp_path / "parts", k_core=0, block_bytes=30, rules=Rules(max_bad_share=1))
    assert read_back(tmp_path / "whole") == read_back(tmp_path / "parts")


@pytest.mark.parametrize(
    ("name", "content", "options", "expected"),
    [
        ("t.csv", text(users=CODES), {}, CODES),
        ("t.csv", text(users=BLANKS), {}, BLANKS),
        ("t.csv", text(users=["NaN", "nan", "None", "null", "NA", "-"]), {}, ["NaN", "nan", "None", "null", "NA", "-"]),
        ("t.csv", text(line='{},"{};x",{}\n').replace(",", ";"), {}, USERS),
        ("t.csv", text(header='"the user, all",item_id,timestamp\n'), {"columns": {"user": "the user, all"}}, USERS),
        ("t.jsonl", lines(user=lambda row: 2**63 + row["user"]), {}, [str(2**63 + int(user)) for user in USERS]),
        ("t.parquet", parquet(user=pa.array([2**63 + 1] * 6, pa.uint64())), {}, [str(2**63 + 1)] * 6),
    ],
)  # fmt: skip
def test_users_are_kept_as_written(tmp_path, name, content, options, expected):
    assert [row[0] for row in read(write(tmp_path, {name: content}) / name, **options)] == expected


@pytest.mark.parametrize(
    ("times", "options", "expected"),
    [
        ([f"{NOON}+02:00"] * 3 + [f"{NOON}-0500"] * 3, {}, [TIMES[0] - 7200] * 3 + [TIMES[0] + 18000] * 3),
        ([f"{NOON}.123456"] * 6, {}, [TIMES[0]] * 6),
        (["13 Sep 2020"] * 6, {"time_format": "%d %b %Y"}, [1_599_955_200] * 6),
        (["09/13/2020 12:26 PM"] * 6, {"time_format": "%m/%d/%Y %I:%M %p"}, [1_599_999_960] * 6),
    ],
)
def test_times(tmp_path, times, options, expected):
    path = write(tmp_path, {"t.csv": text(times=times)}) / "t.csv"
    assert [row[2] for row in read(path, **options)] == expected


@pytest.mark.parametrize(
    ("name", "content", "bad"),
    [
        ("t.csv", text(times=[-5, *TIMES[1:]]), [(2, "time_early")]),
        ("t.csv", text(times=[t * 1000 for t in TIMES[:5]] + TIMES[5:]), [(7, "time_early")]),
        ("t.csv", text(times=[*TIMES[:5], TIMES[5] * 1000]), [(7, "time_late")]),
        ("t.csv", text() + "# the end\n", [(8, "fields")]),
        ("t.csv", text(users=["", *USERS[1:]]), [(2, "user_missing")]),
        ("t.csv", text(items=["é", *ITEMS[1:]]).encode("latin-1"), [(2, "not_utf8")]),
        ("t.jsonl", lines(user=lambda row: float("nan") if row["item"] == "c" else row["user"]),
         [(3, "user_unreadable"), (6, "user_unreadable")]),
        ("t.jsonl", lines(user=lambda row: 2.0 if row["item"] == "c" else row["user"]),
         [(3, "user_unreadable"), (6, "user_unreadable")]),
        ("t.jsonl", lines(user=lambda row: {"id": 1} if row["item"] == "a" else "x"),
         [(1, "user_unreadable"), (4, "user_unreadable")]),
    ],
)  # fmt: skip
def test_rows_put_aside(tmp_path, name, content, bad):
    path = write(tmp_path, {name: content}) / name
    assert len(read(path)) == len(ROWS) - len([row for row, _ in bad if row <= 7])
    assert reasons(path) == bad


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", text().encode("utf-16-be"), "holds zero bytes"),
        ("t.csv", "# made by x\n" + text(), "has the columns # made by x"),
        ("t.csv", text(line="{};{};{};3,5\n", header="user_id;item_id;timestamp;rating\n"), "ratings must be numbers"),
        ("t.csv", text(line='{},{},"{:,}"\n'), "give unix seconds or ISO 8601"),
        ("t.csv", text(times=["2019", "2020", "2021"] * 2), "read it with --time-format %Y"),
        ("t.csv", text(times=["1.6000001E9"] * 6), "too few digits for seconds"),
        ("t.csv", text(times=[NOON] * 3 + [NOON + "+02:00"] * 3), "give unix seconds or ISO 8601"),
        ("t.csv", text(line='9,{},{},{}\n'), "time has type string"),
        ("t.csv", text(line="'{}','{}','{}'\n", header="'user_id','item_id','time'\n"), "none is known to be the user"),
        ("t.csv", text(header=HEADER.replace("item", "user")), "has the column 'user_id' twice"),
        ("t.tsv", text(line='{}\t{}\t{}\t"x\n', header=TABS), "goes on behind its closing quote"),
        ("t.jsonl", lines(time=lambda row: {"$date": row["time"]}), "time has type string"),
        ("t.parquet", text(), "is no complete Parquet file"),
        ("t.parquet", parquet(user=pa.array([1.0, None] * 3)), "user has type double; ids must be strings or integers"),
        ("t.parquet", parquet(user=pa.array([Decimal(1)] * 6)), "user has type decimal"),
        ("t.parquet", parquet(item=pa.array([bytes(16)] * 6, pa.binary(16))), "item has type fixed_size_binary"),
        ("t.parquet", parquet(item=pa.array([["x"]] * 6)), "item has type list"),
        ("t.parquet", parquet(time=pa.array([Decimal(t) for t in TIMES])), "time has type decimal"),
        ("t.parquet", parquet(time=pa.array([dt.time(1)] * 6)), "time has type time64"),
        ("t.parquet", parquet(rating=pa.array([True] * 6)), "rating has type bool"),
    ],
)  # fmt: skip
def test_what_is_refused(tmp_path, name, content, message):
    with pytest.raises(DataError, match=message) as found:
        read(write(tmp_path, {name: content}) / name)
    assert "\n" not in str(found.value)


def test_users_in_the_names_of_folders(tmp_path):
    row = f"item_id,timestamp\na,{TIMES[0]}\nb,{TIMES[1]}\n"
    path = write(tmp_path / "x", {f"user_id={user}/p.csv": row for user in ("007", "1e5", "3")})
    assert sorted({row[0] for row in read(path)}) == ["007", "1e5", "3"]
    assert not any("names of folders" in note for note in Source.open(path).notes)


def test_a_column_in_files_and_folders_is_said_aloud(tmp_path):
    path = write(tmp_path / "x", {f"user_id={user}/p.csv": text() for user in (8, 9)})
    assert read(path) == ROWS * 2
    assert (
        "user_id: the values in the files are read, not those in the names of folders"
        in Source.open(path).notes
    )


@pytest.mark.parametrize("kind", ["parquet", "jsonl", "csv"])
def test_unknown_numbers_about_events_are_unknown(tmp_path, kind):
    """NaN of pandas is no category, whatever block it is in; 2 and 2.0 are one."""
    table = frame().assign(price=[2.0, None, 2.0, 0.5, None, 1e20])
    path = tmp_path / f"t.{kind}"
    if kind == "parquet":
        pq.write_table(pa.table({name: table[name].tolist() for name in table}), path)  # NaN, and not null
    elif kind == "csv":
        table.to_csv(path, index=False)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in table.to_dict("records")) + "{}\n")
    found = (
        Source.open(path, TableOptions(context=("price",)))
        .read(Rules(max_bad_share=1))
        .context["context.price"]
    )
    texts = found.to_pylist()
    assert [text is None for text in texts] == [False, True, False, False, True, False]
    assert len({texts[0], texts[2]}) == 1
    if kind == "jsonl":  # without the line that is bad, Arrow reads the block
        path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
        again = Source.open(path, TableOptions(context=("price",))).read(Rules(max_bad_share=1))
        assert again.context["context.price"].to_pylist() == texts
