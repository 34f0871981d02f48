import zipfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ss4rec.data.sources import Rules, Source, resolve_source
from ss4rec.data.sources.checks import enforce_limit
from ss4rec.data.sources.rows import plain_ids
from ss4rec.errors import DataError

ROWS = [(7, 20, 4.5, 100), (3, 10, 1.0, 50), (7, 10, 3.0, 100)]
GENRES_100K = "unknown|0\nAction|1\nDrama|2\n\n"
FILES = {
    "grouplens-dat": {
        "ratings.dat": "".join(f"{u}::{i}::{r}::{t}\n" for u, i, r, t in ROWS),
        "movies.dat": '10::Amélie: le film, 2001 (2001)::Comedy|Romance\n20::"Quoted"::Drama\n'.encode(
            "latin-1"
        ),
    },
    "grouplens-100k": {
        "u.data": "".join(f"{u}\t{i}\t{r}\t{t}\n" for u, i, r, t in ROWS),
        "u.genre": GENRES_100K,
        "u.item": '10|Amélie: le film, 2001 (2001)|x||u|0|1|1\n20|"Quoted"|x||u|0|0|1\n'.encode("latin-1"),
    },
    "grouplens-csv": {
        "ratings.csv": "userId,movieId,rating,timestamp\r\n"
        + "".join(f"{u},{i},{r},{t}\r\n" for u, i, r, t in ROWS),
        "movies.csv": 'movieId,title,genres\r\n10,"Amélie: le film, 2001 (2001)",Comedy|Romance\r\n'
        '20,"""Quoted""",(no genres listed)\r\n',
        "tags.csv": "userId\n",
    },
    "recbole": {
        "x.inter": "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
        + "".join(f"{u}\t{i}\t{r}\t{t}.0\n" for u, i, r, t in ROWS),
        "x.item": "item_id:token\tmovie_title:token_seq\tclass:token_seq\n"
        '10\tAmélie: le film, 2001 (2001)\tComedy Romance\n20\t"Quoted"\tDrama\n',
    },
    "csv": {
        "p.csv": "user_id,item_id,rating,timestamp\n" + "".join(f"{u},{i},{r},{t}\n" for u, i, r, t in ROWS)
    },
}
GENRES = {
    "grouplens-dat": [["Comedy", "Romance"], ["Drama"]],
    "grouplens-100k": [["Action", "Drama"], ["Drama"]],
    "grouplens-csv": [["Comedy", "Romance"], []],
    "recbole": [["Comedy", "Romance"], ["Drama"]],
}


def as_bytes(content):
    return content if isinstance(content, bytes) else content.encode()


def make_folder(folder, files):
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(as_bytes(content))
    return folder


def make_zip(path, files):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, as_bytes(content))
    return path


def read(path, **columns):
    """The source and its rows, all of which must be usable."""
    source = Source.open(path, columns or None)
    rows = source.read()
    enforce_limit(rows.quarantine, rows.rows, Rules(), source.plan.where)
    return source, rows


def triples(rows):
    users, items = (plain_ids(ids.cast(pa.string())).to_pylist() for ids in (rows.users, rows.items))
    return list(zip(users, items, rows.ratings_R.tolist(), rows.times_R.tolist(), strict=True))


@pytest.mark.parametrize("layout", FILES)
@pytest.mark.parametrize("form", ["zip", "zip, sub-folder", "folder", "folder, sub-folder", "file"])
def test_layouts(tmp_path, layout, form):
    files = FILES[layout]
    if form.startswith("zip"):
        prefix = "deep/er/" if "sub" in form else ""
        path = make_zip(tmp_path / "x.zip", {prefix + name: content for name, content in files.items()})
    else:
        path = make_folder(tmp_path / "x" / ("sub" if "sub" in form else ""), files)
        path = tmp_path / "x" if "sub" in form else path
        path = path / next(iter(files)) if form == "file" else path
    source, rows = read(path)
    assert source.plan.layout == layout
    assert triples(rows) == ROWS
    if layout in GENRES:
        known = source.catalogue()
        assert known.source_id.to_pylist() == [10, 20]
        assert known.title.to_pylist() == ["Amélie: le film, 2001 (2001)", '"Quoted"']
        assert known.genres.to_pylist() == GENRES[layout]


def test_titles_are_optional(tmp_path):
    source, _ = read(make_folder(tmp_path / "x", {"ratings.dat": FILES["grouplens-dat"]["ratings.dat"]}))
    assert source.catalogue() is None


def test_ids_are_joined_over_many_blocks(tmp_path):
    # Arrow reads blocks of 1 MiB, each with a dictionary of its own.
    rows = [(number // 50, number % 77, 3.0, number) for number in range(120_000)]
    text = "".join(f"{u}::{i}::{r}::{t}\n" for u, i, r, t in rows)
    assert len(text) > 2 * 2**20
    assert triples(read(make_folder(tmp_path / "x", {"ratings.dat": text}))[1]) == rows


def test_parquet_with_string_ids_dates_and_no_ratings(tmp_path):
    times = pa.array([1_500, 2_999], pa.timestamp("ms"))
    pq.write_table(
        pa.table({"Customer_ID": ["b", "a"], "SKU": [1, 2], "date": times}), tmp_path / "p.parquet"
    )
    source, rows = read(tmp_path / "p.parquet")
    assert source.plan.layout == "parquet"
    assert triples(rows) == [("b", 1, 1.0, 1), ("a", 2, 1.0, 2)]


def test_named_columns_win_over_guesses(tmp_path):
    text = 'user_id,buyer,"what, exactly",when,rating\nx,007,p,2020-01-02T00:00:00,2\ny,7,q,2020-01-01T00:00:01,3\n'
    (tmp_path / "p.csv").write_text(text)
    _, rows = read(tmp_path / "p.csv", user="buyer", item="what, exactly", time="when")
    assert triples(rows) == [("007", "p", 2.0, 1577923200), ("7", "q", 3.0, 1577836801)]


@pytest.mark.parametrize(
    ("files", "columns", "message"),
    [
        (
            {"ratings.dat": "1::2::3::4\n1::x7::3::5\n"},
            {},
            r"ratings.dat, row 2: item is 'x7'.*whole numbers",
        ),
        ({"u.data": "1\t2\t3\t4\n1.5\t2\t3\t4\n"}, {}, r"row 2: user is '1.5'"),
        (
            {"ratings.csv": "userId,movieId,rating,timestamp\n1,2,3,4\n,2,3,4\n"},
            {},
            r"ratings.csv, row 3: user is None",
        ),
        ({"ratings.dat": "1::2::3::4\n1::2::3::-4\n"}, {}, r"row 2: time is -4"),
        ({"ratings.dat": "1::2::3::4\n1::2::3::\n"}, {}, r"row 2: time is None"),
        ({"ratings.dat": "1::2::3::4\n1::2::3::soon\n"}, {}, r"row 2: time is 'soon'"),
        ({"ratings.dat": "1::2::3::4\n1::2::3\n"}, {}, r"row 2: expected 4 columns, got 3"),
        ({"ratings.dat": "1::2::nan::4\n"}, {}, r"row 1: rating is nan"),
        ({"ratings.dat": ""}, {}, r"ratings.dat has no rows"),
        ({"x.inter": ""}, {}, r"x.inter is empty"),
        ({"p.csv": "user,item,time\n"}, {}, r"p.csv has no rows"),
        (
            {"p.csv": "user,item,time\n" + "1,2,1577836800\n" * 3 + "1,2,1577836800000\n"},
            {},
            r"row 5: time is 1577836800000.*milliseconds",
        ),
        ({"p.csv": "user,item,time\n1,2,soon\n"}, {}, r"time has type string \(first value 'soon'\)"),
        ({"p.csv": "user,item,time,rating\n1,2,3,good\n"}, {}, r"rating has type string"),
        (
            {"p.csv": "a,b,time\n1,2,3\n"},
            {},
            r"columns a, b, time; none is known to be the user.*--columns user=",
        ),
        ({"p.csv": "a,b,time\n1,2,3\n"}, {"user": "u"}, r"no column 'u'; its columns are a, b, time"),
        ({"p.csv": "a\n1\n"}, {"buyer": "a"}, r"--columns knows user, item, time, rating, not buyer"),
        (
            {"ratings.csv": "user,movie\n1,2\n"},
            {},
            r"ratings.csv has the columns user, movie; none is known to be the item.*--columns item=",
        ),
        ({"x.inter": "user_id\titem_id\n1\t2\n"}, {}, r"type behind each name"),
        ({"p.parquet": "PAR1 not really PAR1"}, {}, r"p.parquet is no complete Parquet file"),
        ({"a.csv": "x", "b.csv": "x"}, {}, r"2 files that may be the table \(a.csv, b.csv\)"),
        ({"notes.txt": "x"}, {}, r"looked for ratings.dat, u.data, ratings.csv, \*.inter.*found notes.txt"),
        ({}, {}, r"no known layout.*found no files"),
    ],
)
def test_bad_content(tmp_path, files, columns, message):
    with pytest.raises(DataError, match=message):
        read(make_folder(tmp_path / "x", files), **columns)


def test_bad_zips(tmp_path):
    good = make_zip(tmp_path / "good.zip", {"ratings.dat": "1::2::3::4\n" * 5000}).read_bytes()
    (tmp_path / "cut.zip").write_bytes(good[:60])
    with pytest.raises(DataError, match=r"cut.zip is no complete zip"):
        read(tmp_path / "cut.zip")
    (tmp_path / "hit.zip").write_bytes(good[:50] + bytes(8) + good[58:])
    with pytest.raises(DataError, match=r"hit.zip/ratings.dat is damaged.*download"):
        read(tmp_path / "hit.zip")
    for name in ("../ratings.dat", "/ratings.dat", "a\\..\\..\\ratings.dat"):
        make_zip(tmp_path / "evil.zip", {name: "1::2::3::4\n"})
        with pytest.raises(DataError, match=r"outside its own folder"):
            read(tmp_path / "evil.zip")
    with pytest.raises(DataError, match=r"absent.zip does not exist"):
        read(tmp_path / "absent.zip")


def test_names_are_looked_up_in_data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"ss4rec data get ml-1m"):
        resolve_source("ml-1m")
    with pytest.raises(DataError, match=r"sub/ml-1m does not exist"):
        resolve_source("sub/ml-1m")
    (tmp_path / "data").mkdir()
    (tmp_path / "data/ml-1m.zip").touch()
    assert resolve_source("ml-1m").as_posix() == "data/ml-1m.zip"
