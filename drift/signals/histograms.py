"""Pass 1: from shards of whole histories to one row of fixed-bin histograms per user and window.

Rows of different shards, windows or months add up (`UserHistograms.merge`); nothing later touches single events.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from drift.calendar import DAY_S, HOUR_S, MONDAY_S, Window, window_of
from drift.signals.definitions import (
    AGE_EDGES_Y,
    EPOCH_YEAR,
    FIRST_SEEN_EDGES_D,
    LOG_GAP_EDGES_S,
    POPULARITY_BINS,
    POWERS,
    REPEAT_S,
    SESSION_BREAK_S,
    SURPRISE_EDGES,
    TENURE_EDGES_D,
    YEAR_S,
    Signal,
    decade_bin,
)
from drift.signals.items import ItemCounts, ItemFacts, popularity_spans, top_items
from drift.signals.past import PastTables
from drift.stats.distances import slices
from drift.stats.resampling import Blocks
from ss4rec.data.batches.windows import ragged
from ss4rec.data.sources.rows import CONTEXT


@dataclass(frozen=True)
class UserHistograms:
    """Histograms of users in windows, rows in ascending order of (window, user)."""

    window_R: NDArray[np.integer[Any]]
    """Index into the calendar."""
    user_R: NDArray[np.integer[Any]]
    events_R: NDArray[np.integer[Any]]
    """Events of the user in the window."""
    counts_RK: NDArray[np.uint32]
    """Counts by bin, all signals side by side."""
    content_R: NDArray[np.int64] | None = None
    """A hash of what the user did in the window (items and ratings, in any order): equal rows are copies."""

    @classmethod
    def merge(cls, parts: list[UserHistograms]) -> UserHistograms:
        """Add up parts; rows of the same user and window become one."""
        window, user, events = (
            np.concatenate([getattr(part, name) for part in parts])
            for name in ("window_R", "user_R", "events_R")
        )
        order = np.lexsort((user, window))
        content = np.concatenate([part.contents() for part in parts])[order]
        counts_RK = _gathered([part.counts_RK for part in parts], order)
        window, user, events = window[order], user[order], events[order]
        first = (
            np.flatnonzero(np.r_[True, (np.diff(window) != 0) | (np.diff(user) != 0)]) if len(user) else order
        )
        if len(first) == len(user):
            return cls(window, user, events, counts_RK, content)
        added = (np.add.reduceat(values, first, axis=0) for values in (events, counts_RK, content))
        return cls(window[first], user[first], *added)

    def contents(self) -> NDArray[np.int64]:
        """Return `content_R`; zeros where it was not counted."""
        return np.zeros(len(self.user_R), np.int64) if self.content_R is None else self.content_R

    def blocks(
        self, windows: list[int], layout: tuple[Signal, ...], users: NDArray[np.int64] | None = None
    ) -> Blocks:
        """Return what each user did in `windows`, each of the user's windows normalised to weight 1 a signal.

        Args:
            windows: indices into the calendar.
            layout: the signals.
            users: keep only these.
        """
        keep_R = np.isin(self.window_R, windows)
        if users is not None:
            keep_R &= np.isin(self.user_R, users)
        user_R, counts_RK = self.user_R[keep_R], self.counts_RK[keep_R].astype(np.float32)
        totals_RS = np.stack([counts_RK[:, part].sum(axis=1) for part in slices(layout)], axis=1)
        counts_RK /= np.repeat(np.maximum(totals_RS, 1), [signal.size for signal in layout], axis=1)
        present_RS = (totals_RS > 0).astype(np.float32)
        users_N, at_R = np.unique(user_R, return_inverse=True)
        if len(users_N) == len(user_R):
            order = np.argsort(at_R)
            return Blocks(users_N, counts_RK[order], present_RS[order])
        order = np.argsort(at_R, kind="stable")
        first = np.searchsorted(at_R[order], np.arange(len(users_N)))
        return Blocks(
            users_N, *(np.add.reduceat(values[order], first, axis=0) for values in (counts_RK, present_RS))
        )

    def table(self) -> pa.Table:
        """Return the rows as Arrow columns."""
        bins = pa.FixedSizeListArray.from_arrays(pa.array(self.counts_RK.ravel()), self.counts_RK.shape[1])
        columns = {"window": self.window_R, "user": self.user_R, "events": self.events_R, "counts": bins}
        return pa.table(columns | {"content": self.contents()})

    def save(self, path: Path) -> None:
        """Write one Parquet file."""
        pq.write_table(self.table(), path, compression="zstd")

    @classmethod
    def load(cls, path: Path) -> UserHistograms:
        """Read what `save` wrote."""
        return cls.of_table(pq.read_table(path))

    @classmethod
    def of_table(cls, table: pa.Table) -> UserHistograms:
        """Read what `table` returned."""
        column = table["counts"]
        # `combine_chunks` copies even a single chunk.
        bins = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
        width = bins.type.list_size
        counts_RK = bins.flatten().to_numpy().reshape(-1, width)
        window_R, user_R, events_R, content_R = (
            table[name].to_numpy() for name in ("window", "user", "events", "content")
        )
        return cls(window_R, user_R, events_R, counts_RK, content_R)


class HistogramMaker:
    """Turns shards into histograms; small enough to be sent to every worker."""

    def __init__(
        self,
        windows: list[Window],
        wanted: list[int],
        item_facts: ItemFacts,
        counts: ItemCounts,
        year_before: Sequence[int] = (),
        past: PastTables | None = None,
        lookback: int = 4,
        known_s: int | None = None,
    ) -> None:
        """Make the tables that every shard needs.

        Args:
            windows: the calendar.
            wanted: indices of the windows to count.
            item_facts: what is known of items.
            counts: events by item and window.
            year_before: the time before the reference; its most rated items are the lasting top.
            past: what is expected from the time before the reference.
            lookback: windows before one that say what was popular then.
            known_s: how long the data went on before the reference: ages of items and users are told up to it.
        """
        self.known_s = np.iinfo(np.int64).max if known_s is None else max(known_s, 0)
        self.windows = windows
        self.wanted_W = np.zeros(len(windows), bool)
        self.wanted_W[list(wanted)] = True
        self.item_facts = item_facts
        self.layout = item_facts.layout
        self.first_V = counts.first_V
        self.top_V = top_items(counts.counts_WV[list(year_before)].sum(axis=0))
        self.past = past or PastTables.empty(len(self.first_V) - 1)
        spans = [np.stack(popularity_spans(counts.counts_WV, window, lookback), axis=1) for window in wanted]
        self.spans_XV2 = np.stack(spans) if spans else np.zeros((0, len(self.first_V), 2), np.float32)
        self.span_of_W = np.zeros(len(windows), np.int64)
        self.span_of_W[list(wanted)] = np.arange(len(wanted))

    def __call__(self, shard: pa.Table) -> UserHistograms:
        """Return the histograms of a shard's users; `shard` has whole histories in order of time."""
        events = _Events.read(shard, self.windows, self.wanted_W)
        bins = self._event_bins(events)
        counts_RK = np.zeros((events.num_rows, sum(signal.size for signal in self.layout)), np.uint32)
        facts = self.item_facts
        several = {"genre": facts.genres_VG} | {
            f.signal.name: f.bins_VB for f in facts.features if not f.single
        }
        for signal, part in zip(self.layout, slices(self.layout), strict=True):
            if signal.name in several:
                for column in range(signal.size):
                    has_E = several[signal.name][events.items_E, column]
                    counts_RK[:, part.start + column] = np.bincount(events.row_E, has_E, events.num_rows)
                continue
            rows_X, bins_X = bins[signal.name]
            cells = np.bincount(rows_X * signal.size + bins_X, minlength=events.num_rows * signal.size)
            counts_RK[:, part] = cells.reshape(-1, signal.size)
        first_R = events.first_R
        events_R = np.diff(np.r_[first_R, len(events.row_E)])
        content_R = np.add.reduceat(events.content(), first_R) if len(first_R) else np.zeros(0, np.int64)
        made = UserHistograms(
            events.window_E[first_R], events.user_E[first_R], events_R, counts_RK, content_R
        )
        return UserHistograms.merge([made])

    def _event_bins(self, events: _Events) -> dict[str, tuple[NDArray[Any], NDArray[Any]]]:
        """Return rows and bins of what counts for each signal but `genre`."""
        every, gap_E = events.row_E, events.gap_E
        half_E = np.rint(events.ratings_E * 2).astype(np.int64)
        mean_R = np.bincount(every, events.ratings_E) / np.bincount(every)
        centred_E = np.clip(np.rint((events.ratings_E - mean_R[every]) * 2), -9, 9).astype(np.int64) + 9
        has_gap_E, late_E = gap_E >= 0, gap_E > 0
        session_rows, session_sizes = events.sessions()
        rows_R = np.arange(events.num_rows)
        activity_R = np.diff(np.r_[events.first_R, len(every)])
        years_E = self.item_facts.years_V[events.items_E]
        age_E = EPOCH_YEAR + events.times_E / YEAR_S - years_E
        # Nothing can be older than the data. Beyond the age that they had at the reference nothing is told apart:
        # else a catalogue or an audience that stays the same would seem to change as the data grow longer.
        first_seen_E = np.minimum(events.times_E - self.first_V[events.items_E], self.known_s) / DAY_S
        tenure_E = np.minimum(events.times_E - events.joined_E, self.known_s) / DAY_S
        history_R = events.history_E[events.first_R]
        return {
            "rating": (every, np.clip(half_E, 1, 10) - 1),
            "rating_centred": (every, centred_E),
            "half_stars": (every, half_E % 2),
            "log_gap": (every[late_E], _bin(gap_E[late_E], LOG_GAP_EDGES_S)),
            "zero_gap": (every[has_gap_E], (gap_E[has_gap_E] == 0).astype(np.int64)),
            "session_events": (session_rows, _bin(session_sizes, POWERS[1:])),
            "activity": (rows_R, _bin(activity_R, POWERS[1:])),
            "history": (rows_R, np.where(history_R == 0, 0, 1 + _bin(history_R, POWERS[1:]))),
            "tenure": (every, _bin(tenure_E, TENURE_EDGES_D)),
            "item_age": (every, np.where(years_E == 0, 0, 1 + _bin(age_E, AGE_EDGES_Y))),
            "first_seen": (every, _bin(first_seen_E, FIRST_SEEN_EDGES_D)),
            "popularity": (every, self._popularity(events)),
            "decade": (every, decade_bin(years_E)),
            "lasting_top": (every, self.top_V[events.items_E].astype(np.int64)),
            "unseen_item": (every, (events.items_E > self.item_facts.vocabulary).astype(np.int64)),
            **self._time_bins(events),
            **{
                column.signal.name: (every, column.bins(events.context[column.signal.name]))
                for column in self.item_facts.context
            },
            **{
                feature.signal.name: (every, feature.bins_VB.argmax(axis=1)[events.items_E])
                for feature in self.item_facts.features
                if feature.single
            },
            **self._expected_bins(events, mean_R),
        }

    def _time_bins(self, events: _Events) -> dict[str, tuple[NDArray[Any], NDArray[Any]]]:
        """Return rows and bins of the clock's signals."""
        every, times_E = events.row_E, events.times_E
        return {
            "hour": (every, times_E // HOUR_S % 24),
            "weekday": (every, (times_E - MONDAY_S) // DAY_S % 7),
            "full_minute": (every, (times_E % 60 == 0).astype(np.int64)),
        }

    def _expected_bins(
        self, events: _Events, mean_R: NDArray[Any]
    ) -> dict[str, tuple[NDArray[Any], NDArray[Any]]]:
        """Return rows and bins of what the past or the user's own events say of an event."""
        every, items_E = events.row_E, events.items_E
        has_before_E = events.before_E > 0
        expected_E = (self.past.followers_VF[events.before_E] == items_E[:, None]).any(axis=1)
        # Less what the user gives in general: a user who gives half a star more to everything is no surprise.
        apart_E = events.ratings_E - self.past.mean_V[items_E]
        rated_E = ~np.isnan(apart_E)
        sum_R = np.bincount(every[rated_E], apart_E[rated_E], len(mean_R))
        own_R = sum_R / np.maximum(np.bincount(every[rated_E], minlength=len(mean_R)), 1)
        surprise_E = np.abs(apart_E - own_R[every])[rated_E]
        return {
            "duplicate": (every, events.repeated_E.astype(np.int64)),
            "expected_next": (every[has_before_E], expected_E[has_before_E].astype(np.int64)),
            "surprise": (every[rated_E], _bin(surprise_E, SURPRISE_EDGES)),
            "no_genre": (every, self.item_facts.bare_V[items_E].astype(np.int64)),
        }

    def _popularity(self, events: _Events) -> NDArray[np.int64]:
        """Return the bin of each event: a place in its item's span that user, item and time decide alone."""
        mixed_E = (events.user_E * 40_503 + events.items_E * 69_069 + events.times_E) * 2_654_435_761
        place_E = ((mixed_E >> 16) & 0xFFFF).astype(np.float32) / 65_536
        span_E2 = self.spans_XV2[self.span_of_W[events.window_E], events.items_E]
        bin_E = ((span_E2[:, 0] + place_E * span_E2[:, 1]) * POPULARITY_BINS).astype(np.int64)
        return np.where(span_E2[:, 1] == 0, 0, 1 + np.minimum(bin_E, POPULARITY_BINS - 1))


@dataclass(frozen=True)
class _Events:
    """The events of a shard that lie in a window; a row is a user in a window, events of a row are contiguous."""

    items_E: NDArray[np.integer[Any]]
    times_E: NDArray[np.int64]
    ratings_E: NDArray[np.floating[Any]]
    window_E: NDArray[np.integer[Any]]
    user_E: NDArray[np.integer[Any]]
    row_E: NDArray[np.int64]
    first_R: NDArray[np.int64]
    gap_E: NDArray[np.int64]
    """Seconds since the user's event before, -1 for the user's first event."""
    joined_E: NDArray[np.int64]
    """Time of the user's first event of all."""
    history_E: NDArray[np.int64]
    """Events of the user before this one."""
    before_E: NDArray[np.integer[Any]]
    """The user's item before this one, 0 for the first."""
    repeated_E: NDArray[np.bool_]
    """Whether the user had the same item within `REPEAT_S` seconds before."""
    context: dict[str, NDArray[Any]]
    """Columns about the event, by name."""

    @property
    def num_rows(self) -> int:
        """Number of (user, window) rows."""
        return len(self.first_R)

    @classmethod
    def read(cls, shard: pa.Table, windows: list[Window], wanted_W: NDArray[np.bool_]) -> _Events:
        """Flatten a shard and keep the events of wanted windows."""
        (items_E, offsets_U1), (times_E, _), (ratings_E, _) = (
            ragged(shard[name]) for name in ("items", "timestamps", "ratings")
        )
        lengths_U = np.diff(offsets_U1)
        starts_E = np.repeat(offsets_U1[:-1], lengths_U)
        gap_E = np.diff(times_E, prepend=0)
        gap_E[offsets_U1[:-1]] = -1
        before_E = np.r_[items_E[:1], items_E[:-1]]
        before_E[offsets_U1[:-1]] = 0
        user_E = np.repeat(shard["user"].to_numpy().astype(np.int64), lengths_U)
        window_E = window_of(times_E, windows)
        keep_E = wanted_W[window_E] & (window_E >= 0)
        user_E, window_E, starts_E, at_E = (
            values[keep_E] for values in (user_E, window_E, starts_E, np.arange(len(times_E)))
        )
        change_E = np.ones(len(user_E), bool)
        change_E[1:] = (np.diff(user_E) != 0) | (np.diff(window_E) != 0)
        return cls(
            items_E=items_E[keep_E],
            times_E=times_E[keep_E],
            ratings_E=ratings_E[keep_E],
            window_E=window_E,
            user_E=user_E,
            row_E=np.cumsum(change_E) - 1,
            first_R=np.flatnonzero(change_E),
            gap_E=gap_E[keep_E],
            joined_E=times_E[starts_E],
            history_E=at_E - starts_E,
            before_E=before_E[keep_E],
            repeated_E=_repeated(user_E, items_E[keep_E], times_E[keep_E]),
            context={
                name: ragged(shard[name])[0][keep_E]
                for name in shard.column_names
                if name.startswith(CONTEXT)
            },
        )

    def content(self) -> NDArray[np.int64]:
        """Return a hash of each event's item and rating; sums of them do not depend on the order."""
        mixed_E = (self.items_E.astype(np.uint64) << np.uint64(8)) + (self.ratings_E * 20).astype(np.uint64)
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            mixed_E = (mixed_E ^ (mixed_E >> np.uint64(shift))) * np.uint64(factor)
        return (mixed_E ^ (mixed_E >> np.uint64(31))).view(np.int64)

    def sessions(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the row and the number of events of each session; one that crosses a window's edge is two."""
        starts_E = (self.gap_E < 0) | (self.gap_E > SESSION_BREAK_S)
        starts_E[self.first_R] = True
        first = np.flatnonzero(starts_E)
        return self.row_E[first], np.diff(np.r_[first, len(self.row_E)])


def _gathered(parts: list[NDArray[np.uint32]], order: NDArray[np.int64]) -> NDArray[np.uint32]:
    """Return row `order[r]` of all parts, one under another, as row r; the parts' rows are copied only once."""
    place_R = np.empty_like(order)
    place_R[order] = np.arange(len(order))
    rows_RK = np.empty((len(order), parts[0].shape[1]), parts[0].dtype)
    ends = np.cumsum([len(part) for part in parts])
    for part, end in zip(parts, ends.tolist(), strict=True):
        rows_RK[place_R[end - len(part) : end]] = part
    return rows_RK


def _repeated(
    user_E: NDArray[np.integer[Any]], items_E: NDArray[np.integer[Any]], times_E: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Return whether each event's user had its item within `REPEAT_S` seconds before; events in order of user, time."""
    key_E = user_E * (int(items_E.max(initial=0)) + 1) + items_E
    order = np.argsort(key_E, kind="stable")
    same_E = np.diff(key_E[order], prepend=-1) == 0
    near_E = np.diff(times_E[order], prepend=0) <= REPEAT_S
    repeated_E = np.zeros(len(key_E), bool)
    repeated_E[order] = same_E & near_E
    return repeated_E


def _bin(values: NDArray[Any], edges: tuple[float, ...]) -> NDArray[np.int64]:
    """Return how many edges each value reaches."""
    return np.searchsorted(edges, values, side="right")
