"""The run's items with all columns that conditions, limits and calibrated lists can ask for."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from torch import Tensor

from ss4rec.data.ids import look_up, one_array
from ss4rec.data.prepared.folder import PreparedFolder
from ss4rec.data.prepared.item_attributes import release_year
from ss4rec.data.prepared.manifest import Feature
from ss4rec.data.prepared.tables import FEATURE_PREFIX, read_items
from ss4rec.data.sources.features import FeatureTable
from ss4rec.errors import UsageError
from ss4rec.evaluation.lists import one_hot
from ss4rec.recommendations.where import fulfil
from ss4rec.runs.folder import RunFolder


@dataclass(frozen=True)
class Items:
    """Items 1, 2, ... of a run."""

    source_id: pa.Array
    """int64 or string."""
    columns: dict[str, pa.Array]
    """`id`, `title`, `genres`, `events` (training events), `year` (of release, where titles end in it), and those of
    the prepared folder or a file of the user's, in their own words and numbers."""

    @classmethod
    def of(
        cls, run: RunFolder, data: PreparedFolder | None = None, brought: FeatureTable | None = None
    ) -> Items:
        """Read what is known about a run's items.

        Args:
            run: the run.
            data: a prepared folder whose columns count too, joined by id.
            brought: a table of the user's, joined by id; its columns win.
        """
        table = read_items(run.path).combine_chunks()
        ids = one_array(table["source_id"])
        columns: dict[str, pa.Array] = {
            "id": ids,
            "title": one_array(table["title"]),
            "genres": one_array(table["genres"]),
            "events": one_array(table["count"]),
            "year": pa.array([release_year(title) for title in table["title"].to_pylist()], pa.int64()),
        }
        if data is not None and data.manifest.features:
            places = look_up(ids, data.items["source_id"])
            for feature in data.manifest.features.get("items", ()):
                coded = one_array(data.items[FEATURE_PREFIX + feature.name])
                if feature.kind != "text":  # hashed words mean nothing to a reader
                    columns[feature.name] = _decoded(coded, feature).take(places)
        if brought is not None:
            places = look_up(ids, brought.source_id)
            columns |= {
                name: one_array(brought.columns[name]).take(places) for name in brought.columns.column_names
            }
        return cls(ids, columns)

    def __len__(self) -> int:
        return len(self.source_id)

    @cached_property
    def texts(self) -> pa.Array:
        """Ids as texts."""
        return self.source_id.cast(pa.string())

    def find(self, ids: pa.Array | pa.ChunkedArray) -> npt.NDArray[np.int64]:
        """Return the index of each id, 0 for one that the run does not know."""
        places = look_up(ids, self.texts)
        return np.asarray(pc.fill_null(pc.add(places, 1), 0).to_numpy(zero_copy_only=False), np.int64)

    def fulfilling(self, condition: str) -> npt.NDArray[np.bool_]:
        """Return which items fulfil a condition, `[V]` with False for padding.

        Raises:
            UsageError: as `fulfil`, and if no item does.
        """
        kept_V = np.append(False, fulfil(condition, self.columns))
        if not kept_V.any():
            raise UsageError(f"--where {condition!r}: none of the {len(self):,} items fulfils it; widen it")
        return kept_V

    def one_hot(self, column: str, option: str) -> Tensor:
        """Return whether each item has each value of a column, float64 `[V, G]`.

        Args:
            column: its name.
            option: what messages call the option that names it.

        Raises:
            UsageError: if there is no such column, or it has no values.
        """
        if column not in self.columns:
            raise UsageError(f"{option}: there is no column {column!r}; items have {', '.join(self.columns)}")
        features_VG, names = one_hot([_texts(value) for value in self.columns[column].to_pylist()])
        if not names:
            raise UsageError(f"{option}: no item has a value of {column!r}; choose another column")
        return features_VG


def _texts(value: object) -> list[str]:
    several = value if isinstance(value, list) else [value]
    return [str(one) for one in several if one is not None]


def _decoded(column: pa.Array, feature: Feature) -> pa.Array:
    """Return a column of codes as the words that they stand for; null or left out where the word is not known."""
    if feature.values is None:
        return column
    words = pa.array([None, *feature.values, None], pa.string())
    if pa.types.is_list(column.type):
        return pa.ListArray.from_arrays(column.offsets, words.take(column.values), mask=column.is_null())
    return words.take(column)
