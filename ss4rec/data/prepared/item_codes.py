"""Features of a prepared folder's items as the pairs and vectors that the model has rows for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ss4rec.data.prepared.features import encode_column
from ss4rec.data.prepared.manifest import Feature, Kind, Manifest
from ss4rec.data.prepared.tables import FEATURE_PREFIX
from ss4rec.errors import ConfigError

if TYPE_CHECKING:
    from ss4rec.model.item_features import ItemCodes

PERIOD_YEARS = 5
FROM_SOURCE: dict[str, Kind] = {"genres": "multi", "period": "categorical", "title": "text"}
"""Features that a source itself brings, where nobody brought a column of that name: chosen by name, never by `auto`."""
WIDEST = 4.0
"""Numbers are cut at so many half distances of quartiles from their median."""


def brought(manifest: Manifest) -> tuple[Feature, ...]:
    """Return the features of items that a folder describes."""
    return (manifest.features or {}).get("items", ())


def chosen_features(asked: str | tuple[str, ...], manifest: Manifest) -> tuple[str, ...]:
    """Return the names of the features that `model.item_features` means for a folder.

    Raises:
        ConfigError: for a name that the folder does not have.
    """
    known = [feature.name for feature in brought(manifest)]
    if isinstance(asked, str):
        return () if asked == "none" else tuple(known)
    wrong = [name for name in asked if name not in known and name not in FROM_SOURCE]
    if wrong:
        raise ConfigError(
            f"model.item_features has {', '.join(wrong)}, and items of {manifest.name} have "
            f"{', '.join([*known, *FROM_SOURCE])}; name some of these, or prepare the data with --item-features"
        )
    return asked


def item_codes(items: pa.Table, manifest: Manifest, names: Sequence[str]) -> ItemCodes:
    """Return the features `names` of all items.

    Args:
        items: `items.parquet`, or the model's items of it in their order.
        manifest: says what its columns mean.
        names: as from `chosen_features`.
    """
    import torch

    from ss4rec.model.columns import ItemColumns
    from ss4rec.model.item_features import ItemCodes

    meaning = {feature.name: feature for feature in brought(manifest)}
    features: list[Feature] = []
    items_N, codes_N, weights_N, vectors, first = [], [], [], [np.zeros((items.num_rows, 0), np.float32)], 0
    for name in names:
        if name in meaning:
            column, feature = items[FEATURE_PREFIX + name].combine_chunks(), meaning[name]
        else:
            column, feature = encode_column(name, _from_source(items, name), FROM_SOURCE[name])
        features.append(feature)
        if feature.kind == "vector":
            vectors.append(_vectors(column, feature))
            continue
        own_items_N, own_codes_N, own_weights_N = _pairs(column, feature)
        items_N.append(own_items_N)
        codes_N.append(own_codes_N + first)
        weights_N.append(own_weights_N)
        first += _rows(feature)
    item_N = np.concatenate([np.zeros(0, np.int64), *items_N])
    order_N = np.argsort(item_N, kind="stable")
    counts_V = np.bincount(item_N + 1, minlength=items.num_rows + 1)
    vectors_IF = np.concatenate(vectors, axis=1)
    columns = ItemColumns(
        names=tuple(names),
        rows=first,
        pairs=len(item_N),
        dims=vectors_IF.shape[1],
        meaning=tuple(features),
    )
    return ItemCodes(
        columns,
        torch.from_numpy(np.concatenate([[0], np.cumsum(counts_V)]).astype(np.int32)),
        torch.from_numpy(np.concatenate([np.zeros(0, np.int64), *codes_N])[order_N].astype(np.int32)),
        torch.from_numpy(np.concatenate([np.zeros(0, np.float32), *weights_N])[order_N].astype(np.float32)),
        torch.from_numpy(np.pad(vectors_IF, ((1, 0), (0, 0)))),
    )


def described_items(items: pa.Table, manifest: Manifest, names: Sequence[str]) -> npt.NDArray[np.bool_]:
    """Return which items have any of the features `names`, with padding as entry 0."""
    found: npt.NDArray[np.bool_] = item_codes(items, manifest, names).described().numpy()
    return found


def _from_source(items: pa.Table, name: str) -> pa.ChunkedArray:
    """Return a feature that the source itself brought, as a file of features would hold it."""
    if name != "period":
        return items[name]
    from ss4rec.data.prepared.item_attributes import release_year  # with torch

    years = (release_year(title) for title in items["title"].to_pylist())
    periods = [None if year is None else year // PERIOD_YEARS * PERIOD_YEARS for year in years]
    return pa.chunked_array([pa.array(periods, pa.int64())])


def _rows(feature: Feature) -> int:
    """Return how many rows of the table a feature takes."""
    if feature.kind == "number":
        return 2
    return feature.size or len(feature.values or ()) + 1


def _pairs(
    column: pa.Array, feature: Feature
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Return place of the item, row of the feature's own table, and weight, `[N]` each."""
    if feature.kind == "categorical":
        codes_I = column.to_numpy().astype(np.int64)
        known_N = np.flatnonzero(codes_I)
        return known_N, codes_I[known_N] - 1, np.ones(len(known_N), np.float32)
    if feature.kind == "number":
        values_I = column.to_numpy()
        known_N = np.flatnonzero(np.isfinite(values_I))
        scaled_N = (values_I[known_N] - (feature.center or 0.0)) / (feature.scale or 1.0)
        weights_N = np.concatenate([np.ones(len(known_N)), np.clip(scaled_N, -WIDEST, WIDEST)])
        return np.tile(known_N, 2), np.repeat([0, 1], len(known_N)), weights_N.astype(np.float32)
    lengths_I = np.diff(column.offsets.to_numpy())
    codes_N = column.flatten().to_numpy().astype(np.int64) - (feature.kind == "multi")
    item_N = np.repeat(np.arange(len(lengths_I)), lengths_I)
    # Of many words each says less.
    return item_N, codes_N, (1 / np.sqrt(lengths_I[item_N])).astype(np.float32)


def _vectors(column: pa.Array, feature: Feature) -> npt.NDArray[np.float32]:
    """Return the vectors `[I, F]`, scaled to a mean length of 1; zero where unknown."""
    known_I = np.diff(column.offsets.to_numpy()) > 0
    vectors_IF = np.zeros((len(known_I), feature.size or 0), np.float32)
    vectors_IF[known_I] = column.flatten().to_numpy().reshape(-1, feature.size or 1)
    lengths_K = np.linalg.norm(vectors_IF[known_I], axis=1)
    return vectors_IF / max(float(lengths_K.mean()) if len(lengths_K) else 0.0, 1e-12)
