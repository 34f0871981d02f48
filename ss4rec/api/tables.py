"""Tables of events in, tables of recommendations out, each of the kind that the caller uses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ss4rec.data.moments import Moment
from ss4rec.data.sources.columns import choose_columns
from ss4rec.data.sources.tables_in_memory import WHERE, is_table
from ss4rec.data.sources.times import choose_rule, is_text, plain_type, to_seconds
from ss4rec.errors import DataError, UsageError
from ss4rec.recommender import History, Recommendation, Recommender

_TableT = TypeVar("_TableT")


@dataclass(frozen=True)
class Users:
    """Users of a table, in the order of their first events."""

    column: str
    ids: pa.Array


def as_arrow(table: object) -> pa.Table:
    """Return a pandas or Polars DataFrame, an Arrow table or a Ray dataset as an Arrow table.

    Raises:
        UsageError: if it is none of these.
        DataError: if a column cannot be kept by Arrow.
    """
    if not is_table(table):
        raise UsageError(
            f"events are a {type(table).__name__}; give a pandas, Polars, Arrow or Ray Data table"
        )
    if isinstance(table, pa.Table):
        return table
    if hasattr(table, "to_arrow_refs"):
        import ray

        return pa.concat_tables(ray.get(table.to_arrow_refs()), promote_options="default")
    try:
        return pa.table(table)
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise DataError(
            f"{WHERE} cannot be read: {str(error).splitlines()[0]}; give each column values of one type"
        ) from None


def histories(
    events: object, columns: Mapping[str, str], model: Recommender, at: Moment | None, ignore_unknown: bool
) -> tuple[Users, list[History]]:
    """Group events by user.

    Args:
        events: a table; rows in any order.
        columns: column of each role, where the name does not say it.
        model: whose items are known.
        at: moment for which to recommend.
        ignore_unknown: leave out users who have no event of an item that `model` knows.

    Raises:
        DataError: if a column is missing or an id or time is.
    """
    table = as_arrow(events)
    told = [column.name for column in model.model.columns.context if column.name in table.column_names]
    roles = choose_columns(table.column_names, columns, WHERE)
    told = [name for name in told if name not in roles.values()]
    given = {role: _plain(table[column]) for role, column in roles.items()}
    if given["user"].null_count or given["item"].null_count:
        raise DataError(f"{WHERE} has events without a user or an item; leave them out")
    users_R = given["user"].dictionary_encode()
    items, times_R = given["item"].to_pylist(), _seconds(given["time"])
    codes_R = users_R.indices.to_numpy()
    order_R = np.argsort(codes_R, kind="stable")
    places = np.split(order_R, np.flatnonzero(np.diff(codes_R[order_R])) + 1) if len(order_R) else []
    ratings_R = (
        given["rating"].cast(pa.float32()).to_numpy(zero_copy_only=False) if "rating" in given else None
    )
    values = {name: _plain(table[name]) for name in told}
    kept: list[int] = []
    found: list[History] = []
    for number, place in enumerate(places):
        own = [items[row] for row in place]
        if ignore_unknown and not any(item in model.index for item in own):
            continue
        kept.append(number)
        own_ratings = None if ratings_R is None else ratings_R[place].tolist()
        context = {name: values[name].take(pa.array(place)).to_pylist() for name in told}
        found.append(History(own, times_R[place].tolist(), at, own_ratings, context=context))
    return Users(roles["user"], users_R.dictionary.take(pa.array(kept, pa.int64()))), found


def like(events: _TableT, users: Users, found: Sequence[Sequence[Recommendation]]) -> _TableT:
    """Return recommendations as a table of the kind of `events`; its columns are those of `ss4rec.recommend`."""
    each = list(chain.from_iterable(found))
    counts = [len(one) for one in found]
    owner = np.repeat(np.arange(len(found)), counts)
    taken = users.ids.take(pa.array(owner, pa.int64()))
    table = pa.table(
        {
            users.column: taken,
            "rank": pa.array([rank for count in counts for rank in range(1, count + 1)], pa.int32()),
            "item": pa.array([one.item for one in each]),
            "score": pa.array([one.score for one in each], pa.float32()),
            "title": pa.array([one.title for one in each], pa.string()),
        }
    )
    shown: _TableT = as_kind_of(events, table)
    return shown


def _plain(column: pa.ChunkedArray) -> pa.Array:
    """Return a column as one array of plain values: no dictionary, no views of texts."""
    kind = plain_type(column.type)
    kind = pa.string() if is_text(kind) else kind
    joined = column.cast(kind).combine_chunks()
    return pa.concat_arrays(joined.chunks) if isinstance(joined, pa.ChunkedArray) else joined


def _seconds(column: pa.Array) -> npt.NDArray[Any]:
    """Return a column of times as unix seconds, read as `prepare` reads them.

    Raises:
        DataError: if one is missing or is no time.
    """
    rule, _ = choose_rule(column, None, None, WHERE)
    seconds = to_seconds(column, rule)
    wrong_R = seconds.missing_R | seconds.unreadable_R | seconds.off_unit_R
    if wrong_R.any():
        first = int(np.argmax(wrong_R))
        raise DataError(f"{WHERE}: row {first + 1} has time {column[first].as_py()!r}, which is no time")
    return seconds.times_R


def as_kind_of(events: Any, table: pa.Table) -> Any:
    """Return a table as the kind that `events` is."""
    module = type(events).__module__.split(".")[0]
    if module == "pandas":
        return table.to_pandas()
    if module == "polars":
        import polars as pl

        return pl.from_arrow(table)
    if module == "ray":
        import ray.data

        return ray.data.from_arrow(table)
    return table
