"""Metrics by segment: for whom, for what and when a model is good, with the number of users beside each figure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ss4rec.evaluation.bootstrap import bootstrap_mean
from ss4rec.evaluation.evaluator import PerUser
from ss4rec.evaluation.metrics import ALL_METRICS
from ss4rec.evaluation.saved import USER_PREFIX

METRIC = "NDCG@10"
"""What segments are measured by where nothing else is asked for."""
MIN_USERS = 50
"""A segment of fewer users is too small: its figures are shown, but nothing is concluded from them."""
MAX_VALUES = 24
"""Most values of a column, the most common ones; the others are put together."""
IntArray = npt.NDArray[np.int64]
_HISTORY = (
    (10, "1 to 9"),
    (20, "10 to 19"),
    (50, "20 to 49"),
    (100, "50 to 99"),
    (200, "100 to 199"),
    (None, "200 or more"),
)
_PAUSE = (
    (30 * 60, "within 30 minutes"),
    (86_400, "within a day"),
    (30 * 86_400, "within 30 days"),
    (None, "later"),
)
_WARM_EVENTS = 5
OTHER_COLUMNS = ("item", "source_id", "title", "count")
"""Columns of `items.parquet` that put items into no groups."""


@dataclass(frozen=True)
class Segmentation:
    """One way to divide the ranked events; an event may be in several segments (a film with two genres)."""

    name: str
    """As `history length`."""
    labels: tuple[str, ...]
    """Names of the segments, in the order to show them."""
    rows_M: IntArray
    """Which ranked event each membership is about."""
    codes_M: IntArray
    """Which segment it is in."""

    @classmethod
    def of(
        cls, name: str, values_N: Sequence[str | None], labels: Sequence[str] | None = None
    ) -> Segmentation:
        """Divide by a value per event; without `labels` the most common values, by name. None is in no segment."""
        return cls.of_lists(name, [[] if value is None else [value] for value in values_N], labels)

    @classmethod
    def of_lists(
        cls, name: str, values_N: Sequence[Sequence[str]], labels: Sequence[str] | None = None
    ) -> Segmentation:
        """Divide by any number of values per event."""
        rows_M = np.repeat(np.arange(len(values_N)), [len(values) for values in values_N])
        flat = np.array([value for values in values_N for value in values], dtype=object)
        if labels is None:
            found, counts = np.unique(flat.astype(str), return_counts=True)
            common = sorted(found[np.argsort(-counts, kind="stable")][:MAX_VALUES].tolist())
            labels = [*common, "other"] if len(found) > MAX_VALUES else common
        index = {label: code for code, label in enumerate(labels)}
        codes_M = np.array([index.get(str(value), len(labels) - 1) for value in flat], dtype=np.int64)
        return cls(name, tuple(labels), rows_M, codes_M)

    def rows(self, code: int) -> IntArray:
        """Return the ranked events of one segment."""
        return np.asarray(self.rows_M[self.codes_M == code])


@dataclass(frozen=True)
class SegmentRow:
    """A metric in one segment."""

    segmentation: str
    label: str
    users: int
    """Users with an event in the segment."""
    value: float
    """Mean over users of each user's mean over events."""
    low: float
    """95 % bootstrap interval over users."""
    high: float

    @property
    def too_small(self) -> bool:
        """Whether the segment has too few users to conclude anything."""
        return self.users < MIN_USERS


def segmentations(targets: pa.Table, items: pa.Table) -> list[Segmentation]:
    """Return every way to divide the ranked events.

    Args:
        targets: `targets.parquet` of an evaluation.
        items: `items.parquet` of its run.
    """
    column = {
        name: targets[name].to_numpy()
        for name in ("history", "target", "target_time", "last_time", "target_events")
    }
    target_N, events_N = column["target"], column["target_events"]
    found = [
        _binned("history length", column["history"], _HISTORY, "right"),
        _popularity(target_N, items),
        _binned("time since the last event", column["target_time"] - column["last_time"], _PAUSE, "left"),
        _two("repeat or new item", targets["repeat"].to_numpy(), ("new item", "repeat")),
        _warmth(target_N, events_N),
        _month(column["target_time"]),
    ]
    found += [_item_column(name, target_N, items) for name in items.column_names if name not in OTHER_COLUMNS]
    for name in targets.column_names:
        if name.startswith(USER_PREFIX):
            found.append(Segmentation.of(name.replace(".", " "), targets[name].to_pylist()))
    return [segmentation for segmentation in found if len(set(segmentation.codes_M.tolist())) > 1]


def segment_rows(
    segmentation: Segmentation, users_N: IntArray, gains_N: npt.NDArray[np.float64], seed: int = 0
) -> list[SegmentRow]:
    """Return the mean and interval of a gain per ranked event in each segment that has any.

    Args:
        segmentation: how to divide.
        users_N: user of each ranked event.
        gains_N: gain of each (`Metric.gains`).
        seed: seed of the bootstrap.
    """
    found = []
    for code, label in enumerate(segmentation.labels):
        rows = segmentation.rows(code)
        if len(rows):
            gains_U = PerUser(users_N[rows]).mean(gains_N[rows])
            low, high = bootstrap_mean(gains_U, seed)
            found.append(SegmentRow(segmentation.name, label, len(gains_U), float(gains_U.mean()), low, high))
    return found


def segments_by(
    metric: str, ranks_N: npt.NDArray[np.float64], targets: pa.Table, items: pa.Table
) -> list[list[SegmentRow]]:
    """Return a metric in every segment, one list for each way to divide the ranked events.

    Args:
        metric: as `NDCG@10`.
        ranks_N: rank of each event.
        targets: `targets.parquet` of an evaluation.
        items: `items.parquet` of its run.

    Raises:
        ValueError: if there is no such metric.
    """
    gains_N, users_N = metric_gains(metric, ranks_N), targets["user"].to_numpy()
    return [segment_rows(found, users_N, gains_N) for found in segmentations(targets, items)]


def metric_gains(name: str, ranks_N: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the gain of each ranked event by a metric's name, as `NDCG@10`.

    Raises:
        ValueError: if there is no such metric.
    """
    metric_name, _, k = name.partition("@")
    metric = next((metric for metric in ALL_METRICS if metric.name == metric_name), None)
    if metric is None or not k.isdecimal() or int(k) < 1:
        known = ", ".join(f"{metric.name}@10" for metric in ALL_METRICS)
        raise ValueError(f"no metric {name!r}; choose one such as {known}")
    return metric.gains(ranks_N, int(k))


def _binned(
    name: str,
    values_N: npt.NDArray[np.int64],
    bins: Sequence[tuple[int | None, str]],
    side: Literal["left", "right"],
) -> Segmentation:
    """Divide by upper ends; an end itself belongs to its own bin with `left`, to the next one with `right`."""
    ends = [end for end, _ in bins if end is not None]
    codes_N = np.searchsorted(ends, values_N, side=side)
    return Segmentation(name, tuple(label for _, label in bins), np.arange(len(values_N)), codes_N)


def _two(name: str, is_second_N: npt.NDArray[np.bool_], labels: tuple[str, str]) -> Segmentation:
    return Segmentation(name, labels, np.arange(len(is_second_N)), is_second_N.astype(np.int64))


def _popularity(target_N: IntArray, items: pa.Table) -> Segmentation:
    """Divide by the place of the target among all items by events."""
    counts_I = items["count"].to_numpy()
    place_V = np.zeros(len(counts_I) + 1)
    place_V[1 + np.argsort(-counts_I, kind="stable")] = (np.arange(len(counts_I)) + 0.5) / len(counts_I)
    codes_N = np.searchsorted([0.01, 0.1, 0.5], place_V[target_N])
    labels = ("top 1 % of items", "next 9 %", "next 40 %", "bottom half")
    known_M = np.flatnonzero(target_N > 0)
    return Segmentation("popularity of the item", labels, known_M, codes_N[known_M])


def _warmth(target_N: IntArray, events_N: IntArray) -> Segmentation:
    """Divide by how much was seen of the target in training."""
    codes_N = np.where((target_N == 0) | (events_N == 0), 0, np.where(events_N < _WARM_EVENTS, 1, 2))
    labels = ("cold: never trained", f"1 to {_WARM_EVENTS - 1} training events", "warm")
    return Segmentation("cold or warm item", labels, np.arange(len(codes_N)), codes_N)


def _month(times_N: IntArray) -> Segmentation:
    """Divide by the month of the event; where there are many, by year."""
    months_N = times_N.astype("datetime64[s]").astype("datetime64[M]")
    if len(np.unique(months_N)) > MAX_VALUES:
        return Segmentation.of("year", months_N.astype("datetime64[Y]").astype(str).tolist())
    return Segmentation.of("month", months_N.astype(str).tolist())


def _item_column(name: str, target_N: IntArray, items: pa.Table) -> Segmentation:
    """Divide by a column of items; a list puts an item into several segments."""
    values = [None, *items[name].to_pylist()]
    lists = [v if isinstance(v, list) else [] if v is None else [str(v)] for v in values]
    return Segmentation.of_lists(f"item {name}", [lists[target] for target in target_N.tolist()])
