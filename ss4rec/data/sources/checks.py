"""Which rows can be used: the rules, and what becomes of rows that break them.

A row that cannot be used is put aside with its number, a reason (one word that is counted) and a sentence; a source
with too many of them is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ss4rec.errors import DataError

LATEST_S = 2**33
"""Times from here on (year 2242) are milliseconds or worse."""
DAY_S = 86_400
MOVIELENS_FROM_S = 788_918_400
"""1995-01-01; MovieLens' first ratings are of that January."""
BAD_SCHEMA = pa.schema([("row", pa.int64()), ("reason", pa.string()), ("detail", pa.string())])
"""A row that was put aside: number in the file (the header counts), reason, sentence."""


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
    """A source with a larger share of bad rows is refused."""


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
    """Rows that can be used, in file order, and those that were put aside."""

    users: pa.Array
    """int64, or dictionary of strings."""
    items: pa.Array
    """int64, or dictionary of strings."""
    times_R: np.ndarray
    """int64 unix seconds."""
    ratings_R: np.ndarray
    """float32; all 1 without a rating column."""
    numbers_R: np.ndarray
    """int64 place of each row among all rows that were given, bad ones too; from 0."""
    bad: pa.Table
    """As in `BAD_SCHEMA`, `row` counted as in `numbers_R`."""
    rows: int
    """Rows that were given."""


def bad_table(rows: Iterable[tuple[int, str, str]]) -> pa.Table:
    """Make a table as in `BAD_SCHEMA` from (row, reason, sentence)."""
    return pa.Table.from_pylist(
        [dict(zip(BAD_SCHEMA.names, row, strict=True)) for row in rows], schema=BAD_SCHEMA
    )


def check_rows(
    columns: dict[str, pa.Array], rules: Rules, numbers_R: np.ndarray, unreadable: pa.Table, rows: int
) -> Parsed:
    """Put aside the rows that break a rule.

    Args:
        columns: `user`, `item` (int64, string or dictionary), `time` (number, timestamp or date), perhaps `rating`.
        rules: what a row must be.
        numbers_R: place of each row among all that were given.
        unreadable: rows that were put aside before.
        rows: rows that were given.
    """
    time = columns["time"]
    times_R, no_time_R = _seconds(time)
    rating = columns.get("rating")
    ratings_R = np.ones(len(times_R), np.float32) if rating is None else _numbers(rating)
    users, items = columns["user"], columns["item"]
    empty = users.null_count or items.null_count or no_time_R.any()
    if not empty and _within(times_R, rules.earliest_s, rules.latest_s) and _usable(ratings_R, rules):
        return Parsed(users, items, times_R, ratings_R, numbers_R, unreadable, rows)
    found: list[tuple[np.ndarray, str, Callable[[int], str]]] = [
        (_nulls(columns["user"]), "user_missing", lambda row: "user is None, every row needs one"),
        (_nulls(columns["item"]), "item_missing", lambda row: "item is None, every row needs one"),
        (no_time_R, "time_missing", lambda row: "time is None, every row needs one"),
        (times_R < rules.earliest_s, "time_early", lambda row: _early(int(times_R[row]), rules)),
        (times_R > rules.latest_s, "time_late", lambda row: _late(int(times_R[row]))),
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
    aside = []
    for row in np.flatnonzero(bad_R).tolist():
        reason, sentence = next((reason, say) for mask_R, reason, say in found if mask_R[row])
        aside.append((int(numbers_R[row]), reason, sentence(row)))
    good = pa.array(~bad_R)
    bad = pa.concat_tables([unreadable, bad_table(aside)]).sort_by("row")
    return Parsed(
        users.filter(good),
        items.filter(good),
        times_R[~bad_R],
        ratings_R[~bad_R],
        numbers_R[~bad_R],
        bad,
        rows,
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
        bad=pa.concat_tables([shift_rows(part.bad, first) for part, first in numbered]),
        rows=int(firsts[-1]) - first_row,
    )


def shift_rows(bad: pa.Table, first: int) -> pa.Table:
    """Add `first` to the row numbers."""
    return bad.set_column(0, "row", pa.array(bad["row"].to_numpy() + first, pa.int64()))


def repeat_sentence(user: object, item: object, time_s: int) -> str:
    """Say why a repeated row was put aside."""
    return f"user {user!r} and item {item!r} at {time_s} are in an earlier row"


def enforce_limit(bad: pa.Table, rows: int, rules: Rules, where: str) -> None:
    """Refuse a source with too many bad rows.

    Args:
        bad: rows that were put aside, `row` as a person counts in the file.
        rows: all rows of the source.
        rules: hold the limit.
        where: what messages call the file.

    Raises:
        DataError: naming the first bad row, and how many there are for which reason.
    """
    if bad.num_rows <= rules.max_bad_share * rows:
        return
    first = bad.slice(0, 1).to_pylist()[0]
    reasons = ", ".join(f"{reason} {count:,}" for reason, count in count_reasons(bad).items())
    raise DataError(
        f"{where}, row {first['row']}: {first['detail']}. In all {bad.num_rows:,} of {rows:,} rows cannot be used "
        f"({reasons}); the limit is a share of {rules.max_bad_share:g}: repair the file, or raise --max-bad-share"
    )


def count_reasons(bad: pa.Table) -> dict[str, int]:
    """Return how many rows were put aside, by reason in alphabetical order."""
    counts = pc.value_counts(bad["reason"]).to_pylist()
    return {entry["values"]: entry["counts"] for entry in sorted(counts, key=lambda entry: entry["values"])}


def _within(values_R: np.ndarray, low: float, high: float) -> bool:
    """Return whether all values are from `low` to `high`; NaN is not."""
    return not len(values_R) or bool(values_R.min() >= low and values_R.max() <= high)


def _usable(ratings_R: np.ndarray, rules: Rules) -> bool:
    """Return whether all ratings are finite and on the scale."""
    most = float(np.finfo(np.float32).max)
    return _within(ratings_R, max(rules.lowest, -most), min(rules.highest, most))


def _nulls(column: pa.Array) -> np.ndarray:
    """Return which values are null."""
    if not column.null_count:
        return np.zeros(len(column), bool)
    return column.is_null().to_numpy(zero_copy_only=False)


def _seconds(column: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """Turn numbers, timestamps (UTC if they have no zone) or dates into int64 seconds, rounding down; and nulls."""
    kind = column.type
    if pa.types.is_date(kind):
        column = column.cast(pa.timestamp("s"))
    elif pa.types.is_timestamp(kind):
        column = column.cast(pa.timestamp("s", kind.tz), safe=False)
        if kind.unit != "s":  # Arrow's cast rounds towards zero; times before 1970 are refused anyway
            kind = column.type
    missing_R = _nulls(column)
    if pa.types.is_floating(kind):
        values_R = np.floor(column.to_numpy(zero_copy_only=False))
        missing_R = missing_R | np.isnan(values_R)
        return np.nan_to_num(values_R, nan=0, posinf=2.0**62, neginf=-(2.0**62)).astype(np.int64), missing_R
    whole = column.cast(pa.int64())
    return (whole.fill_null(0) if whole.null_count else whole).to_numpy(), missing_R


def _numbers(column: pa.Array) -> np.ndarray:
    """Turn a column of numbers into float32; null becomes NaN."""
    values = column if pa.types.is_floating(column.type) else column.cast(pa.float64())
    return values.to_numpy(zero_copy_only=False).astype(np.float32, copy=False)


def _early(time_s: int, rules: Rules) -> str:
    if time_s < 0:
        return f"time is {time_s}, times are unix seconds from 1970 on; repair or remove the row"
    return f"time is {time_s}, which is before {_day(rules.earliest_s)}"


def _late(time_s: int) -> str:
    if time_s >= LATEST_S:
        return f"time is {time_s}, which is after the year 2242; are these milliseconds? Give seconds"
    return f"time is {time_s}, which is {_day(time_s)}, in the future"


def _day(time_s: int) -> str:
    return f"{datetime.fromtimestamp(time_s, UTC):%Y-%m-%d}"
