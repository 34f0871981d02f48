"""Times in every unit, type and format: read to the right second, or refused with the way out."""

from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ss4rec.data.sources import Source, TableOptions
from ss4rec.data.sources.times import FACTORS, date_format, unit_of
from ss4rec.errors import DataError
from tests.data.reading import ALL, read, reasons

SECONDS = [1_577_836_800, 1_577_836_801, 1_650_000_000]
MOMENTS = [datetime.fromtimestamp(second, UTC) for second in SECONDS]


def write(path, times, kind):
    """Write a table with these times as text, JSON lines or Parquet."""
    table = pd.DataFrame({"user": [1] * len(times), "item": [2] * len(times), "time": times})
    if kind == "csv":
        table.to_csv(path / "t.csv", index=False)
    elif kind == "jsonl":
        table.to_json(path / "t.jsonl", orient="records", lines=True, date_unit="ns")
    else:
        table.to_parquet(path / "t.parquet", index=False)
    return path / f"t.{kind}"


def seconds(path, columns=None, **options):
    return [row[2] for row in read(path, columns, **options)]


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_units_are_known_by_their_size(tmp_path, kind, unit):
    factor = FACTORS[unit]
    path = write(tmp_path, [second * factor + (factor > 1) * 17 for second in SECONDS], kind)
    assert seconds(path) == SECONDS
    assert seconds(path, time_unit=unit) == SECONDS
    notes = Source.open(path).notes
    assert (notes == ()) == (unit == "s")
    if unit == "ms":
        assert notes[0] == "times are read as milliseconds, which their size says; --time-unit says otherwise"
        assert Source.open(path, TableOptions(time_unit="ms")).notes == ()


def test_units_do_not_overlap():
    for unit, factor in FACTORS.items():
        assert unit_of(float(datetime(1970, 6, 1, tzinfo=UTC).timestamp() * factor)) == unit
        assert unit_of(float(datetime(2242, 1, 1, tzinfo=UTC).timestamp() * factor)) == unit


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_a_number_of_another_size_is_put_aside(tmp_path, kind):
    path = write(tmp_path, [second * 1000 for second in SECONDS] + [SECONDS[0], 0, SECONDS[0] * 10**9], kind)
    assert seconds(path) == SECONDS
    assert [reason for _, reason in reasons(path)] == ["time_early", "time_early", "time_late"]
    said = Source.open(path).read(ALL).quarantine["detail"][0].as_py()
    assert said.startswith("time is 1577836800")
    assert "too small to be milliseconds like the others" in said


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize(
    ("format", "example"),
    [
        ("%Y", "2024"),
        ("%Y%m", "202401"),
        ("%Y%m%d", "20240131"),
        ("%Y%m%d%H", "2024013123"),
        ("%Y%m%d%H%M", "202401312359"),
        ("%Y%m%d%H%M%S", "20240131235958"),
    ],
)
def test_dates_that_look_like_numbers(tmp_path, kind, format, example):
    """20240101 is 1970-08-23 as seconds, and 20240101123000 is 1970-08-23 as microseconds."""
    path = write(tmp_path, [int(example), int(example)], kind)
    with pytest.raises(DataError, match=rf"time {example} looks like a date.*--time-format {format}, or"):
        Source.open(path)
    expected = int(datetime.strptime(example, format).replace(tzinfo=UTC).timestamp())
    assert seconds(path, time_format=format) == [expected] * 2
    if len(example) <= 10:
        assert seconds(path, time_unit="s") == [int(example)] * 2


def test_numbers_that_are_no_dates():
    assert date_format([20240101, 20241332]) is None
    assert date_format([978300760, 20240101]) is None
    assert date_format([1_577_836_800, 1_600_000_000]) is None
    assert date_format([20240101, 19991231]) == "%Y%m%d"


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize(
    "texts",
    [
        [moment.strftime("%Y-%m-%d %H:%M:%S") for moment in MOMENTS],
        [moment.strftime("%Y-%m-%dT%H:%M:%S.250") for moment in MOMENTS],
        [moment.strftime("%Y-%m-%dT%H:%M:%SZ") for moment in MOMENTS],
        [moment.strftime("%Y-%m-%d %H:%M:%S.123456+00:00") for moment in MOMENTS],
        [pd.Timestamp(moment).tz_convert("Asia/Kolkata").isoformat() for moment in MOMENTS],
        [str(second) for second in SECONDS],
        [f"{second}.5" for second in SECONDS],
        [str(second * 1000) for second in SECONDS],
    ],
)
def test_iso_texts_and_numbers_as_texts(tmp_path, kind, texts):
    path = write(tmp_path, texts, kind)
    assert seconds(path) == SECONDS


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize(
    ("format", "written"),
    [
        ("%d/%m/%Y %H:%M:%S", None),
        ("%b %d, %Y %I:%M:%S %p", None),
        ("%d.%m.%Y %H:%M:%S.%f %z", "%d.%m.%Y %H:%M:%S.5 +0000"),
    ],
)
def test_other_formats_are_given(tmp_path, kind, format, written):
    path = write(tmp_path, [moment.strftime(written or format) for moment in MOMENTS], kind)
    with pytest.raises(DataError, match=r"time has type string.*--time-format"):
        Source.open(path)
    assert seconds(path, time_format=format) == SECONDS


def test_formats_that_do_not_fit(tmp_path):
    path = write(tmp_path, ["31/01/2024", "01/02/2024", "soon"], "csv")
    assert reasons(path, time_format="%d/%m/%Y") == [(4, "time_unreadable")]
    with pytest.raises(DataError, match=r"time '31/01/2024' does not fit --time-format '%m-%d-%Y'"):
        Source.open(path, TableOptions(time_format="%m-%d-%Y"))
    with pytest.raises(DataError, match=r"has no % directive"):
        Source.open(path, TableOptions(time_format="dd/mm/yyyy"))
    with pytest.raises(DataError, match=r"give one of them"):
        Source.open(path, TableOptions(time_format="%d/%m/%Y", time_unit="s"))
    with pytest.raises(DataError, match=r"--time-format '%Q' cannot be used|does not fit"):
        Source.open(path, TableOptions(time_format="%Q"))


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("zone", [None, "UTC", "America/New_York"])
def test_timestamps_of_any_unit_and_zone(tmp_path, unit, zone):
    times = pa.array([second * FACTORS[unit] for second in SECONDS], pa.timestamp(unit, zone))
    table = pa.table({"user": [1, 1, 1], "item": [2, 2, 2], "time": times})
    pq.write_table(table, tmp_path / "t.parquet")
    assert seconds(tmp_path / "t.parquet") == SECONDS
    for wrong in ({"time_unit": "ms"}, {"time_format": "%Y"}):
        with pytest.raises(DataError, match=r"leave out --time-unit and --time-format"):
            Source.open(tmp_path / "t.parquet", TableOptions(**wrong))


@pytest.mark.parametrize("kind", [pa.date32(), pa.date64()])
def test_days(tmp_path, kind):
    times = pa.array([second // 86400 * 86400 * 1000 for second in SECONDS], pa.timestamp("ms")).cast(kind)
    pq.write_table(pa.table({"user": [1, 1, 1], "item": [2, 2, 2], "time": times}), tmp_path / "t.parquet")
    assert seconds(tmp_path / "t.parquet") == [second // 86400 * 86400 for second in SECONDS]


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_times_in_float32(tmp_path, kind):
    """As float32 all seconds of two minutes are one; of that nothing is seen in the type once they were converted."""
    times = np.arange(1_500_000_000, 1_500_009_000, 30).astype(np.float32)
    path = write(tmp_path, times, kind)
    with pytest.raises(DataError, match=r"float.* holds"):
        Source.open(path)
    path = write(tmp_path, times.astype(np.int64), kind)
    with pytest.raises(DataError, match=r"all rounded to what float32 holds \(64 or 128 s\)"):
        Source.open(path)
    path = write(tmp_path, times.astype(np.int64) * 1000, kind)
    with pytest.raises(DataError, match=r"all rounded to what float32 holds"):
        Source.open(path)


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_times_that_only_look_rounded(tmp_path, kind):
    """Days are multiples of 128 seconds, and doubles with fractions are not rounded to float32."""
    days = [1_300_000_000 // 86400 * 86400 + 86400 * n for n in range(100)]
    assert seconds(write(tmp_path, days, kind)) == days
    for step in (300, 900, 3600):
        steps = [1_500_000_000 // step * step + step * n for n in range(100)]
        assert seconds(write(tmp_path, steps, kind)) == steps
    minutes = [1_500_000_000 // 60 * 60 + 60 * n for n in range(100)]
    assert seconds(write(tmp_path, minutes, kind)) == minutes
    exact = [1_500_000_000.25 + 30 * n for n in range(100)]
    assert seconds(write(tmp_path, exact, kind)) == [int(value) for value in exact]


def test_texts_that_hold_too_few_digits(tmp_path):
    path = write(tmp_path, [f"1.5{n}e+09" for n in range(10, 99)], "csv")
    with pytest.raises(DataError, match=r"too few digits"):
        Source.open(path)
    path = write(tmp_path, [f"1.5000000{n}e+09" for n in range(10, 99)], "csv")
    assert seconds(path)[0] == 1_500_000_010


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_times_that_do_not_exist(tmp_path, kind):
    path = write(tmp_path, [SECONDS[0] + 0.5, None, -1.0, 1e300, SECONDS[1]], kind)
    assert seconds(path) == SECONDS[:2]
    assert [reason for _, reason in reasons(path)] == ["time_missing", "time_early", "time_late"]


def test_unsigned_and_huge_numbers(tmp_path):
    times = pa.array([SECONDS[0] * 10**9, 2**64 - 1], pa.uint64())
    pq.write_table(pa.table({"user": [1, 1], "item": [2, 2], "time": times}), tmp_path / "t.parquet")
    assert seconds(tmp_path / "t.parquet") == [SECONDS[0]]
    assert reasons(tmp_path / "t.parquet") == [(2, "time_late")]


def test_a_year_like_1970_is_said_aloud(tmp_path):
    path = write(tmp_path, [45292, 45293, 45294], "csv")  # days as Excel counts them
    assert "lie in 1970" in Source.open(path).notes[0]


def test_recboles_times_have_units_too(tmp_path):
    header = "user_id:token\titem_id:token\ttimestamp:float\n"
    (tmp_path / "x.inter").write_text(header + "".join(f"1\t2\t{second * 1000}.0\n" for second in SECONDS))
    assert seconds(tmp_path / "x.inter") == SECONDS
    assert "milliseconds" in Source.open(tmp_path / "x.inter").notes[0]
    (tmp_path / "x.inter").write_text(header + "1\t2\t20240101\n1\t3\t20240102\n")
    with pytest.raises(DataError, match=r"looks like a date"):
        Source.open(tmp_path / "x.inter")
    assert seconds(tmp_path / "x.inter", time_format="%Y%m%d") == [1704067200, 1704153600]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("text", [" {}", '"\t{} "'])
@pytest.mark.parametrize("zone", ["", "Z"])
def test_blanks_around_dates_do_not_count(tmp_path, text, zone, end):
    """As around numbers; in some rows or in all. A date that is none is named as before."""
    dates = [f"2020-01-0{day} 00:00:00{zone}" for day in range(1, 8)]
    wanted = [1_577_836_800 + 86_400 * day for day in range(7)]
    for blank in ({2}, {6}, set(range(7))):
        rows = [text.format(date) if n in blank else date for n, date in enumerate(dates)]
        lines = ["user,item,time", *(f"{n},{n},{row}" for n, row in enumerate(rows))]
        (tmp_path / "t.csv").write_bytes(end.join(lines).encode())
        assert seconds(tmp_path / "t.csv") == wanted
    lines.insert(3, f"9,9,{text.format('2020-13-01')}")
    (tmp_path / "t.csv").write_bytes(end.join(lines).encode())
    assert seconds(tmp_path / "t.csv") == wanted
    assert reasons(tmp_path / "t.csv") == [(4, "time_unreadable")]
