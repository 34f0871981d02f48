"""Moments that a caller passes, as unix seconds: numbers, dates and times of Python, NumPy and pandas."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, date, datetime
from numbers import Real
from typing import Any

import numpy as np
import numpy.typing as npt

from ss4rec.data.sources.times import LATEST_S, date_format
from ss4rec.errors import UsageError

Moment = float | date | np.datetime64
"""Unix seconds, or a date or time, in UTC where it names no zone; pandas' Timestamp is a datetime too."""
MIN_DATE = 19_000_101
"""Numbers below, which may be years or months, are taken as the seconds that they say."""


def unix_seconds(values: Iterable[Moment], name: str = "times") -> npt.NDArray[np.int64]:
    """Return moments as int64 unix seconds, rounded down.

    Args:
        values: numbers of seconds since 1970, `datetime.datetime` or `datetime.date`, or `numpy.datetime64`.
        name: what messages call them.

    Raises:
        UsageError: for what is no moment from 1970 to 2242: texts, NaN, milliseconds, dates written as 20240101.
    """
    array = np.asarray(values if isinstance(values, np.ndarray) else list(values))
    if array.dtype.kind == "M":
        missing = np.isnat(array)
        seconds = array.astype("datetime64[s]").astype(np.int64)
        if missing.any():
            raise _no_moment(array[missing][0], name)
    elif array.dtype.kind in "iuf":
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise _no_moment(array[~np.isfinite(array)][0], name)
        if array.dtype in (np.float16, np.float32) and len(array):
            raise UsageError(
                f"{name} are {array.dtype}, which rounds seconds of today to 64 or 128; give int64 or float64"
            )
        _check_size(array, name)
        seconds = np.floor(array).astype(np.int64)
    else:
        seconds = np.array([_seconds(value, name) for value in values], np.int64)
    _check_size(seconds, name)
    format = date_format(seconds.tolist()) if array.dtype.kind in "iuf" and len(seconds) else None
    if format and seconds.min() >= MIN_DATE:
        raise UsageError(
            f"{name} has {seconds[0]}, which looks like a date ({format}) and not like unix seconds; "
            "give seconds or datetimes"
        )
    return seconds


def _seconds(value: Any, name: str) -> int:
    """Return one moment as seconds."""
    if isinstance(value, np.datetime64) and not np.isnat(value):
        return int(value.astype("datetime64[s]").astype(np.int64))
    if isinstance(value, datetime) and value == value:  # NaT of pandas is a datetime that differs from itself
        return int(np.floor((value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp()))
    if isinstance(value, date) and not isinstance(value, datetime):
        return int(datetime(value.year, value.month, value.day, tzinfo=UTC).timestamp())
    if isinstance(value, Real) and not isinstance(value, bool) and np.isfinite(float(value)):
        _check_size(np.array([float(value)]), name)
        return int(np.floor(float(value)))
    raise _no_moment(value, name)


def _check_size(seconds: npt.NDArray[Any], name: str) -> None:
    """Refuse what is before 1970, or so large that it is no number of seconds."""
    bad = seconds[(seconds < 0) | (seconds >= LATEST_S)]
    if len(bad):
        hint = (
            "give seconds from 1970 on" if bad[0] < 0 else "are these milliseconds? Give seconds or datetimes"
        )
        raise UsageError(
            f"{name} has {bad[0]:.0f}, which is no time between 1970 and 2242 in seconds; {hint}"
        )


def _no_moment(value: object, name: str) -> UsageError:
    plain = value.item() if isinstance(value, np.number) else value  # NumPy 2 names its types in repr
    return UsageError(f"{name} has {plain!r}, which is no time; give unix seconds or datetimes")
