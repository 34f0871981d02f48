"""Where rows end in quoted text: against a machine that reads byte by byte, at every cut."""

import csv
import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ss4rec.data.prepare.chunks import looks_sorted, parse_chunk, source_chunks
from ss4rec.data.sources import Source
from ss4rec.data.sources.quotes import (
    escaped_quote,
    field_quotes,
    is_quoted,
    last_row_end,
    next_row_end,
    rows_of,
    split_fields,
)
from ss4rec.data.sources.text import QuotesFoundError
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


def test_quotes_behind_backslashes():
    def place(data):
        return escaped_quote(data, b",", field_quotes(data, b","))

    assert place(b'1,"a\\"b",3\n') == 5
    for fine in (b'1,"C:\\",3\n', b'1,"a\\\n",3\n', b'1,"x\\""",3\n', b"1,a\\b,3\n", b'1,a\\"b,3\n'):
        assert place(fine) is None


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
