"""Which rows can be used: the rules, and what becomes of rows that break them.

A row that cannot be used goes into quarantine with its number, a reason (one word that is counted) and a sentence;
a source with too many of them is refused.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ss4rec.data.sources.rows import CONTEXT
from ss4rec.data.sources.times import LATEST_S, UNIT_NAMES, TimeRule, parsed_or_null, to_seconds
from ss4rec.errors import DataError

FIRST_ROWS = 5_000
"""If this many rows at the beginning of a source are all bad, the rest is not read."""
DAY_S = 86_400
MOVIELENS_FROM_S = 788_918_400
"""1995-01-01; MovieLens' first ratings are of that January."""
QUARANTINE_SCHEMA = pa.schema([("row", pa.int64()), ("reason", pa.string()), ("detail", pa.string())])
"""A row in quarantine: number in the file (the header counts), reason, sentence."""


@dataclass(frozen=True)
class Rules:
    """What a row must be."""

    earliest_s: int = 0
    """Earliest time, unix seconds."""
    latest_s: int = LATEST_S - 1
    """Latest time, unix seconds."""
    lowest: float = -np.inf
    """Lowest rating."""
    highest: float = np.inf
    """Highest rating."""
    repeats: bool = True
    """Whether the same user, item and second may come twice; else the first in the file stays."""
    max_bad_share: float = 0.0
    """A source with a larger share of unusable rows is refused."""


def rules_for(layout: str, now_s: int, max_bad_share: float = 0.01) -> Rules:
    """Return the usual rules of a layout: none from the future, and in GroupLens' layouts what MovieLens allows.

    MovieLens began in 1995, its ratings are 0.5 to 5, and nobody rates a film twice in a second. A day of slack
    is for clocks in other zones.
    """
    rules = Rules(latest_s=now_s + DAY_S, max_bad_share=max_bad_share)
    if not layout.startswith("grouplens"):
        return rules
    return replace(rules, earliest_s=MOVIELENS_FROM_S, lowest=0.5, highest=5.0, repeats=False)


@dataclass(frozen=True)
class Parsed:
    """Rows that can be used, in file order, and those in quarantine."""

    users: pa.Array
    """int64, or dictionary of strings."""
    items: pa.Array
    """int64, or dictionary of strings."""
    times_R: npt.NDArray[Any]
    """int64 unix seconds."""
    ratings_R: npt.NDArray[Any]
    """float32; all 1 without a rating column."""
    numbers_R: npt.NDArray[Any]
    """int64 place of each row among all rows that were given, unusable ones too; from 0."""
    quarantine: pa.Table
    """As in `QUARANTINE_SCHEMA`, `row` counted as in `numbers_R`."""
    rows: int
    """Rows that were given."""
    context: dict[str, pa.Array] = field(default_factory=dict)
    """Columns about the event, by role; dictionaries of strings, null where unknown."""


def quarantine_table(rows: Iterable[tuple[int, str, str]]) -> pa.Table:
    """Make a table as in `QUARANTINE_SCHEMA` from (row, reason, sentence)."""
    return pa.Table.from_pylist(
        [dict(zip(QUARANTINE_SCHEMA.names, row, strict=True)) for row in rows], schema=QUARANTINE_SCHEMA
    )


def check_rows(
    columns: dict[str, pa.Array],
    rules: Rules,
    numbers_R: npt.NDArray[Any],
    unreadable: pa.Table,
    rows: int,
    times: TimeRule | None = None,
    where: str = "",
    first_row: int | None = None,
) -> Parsed:
    """Put rows that break a rule into quarantine.

    Args:
        columns: `user`, `item` (int64, string or dictionary), `time` (any type that `times` reads), perhaps `rating`,
            and columns about the event (dictionary of strings).
        rules: what a row must be.
        numbers_R: place of each row among all that were given.
        unreadable: rows in quarantine before.
        rows: rows that were given.
        times: what times mean.
        where: what messages call the source.
        first_row: number of the first row, if these are the first of the source.

    Raises:
        DataError: if the first thousands of rows of a source are all bad.
    """
    times = times or TimeRule()
    time = columns["time"]
    seconds = to_seconds(time, times)
    times_R = seconds.times_R
    rating = columns.get("rating")
    ratings_R = np.ones(len(times_R), np.float32) if rating is None else _numbers(rating)
    users, items = columns["user"], columns["item"]
    context = {role: column for role, column in columns.items() if role.startswith(CONTEXT)}
    no_time = seconds.missing_R.any() or seconds.unreadable_R.any() or seconds.off_unit_R.any()
    empty = users.null_count or items.null_count or no_time
    if not empty and _within(times_R, rules.earliest_s, rules.latest_s) and _usable(ratings_R, rules):
        return Parsed(users, items, times_R, ratings_R, numbers_R, unreadable, rows, context)
    found: list[tuple[npt.NDArray[Any], str, Callable[[int], str]]] = [
        (_nulls(columns["user"]), "user_missing", lambda row: "user is None, every row needs one"),
        (_nulls(columns["item"]), "item_missing", lambda row: "item is None, every row needs one"),
        (seconds.missing_R, "time_missing", lambda row: "time is None, every row needs one"),
        (seconds.unreadable_R, "time_unreadable", lambda row: _no_time(time[row].as_py(), times)),
        (seconds.off_unit_R, "time_early", lambda row: _off_unit(time[row].as_py(), times)),
        (times_R < rules.earliest_s, "time_early", lambda row: _early(int(times_R[row]), rules)),
        (times_R > rules.latest_s, "time_late", lambda row: _late(int(times_R[row]), times)),
        (
            ~np.isfinite(ratings_R),
            "rating_missing",
            lambda row: (
                f"rating is {None if rating is None else rating[row].as_py()!r}, "
                "ratings are finite numbers; repair or remove the row"
            ),
        ),
        (
            (ratings_R < rules.lowest) | (ratings_R > rules.highest),
            "rating_off_scale",
            lambda row: (
                f"rating is {ratings_R[row]:g}, off the scale from {rules.lowest:g} to {rules.highest:g}"
            ),
        ),
    ]
    bad_R = np.logical_or.reduce([mask_R for mask_R, *_ in found])

    def reason_of(row: int) -> tuple[int, str, str]:
        reason, sentence = next((reason, say) for mask_R, reason, say in found if mask_R[row])
        return int(numbers_R[row]), reason, sentence(row)

    if first_row is not None and len(bad_R) >= FIRST_ROWS and bad_R[:FIRST_ROWS].all():
        refuse_all_bad([reason_of(row) for row in range(FIRST_ROWS)], first_row, rules, where)
    refused = [reason_of(row) for row in np.flatnonzero(bad_R).tolist()]
    good = pa.array(~bad_R)
    quarantine = pa.concat_tables([unreadable, quarantine_table(refused)]).sort_by("row")
    return Parsed(
        users.filter(good),
        items.filter(good),
        times_R[~bad_R],
        ratings_R[~bad_R],
        numbers_R[~bad_R],
        quarantine,
        rows,
        {role: column.filter(good) for role, column in context.items()},
    )


def concatenated(parts: Sequence[Parsed], first_row: int) -> Parsed:
    """Return the parts of a source (at least one) as one, in file order, rows numbered from `first_row` on."""
    firsts = np.cumsum([first_row, *(part.rows for part in parts)])
    numbered = list(zip(parts, firsts[:-1].tolist(), strict=True))
    users, items = (
        pa.chunked_array([getattr(part, role) for part in parts]).combine_chunks()
        for role in ("users", "items")
    )
    return Parsed(
        users=users,
        items=items,
        times_R=np.concatenate([part.times_R for part in parts]),
        ratings_R=np.concatenate([part.ratings_R for part in parts]),
        numbers_R=np.concatenate([part.numbers_R + first for part, first in numbered]),
        quarantine=pa.concat_tables([shift_rows(part.quarantine, first) for part, first in numbered]),
        rows=int(firsts[-1]) - first_row,
        context={
            role: pa.chunked_array([part.context[role] for part in parts]).combine_chunks()
            for role in parts[0].context
        },
    )


def shift_rows(quarantine: pa.Table, first: int) -> pa.Table:
    """Add `first` to the row numbers."""
    return quarantine.set_column(0, "row", pa.array(quarantine["row"].to_numpy() + first, pa.int64()))


def repeat_sentence(user: object, item: object, time_s: int) -> str:
    """Say why a repeated row went into quarantine."""
    return f"user {user!r} and item {item!r} at {time_s} are in an earlier row"


def refuse_all_bad(bad: Sequence[tuple[int, str, str]], first_row: int, rules: Rules, where: str) -> None:
    """Refuse a source whose first FIRST_ROWS rows are all bad, before the rest is read.

    Args:
        bad: rows in quarantine, from the first of the source on: number from 0, reason, sentence.
        first_row: number of the first row as a person counts.
        rules: hold the limit; a source that may be all bad is read.
        where: what messages call the file.

    Raises:
        DataError: naming the first row, and how many there are for which reason.
    """
    if len(bad) < FIRST_ROWS or rules.max_bad_share >= 1:
        return
    counts = Counter(reason for _, reason, _ in bad)
    reasons = ", ".join(f"{reason} {count:,}" for reason, count in sorted(counts.items()))
    raise DataError(
        f"{where}, row {bad[0][0] + first_row}: {bad[0][2]}. None of the first {len(bad):,} rows can be used "
        f"({reasons}), so the rest was not read; is it a file of ratings, and are these its columns?"
    )


def enforce_limit(quarantine: pa.Table, rows: int, rules: Rules, where: str) -> None:
    """Refuse a source with too many unusable rows.

    Args:
        quarantine: rows in quarantine, `row` as a person counts in the file.
        rows: all rows of the source.
        rules: hold the limit.
        where: what messages call the file.

    Raises:
        DataError: naming the first unusable row, and how many there are for which reason.
    """
    if quarantine.num_rows <= rules.max_bad_share * rows:
        return
    first = quarantine.slice(0, 1).to_pylist()[0]
    reasons = ", ".join(f"{reason} {count:,}" for reason, count in count_reasons(quarantine).items())
    raise DataError(
        f"{where}, row {first['row']}: {first['detail']}. In all {quarantine.num_rows:,} of {rows:,} rows cannot be "
        f"used ({reasons}); the limit is a share of {rules.max_bad_share:g}: repair the file, or raise --max-bad-share"
    )


def count_reasons(quarantine: pa.Table) -> dict[str, int]:
    """Return how many rows went into quarantine, by reason in alphabetical order."""
    counts = pc.value_counts(quarantine["reason"]).to_pylist()
    return {entry["values"]: entry["counts"] for entry in sorted(counts, key=lambda entry: entry["values"])}


def _within(values_R: npt.NDArray[Any], low: float, high: float) -> bool:
    """Return whether all values are from `low` to `high`; NaN is not."""
    return not len(values_R) or bool(values_R.min() >= low and values_R.max() <= high)


def _usable(ratings_R: npt.NDArray[Any], rules: Rules) -> bool:
    """Return whether all ratings are finite and on the scale."""
    most = float(np.finfo(np.float32).max)
    return _within(ratings_R, max(rules.lowest, -most), min(rules.highest, most))


def _nulls(column: pa.Array) -> npt.NDArray[Any]:
    """Return which values are null."""
    if not column.null_count:
        return np.zeros(len(column), bool)
    return np.asarray(column.is_null().to_numpy(zero_copy_only=False))


def _numbers(column: pa.Array) -> npt.NDArray[Any]:
    """Turn a column of numbers into float32; null becomes NaN."""
    if pa.types.is_string(column.type):
        column = parsed_or_null(column, pa.float64())
    values = column if pa.types.is_floating(column.type) else column.cast(pa.float64())
    return np.asarray(values.to_numpy(zero_copy_only=False).astype(np.float32, copy=False))


def _early(time_s: int, rules: Rules) -> str:
    if time_s < 0:
        return f"time is {time_s}, times are unix seconds from 1970 on; repair or remove the row"
    return f"time is {time_s}, which is before {_day(rules.earliest_s)}"


def _late(time_s: int, times: TimeRule) -> str:
    if time_s < LATEST_S:
        return f"time is {time_s}, which is {_day(time_s)}, in the future"
    if times.unit == "s" and not times.format:
        return f"time is {time_s}, which is after the year 2242; are these milliseconds? Give seconds, or --time-unit"
    return f"time is {time_s} s after 1970, which is after the year 2242"


def _off_unit(value: object, times: TimeRule) -> str:
    unit = UNIT_NAMES[times.unit]
    return f"time is {value}, too small to be {unit} like the others; repair the row or give --time-unit"


def _no_time(value: object, times: TimeRule) -> str:
    wanted = (
        f"does not fit --time-format {times.format}" if times.format else f"is no time of type {times.text}"
    )
    return f"time is {str(value)[:80]!r}, which {wanted}"


def _day(time_s: int) -> str:
    return f"{datetime.fromtimestamp(time_s, UTC):%Y-%m-%d}"
