"""Columns that people bring about items, as numbers that a model can read; the manifest says what the numbers mean.

A column of `items.parquet` named `feature.NAME` holds, by kind:

categorical   int32 code: 1, 2, ... are `Feature.values`, the next one is every rarer value, 0 is unknown
multi         list<int32> of such codes
number        float32 as given, NaN if unknown; a model reads (value - center) / scale
text          list<int32>, ascending: buckets (from 0) of hashed words, pairs of words, and groups of 3 letters
vector        list<float32>, as brought along; empty if unknown
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from typing import Any, cast, get_args

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ss4rec.data.ids import look_up
from ss4rec.data.prepared.manifest import Feature, Kind
from ss4rec.data.prepared.tables import FEATURE_PREFIX
from ss4rec.data.sources.features import FeatureTable
from ss4rec.errors import DataError

KINDS: tuple[Kind, ...] = get_args(Kind)
MAX_VALUES = 1000
"""Maximum values with a code of their own; all rarer ones share the last code."""
TEXT_BUCKETS = 4096
SEPARATOR = "|"
"""Between the values of a multi-valued text column."""
MAX_WHOLE = 20
"""Whole numbers of at most this many different values are categories."""
CODES, VALUES = pa.list_(pa.int32()), pa.list_(pa.float32())


def guess_kind(column: pa.ChunkedArray) -> Kind:
    """Return the kind that a column looks like: by its type, and a text by its separators, words and repetitions."""
    type_ = column.type
    if pa.types.is_list(type_) or pa.types.is_large_list(type_) or pa.types.is_fixed_size_list(type_):
        return "vector" if pa.types.is_floating(type_.value_type) else "multi"
    if pa.types.is_floating(type_) or pa.types.is_decimal(type_):
        return "number"
    if pa.types.is_integer(type_):
        return "categorical" if pc.count_distinct(column).as_py() <= MAX_WHOLE else "number"
    texts = [str(text) for text in column.drop_null().to_pylist()]
    if sum(SEPARATOR in text for text in texts) > len(texts) / 20:
        return "multi"
    words = sum(len(text.split()) for text in texts) / max(len(texts), 1)
    return "text" if words >= 2 and len(set(texts)) > len(texts) / 2 else "categorical"


def check_kinds(
    kinds: Mapping[str, str], known: FeatureTable | None, context: Collection[str] = ()
) -> dict[str, str]:
    """Return the kinds of columns about items.

    Args:
        kinds: kind of a column about items or events, by name.
        known: what is said about items.
        context: columns about events.

    Raises:
        DataError: for a kind or a column that does not exist.
    """
    names = known.columns.column_names if known else []
    where = known.where if known else "what is said about items"
    for name, kind in kinds.items():
        if kind not in KINDS or not (name in names or name in context):
            columns = ", ".join([*names, *sorted(context)]) or "none"
            raise DataError(
                f"--feature-kinds {name}={kind}: {where} has the columns {columns}; kinds are {', '.join(KINDS)}"
            )
    return {name: kind for name, kind in kinds.items() if name not in context}


def encode_features(
    ids: pa.Array, known: FeatureTable, kinds: Mapping[str, str] | None = None
) -> tuple[pa.Table, tuple[Feature, ...]]:
    """Return the columns of all items, and what they mean.

    Args:
        ids: source id of item 1, 2, ...
        known: what the file says; items that it lacks are unknown, others in it are left out.
        kinds: kind of a column, where the guess is not what is meant.

    Raises:
        DataError: for a kind or a column that does not exist, values not of the kind, or a file of other items.
    """
    kinds = check_kinds(kinds or {}, known)
    places = look_up(ids, known.source_id)
    if places.null_count == len(places):
        raise DataError(
            f"{known.where} describes none of the {len(ids):,} items; is its first column their id?"
        )
    columns: dict[str, pa.Array] = {}
    features = []
    for name in known.columns.column_names:
        column = known.columns[name].take(places)
        kind = cast(Kind, kinds[name]) if name in kinds else guess_kind(column)
        try:
            columns[FEATURE_PREFIX + name], feature = encode_column(name, column, kind)
        except (pa.ArrowException, ValueError) as error:
            raise DataError(
                f"{known.where}: column {name} is not of kind {kind} ({str(error).splitlines()[0]}); "
                f"name another with --feature-kinds {name}=.."
            ) from None
        features.append(feature)
    return pa.table(columns), tuple(features)


def encode_column(name: str, column: pa.ChunkedArray, kind: Kind) -> tuple[pa.Array, Feature]:
    """Return one column of features, and what it means."""
    return _ENCODERS[kind](name, column)


def _categorical(name: str, column: pa.ChunkedArray) -> tuple[pa.Array, Feature]:
    texts = [None if value is None else str(value) for value in column.to_pylist()]
    values = _common(text for text in texts if text is not None)
    codes = _codes(values)
    found = [0 if text is None else codes.get(text, len(values) + 1) for text in texts]
    return pa.array(found, pa.int32()), Feature(name=name, kind="categorical", values=values)


def _multi(name: str, column: pa.ChunkedArray) -> tuple[pa.Array, Feature]:
    rows = [
        sorted({part.strip() for part in value.split(SEPARATOR)} - {""})
        if isinstance(value, str)
        else sorted({str(part) for part in ([value] if np.isscalar(value) else value or [])})
        for value in column.to_pylist()
    ]
    values = _common(part for row in rows for part in row)
    codes = _codes(values)
    found = [sorted({codes.get(part, len(values) + 1) for part in row}) for row in rows]
    return pa.array(found, CODES), Feature(name=name, kind="multi", values=values)


def _number(name: str, column: pa.ChunkedArray) -> tuple[pa.Array, Feature]:
    values_V = column.cast(pa.float64()).to_numpy().astype(np.float32)
    finite = values_V[np.isfinite(values_V)].astype(np.float64)
    values_V[~np.isfinite(values_V)] = np.nan
    low, center, high = np.percentile(finite, (25, 50, 75)) if len(finite) else (0.0, 0.0, 0.0)
    scale = float(high - low) / 2 or 1.0
    return pa.array(values_V), Feature(name=name, kind="number", center=float(center), scale=scale)


def _text(name: str, column: pa.ChunkedArray) -> tuple[pa.Array, Feature]:
    from sklearn.feature_extraction.text import HashingVectorizer  # takes a second to import

    texts = [value or "" for value in column.cast(pa.string()).to_pylist()]
    buckets_V: list[npt.NDArray[Any]] = [np.zeros(0, np.int32)] * len(texts)
    for analyzer, grams in (("word", (1, 2)), ("char_wb", (3, 3))):
        hashing = HashingVectorizer(
            n_features=TEXT_BUCKETS, analyzer=analyzer, ngram_range=grams, norm=None, binary=True
        )
        found = hashing.transform(texts)
        buckets_V = [
            np.union1d(before, found.indices[found.indptr[row] : found.indptr[row + 1]])
            for row, before in enumerate(buckets_V)
        ]
    return pa.array(buckets_V, CODES), Feature(name=name, kind="text", size=TEXT_BUCKETS)


def _vector(name: str, column: pa.ChunkedArray) -> tuple[pa.Array, Feature]:
    rows = [row or [] for row in column.to_pylist()]
    sizes = {len(row) for row in rows} - {0}
    if len(sizes) != 1:
        raise ValueError(f"vectors have {sorted(sizes)} dimensions, not one number of them")
    if not np.isfinite([value for row in rows for value in row]).all():
        raise ValueError("a value is not finite")
    return pa.array(rows, VALUES), Feature(name=name, kind="vector", size=sizes.pop())


def _common(texts: Iterable[str]) -> tuple[str, ...]:
    """Return the most common texts (of equal ones the first by name), in alphabetical order."""
    counts = Counter(texts)
    return tuple(sorted(sorted(counts, key=lambda text: (-counts[text], text))[:MAX_VALUES]))


def _codes(values: tuple[str, ...]) -> dict[str, int]:
    return {value: code for code, value in enumerate(values, start=1)}


_ENCODERS = {
    "categorical": _categorical,
    "multi": _multi,
    "number": _number,
    "text": _text,
    "vector": _vector,
}
