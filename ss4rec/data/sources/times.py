"""What the values of a time column mean, and how they become unix seconds.

Whole numbers may be seconds, milliseconds, microseconds or nanoseconds since 1970: as dates between 1970 and 2242 these
four ranges do not overlap (but for the first 100 days), so the size of a value says its unit.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ss4rec.errors import DataError

Unit = Literal["s", "ms", "us", "ns"]
UNITS: tuple[Unit, ...] = get_args(Unit)
FACTORS: dict[Unit, int] = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
UNIT_NAMES: dict[Unit, str] = {
    "s": "seconds",
    "ms": "milliseconds",
    "us": "microseconds",
    "ns": "nanoseconds",
}
LATEST_S = 2**33
"""Seconds from here on (year 2242) are milliseconds or worse."""
TEXT_KINDS = (pa.timestamp("ns"), pa.timestamp("ns", "UTC"))
"""How texts are read as times without a format, tried in this order: ISO 8601 without and with a zone."""
DIGITS = {4: "%Y", 6: "%Y%m", 8: "%Y%m%d", 10: "%Y%m%d%H", 12: "%Y%m%d%H%M", 14: "%Y%m%d%H%M%S"}
"""Formats of dates that are written as whole numbers, by their number of digits."""
MIN_COARSE = 20
"""Different times from which it is said that they were rounded to what float32 holds."""
SCIENTIFIC = re.compile(r"\d(?:\.(\d+))?[eE]\+?(\d{1,2})")
FIVE_MINUTES_S = 300
FAR_S = 2**62
"""Stands for seconds that int64 does not hold."""
YEAR_S = 366 * 86_400
WAYS_OUT = "name the format with --time-format, as in --time-format %d/%m/%Y, or the unit with --time-unit"


@dataclass(frozen=True)
class TimeRule:
    """How the values of a time column are read."""

    unit: Unit = "s"
    """Of numbers."""
    given: bool = True
    """Whether the user named the unit; else each number must have the size that gave it away."""
    format: str | None = None
    """Of texts and whole numbers, as for `strptime`; None: ISO 8601."""
    text: pa.DataType | None = None
    """As what texts are read without a format."""


@dataclass(frozen=True)
class Seconds:
    """A column of times as unix seconds, and what is wrong with some."""

    times_R: npt.NDArray[Any]
    """int64, rounded down."""
    missing_R: npt.NDArray[Any]
    """Null, NaN or an empty text."""
    unreadable_R: npt.NDArray[Any]
    """Texts that are no times."""
    off_unit_R: npt.NDArray[Any]
    """Numbers too small for the unit that the others have."""


def choose_rule(
    sample: pa.Array | pa.ChunkedArray, unit: Unit | None, format: str | None, where: str
) -> tuple[TimeRule, list[str]]:
    """Find out what the values of a time column mean.

    Args:
        sample: some values, of any type that Arrow has; texts that are numbers must have been cast.
        unit: the unit of numbers, if the user named it.
        format: the format, if the user named it.
        where: what messages call the file.

    Returns:
        The rule, and sentences for the user.

    Raises:
        DataError: if the values are no times, are dates that look like numbers, or were rounded to float32.
    """
    kind = plain_type(sample.type)
    if is_bytes(kind):
        sample, kind = sample.cast(pa.string()), pa.string()
    if unit and format:
        raise DataError("--time-unit is for numbers and --time-format for texts; give one of them")
    refuse_type(kind, sample, where)
    if pa.types.is_date(kind) or pa.types.is_timestamp(kind):
        if unit or format:
            raise DataError(f"{where}: times have type {kind}; leave out --time-unit and --time-format")
        return TimeRule(), []
    if format is not None:
        return _format_rule(sample, kind, format, where)
    if is_text(kind):
        return _text_rule(sample, unit, where)
    numbers = _numbers(sample)
    numbers = numbers[np.abs(numbers) < 2.0**63]
    if unit is None:
        _refuse_dates(numbers, where)
    _refuse_coarse(numbers, where)
    if unit is not None or not len(numbers):
        return TimeRule(unit or "s", given=unit is not None), []
    found = unit_of(float(np.median(np.abs(numbers))))
    notes = []
    if found != "s":
        notes = [f"times are read as {UNIT_NAMES[found]}, which their size says; --time-unit says otherwise"]
    elif numbers.max() < YEAR_S:
        notes = [
            "times are read as unix seconds and so lie in 1970; if they are dates or another unit, write them anew"
        ]
    return TimeRule(found, given=False), notes


def unit_of(value: float) -> Unit:
    """Return the unit in which a number since 1970 is a time before the year 2242."""
    return next((unit for unit in UNITS if value < LATEST_S * FACTORS[unit]), "ns")


def to_seconds(column: pa.Array, rule: TimeRule) -> Seconds:
    """Turn numbers, texts, timestamps (UTC if they have no zone) or dates into unix seconds, rounding down."""
    kind = column.type
    nothing_R = np.zeros(len(column), bool)
    unreadable_R = off_unit_R = nothing_R
    if rule.format is not None and pa.types.is_integer(kind):
        column, kind = column.cast(pa.string()), pa.string()
    if is_text(kind):
        missing_R = _mask(column.is_null()) | _mask(pc.equal(column, "").fill_null(True))
        column = _parsed(column, rule)
        unreadable_R = _mask(column.is_null()) & ~missing_R
        times_R = _timestamps(column)
    elif pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        missing_R = _mask(column.is_null()) if column.null_count else nothing_R
        times_R = _timestamps(column)
    else:
        times_R, missing_R, off_unit_R = _from_numbers(column, rule, nothing_R)
    return Seconds(times_R, missing_R, unreadable_R, off_unit_R)


def plain_type(kind: pa.DataType) -> pa.DataType:
    """Return the type of the values of a dictionary or of runs, and every other type as it is."""
    if pa.types.is_dictionary(kind) or pa.types.is_run_end_encoded(kind):
        return plain_type(kind.value_type)
    return kind


def is_text(kind: pa.DataType) -> bool:
    """Return whether values are texts."""
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def is_bytes(kind: pa.DataType) -> bool:
    """Return whether values are bytes, as which older writers of Parquet kept texts."""
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind))


def refuse_type(kind: pa.DataType, sample: Any, where: str) -> None:
    """Refuse types that hold no moments.

    Raises:
        DataError: with the type and the way out.
    """
    if pa.types.is_float16(kind) or pa.types.is_float32(kind):
        raise DataError(
            f"{where}: time has type {kind}, which holds 7 digits and so rounds seconds of today to 64 or 128; "
            "write the times as int64, double or timestamps"
        )
    known = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_null(kind)
    if not (
        known or is_text(kind) or is_bytes(kind) or pa.types.is_timestamp(kind) or pa.types.is_date(kind)
    ):
        example = sample[0].as_py() if len(sample) else None
        raise DataError(
            f"{where}: time has type {kind} (first value {example!r}); give unix seconds or ISO 8601 dates"
        )


def _format_rule(sample: Any, kind: pa.DataType, format: str, where: str) -> tuple[TimeRule, list[str]]:
    """Return the rule for a format, which must fit most of the sample."""
    if pa.types.is_floating(kind):
        raise DataError(f"{where}: time has type {kind}; --time-format reads texts and whole numbers")
    texts = [str(value) for value in _values(sample)]
    if "%" not in format:
        raise DataError(f"--time-format {format!r} has no % directive; write it as in %Y-%m-%d %H:%M:%S")
    rule = TimeRule(format=format)
    able = _mask(_parsed(pa.array(texts, pa.string()), rule).is_valid())
    if texts and able.sum() * 2 <= len(texts):
        first = texts[int(np.argmin(able))]
        raise DataError(f"{where}: time {first!r} does not fit --time-format {format!r}")
    return rule, []


def _text_rule(sample: Any, unit: Unit | None, where: str) -> tuple[TimeRule, list[str]]:
    """Return the rule for texts without a format: the way of reading that fits most."""
    texts = [text.strip() for text in _values(sample) if text.strip()]
    refuse_few_digits(texts, where)
    for kind in (pa.int64(), pa.float64()):
        numbers = parsed_or_null(pa.array(texts, pa.string()), kind)
        if texts and numbers.null_count * 2 < len(numbers):
            rule, notes = choose_rule(numbers, unit, None, where)
            return TimeRule(rule.unit, rule.given, text=kind), notes
    if unit:
        raise DataError(
            f"{where}: time has type string (first value {texts[:1]!r}); --time-unit is for numbers"
        )
    best, most = None, len(texts) / 2
    for kind in TEXT_KINDS:
        able = len(texts) - parsed_or_null(pa.array(texts, pa.string()), kind).null_count
        if able > most:
            best, most = kind, able
    if best is None and texts:
        raise DataError(
            f"{where}: time has type string (first value {texts[0]!r}); give unix seconds or ISO 8601 dates, "
            f"or {WAYS_OUT}"
        )
    return TimeRule(text=best or TEXT_KINDS[0]), []


def parsed_or_null(texts: pa.Array, kind: pa.DataType) -> pa.Array:
    """Cast texts, with null for each that is no such value: halves of what cannot be cast are cast again."""
    try:
        return texts.cast(kind)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        if len(texts) <= 1:
            return pa.nulls(len(texts), kind)
    middle = len(texts) // 2
    return pa.concat_arrays([parsed_or_null(texts[:middle], kind), parsed_or_null(texts[middle:], kind)])


def _parsed(texts: pa.Array, rule: TimeRule) -> pa.Array:
    """Turn texts into timestamps, null where they are none."""
    if rule.format is not None:
        import pandas as pd  # takes a third of the time in which a worker starts, and few sources need it

        try:
            found = pd.to_datetime(
                texts.to_pandas(), format=rule.format, errors="coerce", utc=True, exact=True, cache=True
            )
        except ValueError as error:
            raise DataError(f"--time-format {rule.format!r} cannot be used: {error}") from None
        return pa.Array.from_pandas(found, type=pa.timestamp("ns", "UTC"))
    text = pc.utf8_trim_whitespace(texts.cast(pa.string()))
    kind = rule.text or TEXT_KINDS[0]
    values = parsed_or_null(text, kind)
    if pa.types.is_timestamp(kind):
        return values
    seconds = to_seconds(values, TimeRule(rule.unit, rule.given))
    times = pa.array(seconds.times_R, pa.timestamp("s", "UTC"), mask=seconds.missing_R | seconds.off_unit_R)
    return times


def _timestamps(column: pa.Array) -> npt.NDArray[Any]:
    """Return timestamps or dates as seconds, 0 for null."""
    if pa.types.is_date(column.type):
        column = column.cast(pa.timestamp("ms"))
    factor = FACTORS[column.type.unit]
    whole_R = column.cast(pa.int64()).fill_null(0).to_numpy(zero_copy_only=False)
    return np.asarray(whole_R if factor == 1 else whole_R // factor)


def _from_numbers(
    column: pa.Array, rule: TimeRule, nothing_R: npt.NDArray[Any]
) -> tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any]]:
    """Return numbers as seconds, which are missing, and which are too small for the unit of the others."""
    factor = FACTORS[rule.unit]
    if pa.types.is_null(column.type):
        column = pa.nulls(len(column), pa.int64())
    if pa.types.is_floating(column.type):
        values_R = column.to_numpy(zero_copy_only=False)
        missing_R = np.isnan(values_R)
        seconds_R = np.nan_to_num(values_R, nan=0) // factor
        whole_R = np.clip(seconds_R, -FAR_S, FAR_S).astype(np.int64)
    else:
        missing_R = _mask(column.is_null()) if column.null_count else nothing_R
        values_R = (column.fill_null(0) if column.null_count else column).to_numpy(zero_copy_only=False)
        if values_R.dtype == np.uint64:
            whole_R = np.minimum(values_R // np.uint64(factor), np.uint64(FAR_S)).astype(np.int64)
        else:
            whole_R = values_R.astype(np.int64, copy=False)
            whole_R = whole_R // factor if factor > 1 else whole_R
    if rule.given or rule.unit == "s":
        return whole_R, missing_R, nothing_R
    return whole_R, missing_R, (values_R < LATEST_S * factor // 1000) & ~missing_R


def _refuse_dates(numbers: npt.NDArray[Any], where: str) -> None:
    """Refuse numbers that are dates, as 20240101."""
    if not len(numbers) or (numbers != np.floor(numbers)).any():
        return
    format = date_format(numbers.astype(np.int64).tolist())
    if format:
        raise DataError(
            f"{where}: time {int(numbers[0])} looks like a date and not like a number of seconds; "
            f"read it with --time-format {format}, or say --time-unit s if it is one"
        )


def date_format(numbers: Sequence[int]) -> str | None:
    """Return the format of the dates that all of `numbers` are, as `%Y%m%d` of 20240101; None if one is none."""
    lengths = {len(str(number)) for number in numbers}
    if len(lengths) != 1 or not lengths <= set(DIGITS):
        return None
    (length,) = lengths
    return DIGITS[length] if all(_is_date(str(number)) for number in numbers) else None


def _is_date(digits: str) -> bool:
    """Return whether digits are year, month, day, hour, minute, second, as far as there are any."""
    ranges = ((1, 12), (1, 31), (0, 23), (0, 59), (0, 59))
    fields = [int(digits[at : at + 2]) for at in range(4, len(digits), 2)]
    return 1900 <= int(digits[:4]) <= 2100 and all(
        low <= field <= high for field, (low, high) in zip(fields, ranges, strict=False)
    )


def _refuse_coarse(numbers: npt.NDArray[Any], where: str) -> None:
    """Refuse times that were rounded to float32 on their way here, whatever type they have now."""
    seconds = (
        np.floor(numbers / FACTORS[unit_of(float(np.median(np.abs(numbers))))]) if len(numbers) else numbers
    )
    distinct = np.unique(seconds)
    if len(distinct) < MIN_COARSE or distinct.min() < 2**27:
        return
    rounded = distinct.astype(np.float32)
    written = np.array([float(str(value)) for value in rounded])  # in text the shortest digits stand for it
    # Times to five minutes, hours or days have few digits too.
    if ((rounded == distinct) | (written == distinct)).all() and (distinct % FIVE_MINUTES_S != 0).any():
        raise DataError(
            f"{where}: times such as {numbers[0]:.0f} are all rounded to what float32 holds (64 or 128 s); "
            "write them anew from the original as int64 or double"
        )


def refuse_few_digits(texts: Sequence[str], where: str) -> None:
    """Refuse times such as 1.5e+09, whose digits do not reach down to seconds.

    Raises:
        DataError: if most are written so.
    """
    found = [SCIENTIFIC.fullmatch(text.strip()) for text in texts]
    coarse = [
        match[0]
        for match in found
        if match
        and 10 ** (int(match[2]) - len(match[1] or "")) > FACTORS[unit_of(min(float(match[0]), 2.0**62))]
    ]
    if len(coarse) * 2 > len(texts):
        raise DataError(
            f"{where}: times such as {coarse[0]} have too few digits for seconds (as float32 holds them); "
            "write them anew from the original as int64 or double"
        )


def _numbers(sample: Any) -> npt.NDArray[Any]:
    """Return the finite numbers of a sample as float64."""
    values = np.array([float(value) for value in _values(sample)], np.float64)
    return np.asarray(values[np.isfinite(values)])


def _values(sample: Any) -> list[Any]:
    return [value for value in sample.to_pylist() if value is not None]


def _mask(column: Any) -> npt.NDArray[Any]:
    return np.asarray(column.to_numpy(zero_copy_only=False))
