"""Where rows end in quoted text: against a machine that reads byte by byte, at every cut."""

import csv
import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ss4rec.data.prepare.chunks import looks_sorted, parse_chunk, source_chunks
from ss4rec.data.sources import Rules, Source, TableOptions
from ss4rec.data.sources.features import read_features
from ss4rec.data.sources.quotes import (
    field_quotes,
    is_quoted,
    last_row_end,
    next_row_end,
    refuse_quotes,
    rows_of,
    split_fields,
)
from ss4rec.data.sources.text import QuotesFoundError
from ss4rec.errors import DataError
from tests.data.reading import ALL, chunked, read, tuples, write

several = settings(derandomize=True, deadline=None, max_examples=300)
HOSTILE = st.lists(st.sampled_from([b'"', b'""', b",", b"\n", b"\r", b"a", b"b", b"\\"]), max_size=40).map(
    b"".join
)


def quoted_bytes(data: bytes) -> list[bool]:
    """Read byte by byte: whether each stands in a quoted field, quotes that open and close left out."""
    quoted, state, at = [False] * len(data), "start", 0
    while at < len(data):
        byte = data[at : at + 1]
        if state == "in" and byte == b'"' and data[at + 1 : at + 2] == b'"':
            at += 1
        elif state == "in":
            quoted[at] = byte != b'"'
            state = "text" if byte == b'"' else "in"
        elif byte == b'"' and state == "start":
            state = "in"
        else:
            state = "start" if byte in (b",", b"\n", b"\r") else "text"
        at += 1
    return quoted


@several
@given(HOSTILE)
def test_quoted_bytes_equal_those_of_the_machine(data):
    quotes = field_quotes(data, b",")
    for place, expected in enumerate(quoted_bytes(data)):
        if data[place : place + 1] != b'"':
            assert is_quoted(quotes, place) == expected, (data, place)


@several
@given(HOSTILE)
def test_rows_and_fields_equal_those_of_the_csv_module(data):
    data = data.replace(b"\r", b"c")
    quotes = field_quotes(data, b",")
    if len(quotes) % 2:
        return
    found = [split_fields(row.decode().rstrip("\n"), ",", True) for row in rows_of(data, quotes)]
    expected = [row or [""] for row in csv.reader(io.StringIO(data.decode(), newline=""))]
    assert found == expected


@several
@given(HOSTILE)
def test_ends_of_rows_from_either_side(data):
    quotes = field_quotes(data, b",")
    ends = [n + 1 for n, q in enumerate(quoted_bytes(data)) if data[n : n + 1] == b"\n" and not q]
    for place in range(len(data) + 1):
        assert last_row_end(data, quotes, place) == max((end for end in ends if end <= place), default=0)
        assert next_row_end(data, quotes, place) == min((end for end in ends if end > place), default=0)


def test_many_stray_quotes_take_no_longer():
    data = b'5" x,"d""e",1"2,12\n' * 100_000
    quotes = field_quotes(data, b",")
    assert len(quotes) == 200_000
    assert np.array_equal(np.diff(quotes[::2]), np.full(99_999, 19))


@several
@given(HOSTILE)
def test_what_is_refused_equals_what_the_strict_csv_module_refuses(data):
    data = data.replace(b"\r", b"c")
    ours = theirs = False
    try:
        refuse_quotes(data, b",", field_quotes(data, b","), "t")
    except DataError:
        ours = True
    try:
        list(csv.reader(io.StringIO(data.decode(), newline=""), strict=True))
    except csv.Error:
        theirs = True
    assert ours == theirs, data


def test_quotes_behind_backslashes():
    def said(data):
        try:
            refuse_quotes(data, b",", field_quotes(data, b","), "t.csv")
        except DataError as error:
            return str(error)
        return ""

    assert "t.csv has quotes behind a backslash within quotes, as in b'1,\"a" in said(b'1,"a\\"b",3\n')
    for fine in (b'1,"C:\\",3\n', b'1,"a\\\n",3\n', b'1,"x\\""",3\n', b"1,a\\b,3\n", b'1,a\\"b,3\n'):
        assert not said(fine)


MISPLACED = {
    "a quote cuts a character in two": b'1,"\xe6\x97"\xa5\xe6\x9c\xac",1000000000\n',
    "a quote in the middle": b'1,"a"b,c",1000000000\n',
    "a row swallowed by the one before": b'1,"a,1000000000\n2,"b",1000000001\n',
    "many rows swallowed": b'1,"a,1000000000\n' + b'2,"",1000000001\n' * 5 + b'2,"b",1000000001\n',
    "blanks behind the closing quote": b'1,"a" ,1000000000\n',
    "in the last field": b'1,a,"1000000000"0\n',
    "in the last line": b'1,a,1000000000\n2,b,"1000000000"0',
}


@pytest.mark.parametrize("delimiter", [b",", b";", b"\t", b"|"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize("damaged", MISPLACED.values(), ids=MISPLACED)
def test_fields_that_go_on_behind_their_closing_quote_are_refused(tmp_path, damaged, end, delimiter):
    rows = b"user,item,time\n" + b"0,x,999999999\n" * 3 + damaged
    if not damaged.endswith(b"0"):
        rows += b"3,y,1000000003\n"
    (tmp_path / "t.csv").write_bytes(rows.replace(b",", delimiter).replace(b"\n", end))
    source = Source.open(tmp_path / "t.csv", TableOptions(delimiter=delimiter.decode()))
    for reading in (lambda: source.read(ALL), lambda: chunked(source, 7), lambda: chunked(source, 60)):
        with pytest.raises(
            DataError, match=r"t\.csv has a quoted field that goes on behind its closing quote"
        ):
            reading()


@pytest.mark.parametrize("name", ["t.csv", "ratings.csv"])
def test_a_header_does_not_swallow_rows(tmp_path, name):
    """Without the check the header ends in the second row of data, and both rows are lost."""
    columns = "user,item,time" if name == "t.csv" else "userId,movieId,rating,timestamp"
    row = ",".join(["1"] * (columns.count(",")) + ["1000000000"])
    text = f'{columns},"note\n{row},x\n{row},"y"\n{row},z\n'
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match="goes on behind its closing quote"):
        Source.open(tmp_path / name)


def test_quotes_of_catalogues_and_features_are_held_to_the_same_rule(tmp_path):
    movies = 'movieId,title,genres\n1,"A, B",Drama\n2,"C" D,Drama\n'
    files = {"ratings.csv": "userId,movieId,rating,timestamp\n1,1,3,1000000000\n", "movies.csv": movies}
    write(tmp_path, files)
    with pytest.raises(DataError, match=r"movies.csv has a quoted field that goes on behind"):
        Source.open(tmp_path / "ratings.csv").catalogue()
    (tmp_path / "items.csv").write_bytes(b'\xef\xbb\xbf"item","price"\n1,"5"0\n')
    with pytest.raises(DataError, match=r"items.csv has a quoted field that goes on behind"):
        read_features(tmp_path / "items.csv", ("item",))
    (tmp_path / "items.csv").write_bytes(b'\xef\xbb\xbf"item","price"\n1,"50"\n')
    assert read_features(tmp_path / "items.csv", ("item",)).columns.column_names == ["price"]


ROWS = [(f"u{n // 3}", f"i\n{n}" if n % 5 == 0 else f'i"{n}', 10**9 + n) for n in range(60)]


def sheet(quoting=csv.QUOTE_MINIMAL, end="\n"):
    out = io.StringIO(newline="")
    csv.writer(out, quoting=quoting, lineterminator=end).writerows([("user", "item", "time"), *ROWS])
    return out.getvalue()


@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_line_breaks_in_fields_at_every_block_size(tmp_path, quoting, end):
    (tmp_path / "t.csv").write_bytes(sheet(quoting, end).encode())
    rows = read(tmp_path / "t.csv", blocks=(*range(20, 400, 13), 5000))
    assert [row[:3] for row in rows] == [(user, item, time) for user, item, time in ROWS]
    assert looks_sorted(Source.open(tmp_path / "t.csv"))


def test_quotes_that_come_late_are_found(tmp_path):
    """The beginning of the file has no quotes, so it is cut anywhere; a task finds one, and the file is read anew."""
    plain = "".join(f"u{n:06d},i,{10**9 + n}\n" for n in range(20_000))
    (tmp_path / "t.csv").write_text("user,item,time\n" + plain + sheet().partition("\n")[2])
    source = Source.open(tmp_path / "t.csv")
    assert not source.plan.quoted
    chunks, known = source_chunks(source, 50_000)
    assert known == 9
    with pytest.raises(QuotesFoundError):
        [parse_chunk(source, ALL, chunk) for chunk in chunks]
    assert tuples(chunked(source, 50_000)) == tuples(source.read(ALL))
    assert [row[1] for row in tuples(source.read(ALL))[-60:]] == [item for _, item, _ in ROWS]


def test_prepare_reads_late_quotes_anew(tmp_path, monkeypatch):
    from ss4rec.data.prepare import engine

    plain = "".join(f"u{n // 5:06d},i{n % 5},{10**9 + n}\n" for n in range(20_000))
    (tmp_path / "t.csv").write_text("user,item,time\n" + plain + sheet().partition("\n")[2])
    whole = engine.prepare(tmp_path / "t.csv", tmp_path / "whole", k_core=0)
    monkeypatch.setattr(engine, "WHOLE_BYTES", 1)
    monkeypatch.setattr(engine, "PARTITION_BYTES", 100_000)
    said = []
    parts = engine.prepare(
        tmp_path / "t.csv", tmp_path / "parts", k_core=0, block_bytes=50_000, progress=said.append
    )
    assert "fields are quoted: reading anew from the beginning" in said
    assert parts == whole
    for record in whole.shards:
        assert (tmp_path / "whole" / record.name).read_bytes() == (
            tmp_path / "parts" / record.name
        ).read_bytes()


def test_carriage_returns_within_rows_end_rows_as_elsewhere(tmp_path):
    path = (
        write(tmp_path, {"t.csv": "user,item,time\n1,a,1000000000\r2,b,1000000001\n3,c\r,1000000002\n"})
        / "t.csv"
    )
    assert [row[:2] for row in read(path)] == [("1", "a"), ("2", "b")]


def test_a_tab_that_became_a_blank_is_one_bad_row(tmp_path):
    """Not a table of blanks, in which quotes stay in the values."""
    path = tmp_path / "t.csv"
    lines = ["user_id\titem_id\ttimestamp", "1\ta\t1004300923", "1\tb 1004300924", '2\t"c""d"\t1004300925']
    path.write_text("\n".join(lines) + "\n")
    parsed = Source.open(path).read(Rules(max_bad_share=1.0))
    assert [str(value) for value in parsed.items.to_pylist()] == ["a", 'c"d']
    assert parsed.quarantine["row"].to_pylist() == [3]
