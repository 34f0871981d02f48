"""Bad rows that are set aside instead of ending the preparation: counted by reason, kept in a side file, limited."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ss4rec.errors import DataError
from ss4rec.files import flush

LATEST_S = 2**33
"""Times from here on (year 2242) are refused: they are milliseconds or worse."""
WHOLE = r"^(0|-?[1-9]\d{0,17})$"
"""A whole number that int64 holds, as text."""
Mask = npt.NDArray[np.bool_]


@dataclass
class Quarantine:
    """Sets bad rows aside.

    Args:
        most: rows that may be set aside; one more is an error.
    """

    most: int
    rows: list[dict[str, Any]] = field(default_factory=list)
    """Row in the file, reason and values of each row that was set aside."""

    def filter(
        self, columns: dict[str, pa.ChunkedArray], *, file: str, first_row: int, integers: bool
    ) -> dict[str, pa.ChunkedArray]:
        """Return the good rows of `columns` (by role) and keep the others.

        Args:
            columns: as read; `user`, `item`, `time` and perhaps `rating`.
            file: path of the file, for the message.
            first_row: number of the first data row in the file.
            integers: whether ids must be whole numbers.

        Raises:
            DataError: if more than `most` rows are bad, with counts by reason.
        """
        reasons = reasons_of(columns, integers)
        if not reasons:
            return columns
        bad_R = np.logical_or.reduce(list(reasons.values()))
        for row in np.flatnonzero(bad_R)[: self.most + 1].tolist():
            values = {role: str(column[row].as_py()) for role, column in columns.items()}
            reason = next(reason for reason, mask_R in reasons.items() if mask_R[row])
            self.rows.append({"row": row + first_row, "reason": reason, **values})
        if (found := int(bad_R.sum())) > self.most:
            counts = ", ".join(f"{reason}: {int(mask_R.sum()):,}" for reason, mask_R in reasons.items())
            raise DataError(
                f"{file}: {found:,} of {len(bad_R):,} rows are bad ({counts}; the first is row "
                f"{self.rows[0]['row']}), and --max-bad-rows is {self.most:,}; repair the file or allow more"
            )
        good = pa.array(~bad_R)
        return {role: _used(column.filter(good)) for role, column in columns.items()}

    def counts(self) -> dict[str, int]:
        """Return how many rows were set aside, by reason, as `bad: REASON`."""
        return dict(Counter(f"bad: {row['reason']}" for row in self.rows))

    def save(self, path: Path) -> None:
        """Write a JSON line for each row that was set aside."""
        path.write_text("".join(json.dumps(row) + "\n" for row in self.rows), encoding="utf-8")
        flush(path)


def reasons_of(columns: dict[str, pa.ChunkedArray], integers: bool) -> dict[str, Mask]:
    """Return which rows are bad for which reason; only reasons that some row has."""
    masks: dict[str, Mask] = {}
    for role in ("user", "item"):
        column = columns[role]
        masks[f"no {role}"] = _plain(column.is_null())
        if integers and not pa.types.is_integer(column.type):
            text = column.cast(pa.string())
            masks[f"{role} is no whole number"] = ~_plain(pc.match_substring_regex(text, WHOLE), null=True)
    masks |= _times(columns["time"])
    if "rating" in columns and pa.types.is_floating(columns["rating"].type):
        masks["rating is no finite number"] = ~_plain(pc.is_finite(columns["rating"]), null=False)
    return {reason: mask_R for reason, mask_R in masks.items() if mask_R.any()}


def _times(column: pa.ChunkedArray) -> dict[str, Mask]:
    masks = {"no time": _plain(column.is_null())}
    if pa.types.is_integer(column.type) or pa.types.is_floating(column.type):
        masks["time before 1970"] = ~_plain(pc.greater_equal(column, 0), null=True)
        masks["time after 2242, perhaps milliseconds"] = _plain(
            pc.greater_equal(column, LATEST_S), null=False
        )
    return masks


def _used(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Drop values that no row has any more from a dictionary: one bad id would make strings of all."""
    if not pa.types.is_dictionary(column.type):
        return column
    return column.cast(column.type.value_type).dictionary_encode()


def _plain(mask: pa.ChunkedArray, null: bool = False) -> Mask:
    """Return a mask as NumPy array, with `null` where it is null."""
    return pc.fill_null(mask, null).to_numpy().astype(bool)
