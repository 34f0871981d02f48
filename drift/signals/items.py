"""What is known about items at each moment: release year, genres, first rating, ratings by window.

Counts and first times come from the table of months that `ss4rec data split` writes, so that no history is read for
them. Everything a window asks for is about earlier windows only (`popularity_spans`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from drift.calendar import Window, window_of
from drift.signals.context import ContextColumn
from drift.signals.definitions import TOP_ITEMS, Signal, signals
from drift.signals.item_features import ItemFeature, read_item_features
from drift.stats.distances import Array
from ss4rec.data.batches.windows import ragged
from ss4rec.data.prepared.item_months import month_start_s
from ss4rec.data.prepared.manifest import Feature

VANISHED = 1 / 3
"""An item that keeps less than this of its share has all but vanished."""
NEVER_S = np.iinfo(np.int64).max


@dataclass(frozen=True)
class ItemCounts:
    """Events of each item by window, and its first event of all."""

    counts_WV: NDArray[np.int64]
    """Events in each calendar window; V = items + 1."""
    first_V: NDArray[np.int64]
    """Unix seconds of the first event, `NEVER_S` without one."""

    def __add__(self, other: ItemCounts) -> ItemCounts:
        """Add the counts of other shards."""
        return ItemCounts(self.counts_WV + other.counts_WV, np.minimum(self.first_V, other.first_V))

    @classmethod
    def of_shard(cls, shard: pa.Table, windows: list[Window], num_items: int) -> ItemCounts:
        """Count a shard's events; `windows` must leave no gaps. Events outside of all windows give first times only."""
        items_E, _ = ragged(shard["items"])
        times_E, _ = ragged(shard["timestamps"])
        width = num_items + 1
        window_E = window_of(times_E, windows).astype(np.int64)
        inside_E = window_E >= 0
        cells_E = window_E[inside_E] * width + items_E[inside_E]
        counts = np.bincount(cells_E, minlength=len(windows) * width)
        first_V = np.full(width, NEVER_S)
        np.minimum.at(first_V, items_E, times_E)
        return cls(counts.reshape(len(windows), width), first_V)

    @classmethod
    def of_months(cls, table: pa.Table, windows: list[Window]) -> ItemCounts:
        """Add up the months of `ss4rec.data.prepared.item_months`; `windows` are whole months and leave no gaps."""
        (months_X, offsets_V1), (events_X, _) = ragged(table["months"]), ragged(table["events"])
        width = table.num_rows + 1
        item_X = np.repeat(np.arange(1, width), np.diff(offsets_V1))
        counts_WV = np.zeros((len(windows), width), np.int64)
        window_X = window_of(month_start_s(months_X), windows)
        inside_X = window_X >= 0
        np.add.at(counts_WV, (window_X[inside_X], item_X[inside_X]), events_X[inside_X])
        return cls(counts_WV, np.concatenate([[NEVER_S], table["first_s"].to_numpy()]))


@dataclass(frozen=True)
class ItemFacts:
    """Items as the histograms need them."""

    years_V: NDArray[np.int64]
    """Release year from the title's brackets, 0 if unknown."""
    genres_VG: NDArray[np.uint8]
    """1 where the item has the genre; the last column is `other` (a genre unknown at the cut, or none)."""
    labels: tuple[str, ...]
    """Names of the genre columns but the last."""
    vocabulary: int
    """Items up to this index are in the model's vocabulary."""
    bare_V: NDArray[np.bool_]
    """Whether no genre is listed for the item."""
    titles: tuple[str, ...] = ()
    """Title of item 1, 2, ...; where it has none its source id."""
    features: tuple[ItemFeature, ...] = ()
    """Columns that people brought about items."""
    context: tuple[ContextColumn, ...] = ()
    """Columns that people brought about events."""

    @property
    def layout(self) -> tuple[Signal, ...]:
        """All signals."""
        features = tuple(column.signal for column in self.features)
        return signals(self.labels, features + tuple(column.signal for column in self.context))

    def title(self, item: int) -> str:
        """Return an item's title."""
        return self.titles[item - 1] if self.titles else f"item {item}"


def read_item_facts(
    items: pa.Table,
    vocabulary: int,
    seen: int,
    labels: tuple[str, ...] | None = None,
    features: Sequence[Feature] = (),
) -> ItemFacts:
    """Build from `items.parquet` of a timeline; genres of items first seen after the cut make no labels.

    `labels` are those of an earlier report, which keep their bins whatever is listed now; `features` is what the
    manifest says of columns that people brought.
    """
    years = pc.struct_field(pc.extract_regex(items["title"], r"\((?P<year>\d{4})\)\s*$"), "year")
    years_V = np.concatenate([[0], pc.fill_null(years.cast(pa.int64()), 0).to_numpy()])
    listed = [entry or [] for entry in items["genres"].to_pylist()]
    ignored = {"(no genres listed)"}
    if labels is None:
        labels = tuple(sorted({genre for entry in listed[:seen] for genre in entry} - ignored))
    column = {label: number for number, label in enumerate(labels)}
    genres_VG = np.zeros((len(listed) + 1, len(labels) + 1), np.uint8)
    bare_V = np.array([False, *(not set(entry) - ignored for entry in listed)])
    for item, entry in enumerate(listed, start=1):
        for genre in entry or ["(no genres listed)"]:
            genres_VG[item, column.get(genre, len(labels))] = 1
    sources = (
        items["source_id"].to_pylist() if "source_id" in items.column_names else items["item"].to_pylist()
    )
    titles = tuple(
        title or f"item {source}" for title, source in zip(items["title"].to_pylist(), sources, strict=True)
    )
    columns = read_item_features(items, features, seen)
    return ItemFacts(years_V, genres_VG, labels, vocabulary, bare_V, titles, columns)


def unseen_shares(counts: ItemCounts, windows: list[Window], past: list[int]) -> dict[int, list[float]]:
    """Return what a frozen catalogue would have missed in the past, by lag in windows.

    For each pair of past windows: the share of the later one's events on items without an event up to the end of the
    earlier one. It says how fast the catalogue grows without any news.
    """
    shares: dict[int, list[float]] = {}
    for late in past:
        total = counts.counts_WV[late].sum()
        for early in past:
            if early >= late or not total:
                continue
            unseen_V = counts.first_V >= windows[early].end_s
            share = float(counts.counts_WV[late, unseen_V].sum() / total)
            shares.setdefault(late - early, []).append(share)
    return shares


def counts_before(counts_WV: NDArray[np.int64], window: int, lookback: int) -> NDArray[np.int64]:
    """Return the events of each item in the `lookback` windows before a window: what is known when it begins."""
    return np.asarray(counts_WV[max(0, window - lookback) : window].sum(axis=0))


def popularity_spans(counts_WV: NDArray[np.int64], window: int, lookback: int) -> tuple[Array, Array]:
    """Return where each item lies among the events of the `lookback` windows before a window: start and width.

    With those events sorted by how often their item occurs, an item covers a span of [0, 1) as wide as the share of
    all items that occur as often. Events are spread over the span (`HistogramMaker`): a single percentile an item would
    let popular items jump over a bin's edge for all users at once, which a test over users takes for drift.
    Width 0: no event in those windows.
    """
    counts_V = counts_before(counts_WV, window, lookback)
    values, size = np.unique(counts_V, return_counts=True)
    ends = np.cumsum(values * size) / max(counts_V.sum(), 1)
    widths = values * size / max(counts_V.sum(), 1)
    at_V = np.searchsorted(values, counts_V)
    return (ends - widths)[at_V].astype(np.float32), widths[at_V].astype(np.float32)


def top_items(counts_V: NDArray[np.int64], count: int = TOP_ITEMS) -> NDArray[np.bool_]:
    """Return whether each item is among the `count` rated most; items without a rating never are.

    Ties go to the lower index, so that the answer is the same everywhere.
    """
    order = np.argsort(-counts_V, kind="stable")[:count]
    chosen_V = np.zeros(len(counts_V), bool)
    chosen_V[order[counts_V[order] > 0]] = True
    return chosen_V


def turnover(counts_WV: NDArray[np.int64], window: int, lookback: int) -> float | None:
    """Return 1 - Jaccard of the most rated items of a window and of the `lookback` windows before it.

    None where either side has no rating.
    """
    sides = (counts_WV[window], counts_before(counts_WV, window, lookback))
    now_V, before_V = (top_items(side) for side in sides)
    if not now_V.any() or not before_V.any():
        return None
    return 1 - float((now_V & before_V).sum() / (now_V | before_V).sum())


def top_lost(counts_WV: NDArray[np.int64], before: Sequence[int], after: int) -> float:
    """Return how much of the events on the most rated items was on items that then all but vanished.

    The share of `before`'s events on its top items that went to items whose own share fell below a third. Taste moves
    items; ids that are mixed up give popular items the events of others.
    """
    was_V, now_V = counts_WV[list(before)].sum(axis=0), counts_WV[after]
    if not was_V.sum() or not now_V.sum():
        return 0.0
    top_V = top_items(was_V)
    was_V, now_V = was_V / was_V.sum(), now_V / now_V.sum()
    gone_V = top_V & (now_V < VANISHED * was_V)
    return float(was_V[gone_V].sum() / was_V[top_V].sum())
