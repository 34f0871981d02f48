"""Moments that a caller passes become unix seconds, or are refused."""

from datetime import UTC, date, datetime, timedelta, timezone

import numpy as np
import pandas as pd
import pytest

from ss4rec.data.moments import unix_seconds
from ss4rec.errors import UsageError

SECOND = 1_577_836_800


@pytest.mark.parametrize(
    "values",
    [
        [SECOND],
        [SECOND + 0.9],
        (SECOND,),
        np.array([SECOND]),
        np.array([SECOND], np.uint64),
        pd.Series([SECOND], index=[7]),
        [datetime(2020, 1, 1)],
        [datetime(2020, 1, 1, tzinfo=UTC)],
        [datetime(2020, 1, 1, 1, tzinfo=timezone(timedelta(hours=1)))],
        [date(2020, 1, 1)],
        [np.datetime64("2020-01-01")],
        np.array(["2020-01-01T00:00:00.5"], "datetime64[ms]"),
        [pd.Timestamp("2020-01-01")],
        pd.Series([pd.Timestamp("2020-01-01")]),
        pd.Series([pd.Timestamp("2020-01-01 01:00", tz="Europe/Berlin")]),
        pd.to_datetime(["2020-01-01"]),
    ],
)
def test_moments_are_read(values):
    assert unix_seconds(values).tolist() == [SECOND]
    assert unix_seconds(values).dtype == np.int64


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([SECOND * 1000], r"are these milliseconds\? Give seconds or datetimes"),
        (np.array([SECOND * 10**9]), r"are these milliseconds"),
        ([2**70], r"no time between 1970 and 2242"),
        ([-1], r"give seconds from 1970 on"),
        ([float("nan")], r"times has nan, which is no time; give unix seconds or datetimes"),
        ([SECOND, None], r"times has None, which is no time"),
        (["soon"], r"times has 'soon', which is no time"),
        ([True], r"times has True, which is no time"),
        ([pd.NaT], r"NaT, which is no time"),
        (np.array(["NaT"], "datetime64[s]"), r"NaT"),
        ([20240101], r"looks like a date \(%Y%m%d\)"),
        (np.array([SECOND], np.float32), r"times are float32, which rounds seconds"),
    ],
)
def test_what_is_no_moment_is_refused(values, message):
    with pytest.raises(UsageError, match=message):
        unix_seconds(values)


def test_small_numbers_are_seconds():
    assert unix_seconds([1, 2024, 202401]).tolist() == [1, 2024, 202401]
    assert unix_seconds([]).tolist() == []
