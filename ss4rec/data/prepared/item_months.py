"""Events of each item by month, counted once when a timeline is written.

Popularity at any moment, catalogue turnover and the age of items in the data need this table only, so no report has to
read all histories before it reads them (`drift.signals.items`). Months add up to quarters and years.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ss4rec.data.batches.windows import list_array
from ss4rec.data.prepared.tables import read_table

ITEM_MONTHS_NAME = "item_months.parquet"
SCHEMA = pa.schema(
    [
        ("item", pa.int32()),
        ("first_s", pa.int64()),
        ("months", pa.list_(pa.int32())),
        ("events", pa.list_(pa.int64())),
    ]
)
"""Row i-1 is item i: second of its first event, months (counted from 1970-01) that have one, and how many each has."""


def month_of(times_E: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return the month (UTC, counted from 1970-01) of each unix second."""
    return times_E.astype("datetime64[s]").astype("datetime64[M]").astype(np.int64)


def month_start_s(months_X: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return the first unix second of each month."""
    return months_X.astype("datetime64[M]").astype("datetime64[s]").astype(np.int64)


def item_months(items_E: npt.NDArray[Any], times_E: npt.NDArray[Any], num_items: int) -> pa.Table:
    """Return the table of `SCHEMA` for events of items 1 to `num_items`, each of which has one at least."""
    month_E = month_of(times_E)
    first_month = int(month_E.min())
    months = int(month_E.max()) - first_month + 1
    cells = np.bincount(
        (items_E - np.int64(1)) * months + (month_E - first_month), minlength=num_items * months
    )
    events_VM = cells.reshape(num_items, months)
    first_V = np.full(num_items, np.iinfo(np.int64).max)
    np.minimum.at(first_V, items_E - 1, times_E)
    item_X, month_X = np.nonzero(events_VM)
    offsets_V1 = np.searchsorted(item_X, np.arange(num_items + 1))
    columns = [
        np.arange(1, num_items + 1, dtype=np.int32),
        first_V,
        list_array((month_X + first_month).astype(np.int32), offsets_V1),
        list_array(events_VM[item_X, month_X], offsets_V1),
    ]
    return pa.Table.from_arrays([pa.array(column) for column in columns], schema=SCHEMA)


def read_item_months(folder: Path) -> pa.Table:
    """Read the table of a split folder.

    Raises:
        DataError: if it is missing, damaged, or of another version.
    """
    return read_table(folder / ITEM_MONTHS_NAME, SCHEMA, "run `ss4rec data split` again")
