"""Pass 1: against a loop over events, additive, and blind to the future."""

from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest

from benchmarks.drift.simulate import Plant, simulate
from drift.calendar import calendar, full_windows, window_of
from drift.signals.histograms import HistogramMaker, UserHistograms
from drift.signals.items import ItemCounts, popularity_spans, read_item_facts
from drift.stats.distances import named_slices, slices
from ss4rec.data.prepared.item_months import item_months

PLANT = Plant(windows=6, users=25, items=60, returning=0.5)


def profiler(made, seen=50, wanted=range(6)):
    catalogue = read_item_facts(made.items, vocabulary=40, seen=seen)
    counts = ItemCounts.of_shard(made.shard, made.windows, made.items.num_rows)
    return HistogramMaker(made.windows, list(wanted), catalogue, counts)


def column(profile, layout, name):
    return profile.counts_RK[:, named_slices(layout)[name]]


def same(left, right):
    for name in ("window_R", "user_R", "events_R", "counts_RK"):
        np.testing.assert_array_equal(getattr(left, name), getattr(right, name))


def test_profile_equals_a_loop_over_events():
    made = simulate(PLANT, 0)
    make = profiler(made)
    found = make(made.shard)
    want = {
        name: Counter()
        for name in ("rating", "zero_gap", "unseen_item", "history", "genre", "session_events")
    }
    titles, genres = made.items["title"].to_pylist(), made.items["genres"].to_pylist()
    assert titles[0].endswith("(1957)")
    for row in made.shard.to_pylist():
        windows = window_of(np.array(row["timestamps"]), made.windows)
        session = 0
        for k, (item, rating, at) in enumerate(zip(row["items"], row["ratings"], windows, strict=True)):
            key = (at, row["user"])
            want["rating"][*key, int(rating * 2) - 1] += 1
            want["unseen_item"][*key, int(item > 40)] += 1
            for genre in genres[item - 1]:
                want["genre"][*key, make.item_facts.labels.index(genre)] += 1
            gap = row["timestamps"][k] - row["timestamps"][k - 1] if k else None
            if gap is not None:
                want["zero_gap"][*key, int(gap == 0)] += 1
            if k == 0 or windows[k - 1] != at:
                want["history"][*key, 0 if k == 0 else int(np.floor(np.log2(k))) + 1] += 1
            session = session + 1 if k and gap <= 1800 and windows[k - 1] == at else 1
            ends = k + 1 == len(windows) or row["timestamps"][k + 1] - row["timestamps"][k] > 1800
            if ends or windows[k + 1] != at:
                want["session_events"][*key, int(np.floor(np.log2(session)))] += 1
    for name, cells in want.items():
        counts = column(found, make.layout, name)
        got = {
            (found.window_R[r], found.user_R[r], b): counts[r, b]
            for r, b in zip(*np.nonzero(counts), strict=True)
        }
        assert got == dict(cells), name
    assert found.events_R.sum() == len(made.shard["items"].combine_chunks().flatten())


def test_profiles_of_parts_add_up_to_the_whole():
    made = simulate(PLANT, 1)
    make = profiler(made)
    parts = [make(made.shard.slice(start, 40)) for start in range(0, made.shard.num_rows, 40)]
    same(UserHistograms.merge(parts), make(made.shard))
    doubled = UserHistograms.merge([make(made.shard)] * 2)
    np.testing.assert_array_equal(doubled.counts_RK, 2 * make(made.shard).counts_RK)


def test_the_past_does_not_change_with_the_future(tmp_path):
    """Bins, popularity, first times and genre labels of a window come from it and earlier ones only."""
    made = simulate(PLANT, 2)
    cut_s = made.windows[2].end_s
    rows = made.shard.to_pylist()
    changed = [
        {
            "user": row["user"],
            "items": [
                61 - i if t >= cut_s else i for i, t in zip(row["items"], row["timestamps"], strict=True)
            ],
            "timestamps": row["timestamps"],
            "ratings": [
                0.5 if t >= cut_s else r for r, t in zip(row["ratings"], row["timestamps"], strict=True)
            ],
        }
        for row in rows
    ]
    other = simulate(PLANT, 2).__class__(
        pa.Table.from_pylist(changed, made.shard.schema), made.items, made.windows, made.successor_V
    )
    same(profiler(made, wanted=range(3))(made.shard), profiler(other, wanted=range(3))(other.shard))
    late_genre = made.items.set_column(
        2,
        "genres",
        pa.array([["Future"] if n > 50 else g for n, g in enumerate(made.items["genres"].to_pylist(), 1)]),
    )
    assert "Future" not in read_item_facts(late_genre, 40, 50).labels


def test_popularity_looks_back_only():
    counts = np.array([[0, 4, 0, 0], [0, 0, 6, 0], [0, 0, 0, 99]])
    for window, lookback, starts, widths in (
        (1, 4, [0, 0, 0, 0], [0, 1, 0, 0]),
        (2, 4, [0, 0, 0.4, 0], [0, 0.4, 0.6, 0]),
        (2, 1, [0, 0, 0, 0], [0, 0, 1, 0]),
        (0, 4, [0, 0, 0, 0], [0, 0, 0, 0]),
    ):
        start, width = popularity_spans(counts, window, lookback)
        np.testing.assert_allclose(start, starts, rtol=1e-6)
        np.testing.assert_allclose(width, widths, rtol=1e-6)


def test_popularity_is_flat_where_tastes_stay():
    """Events like those of the year before spread evenly over the percentiles, so no edge can jump."""
    made = simulate(Plant(windows=6, users=200), 5)
    make = profiler(made)
    profile = make(made.shard)
    counts = column(profile, make.layout, "popularity")[profile.window_R == 5].sum(0)
    assert counts[0] == 0
    np.testing.assert_allclose(counts[1:] / counts.sum(), 0.05, atol=0.01)


def test_blocks_weigh_each_of_a_users_windows_once():
    made = simulate(PLANT, 3)
    make = profiler(made)
    profile = make(made.shard)
    blocks = profile.blocks([0, 1, 2], make.layout)
    rating = slices(make.layout)[0]
    for n in range(0, len(blocks.users_N), 7):
        rows = np.flatnonzero((profile.user_R == blocks.users_N[n]) & (profile.window_R <= 2))
        counts = profile.counts_RK[rows][:, rating]
        np.testing.assert_allclose(
            blocks.sums_NK[n, rating], (counts / counts.sum(1, keepdims=True)).sum(0), rtol=1e-5
        )
        assert blocks.weights_NS[n, 0] == len(rows)


def test_months_add_up_to_the_windows():
    """The table that `data split` writes gives what counting the events by window gives."""
    made = simulate(PLANT, 4)
    items, times = (
        made.shard[name].combine_chunks().flatten().to_numpy() for name in ("items", "timestamps")
    )
    total = made.items.num_rows
    for kind in ("month", "quarter", "year"):
        windows = calendar(kind, int(times.min()), int(times.max()))
        want = ItemCounts.of_shard(made.shard, windows, total)
        found = ItemCounts.of_months(item_months(items, times, total), windows)
        np.testing.assert_array_equal(found.counts_WV, want.counts_WV)
        np.testing.assert_array_equal(found.first_V, want.first_V)


def test_a_profile_is_as_large_with_ten_times_the_events():
    """What is kept is a row a user and window, so memory does not grow with the rows of the data."""
    made = simulate(PLANT, 7)
    columns = {name: made.shard[name].to_pylist() for name in ("items", "timestamps", "ratings")}
    longer = {name: [[v for v in row for _ in range(10)] for row in rows] for name, rows in columns.items()}
    shard = pa.table({"user": made.shard["user"], **longer}, made.shard.schema)
    make = profiler(made)
    once, tenfold = make(made.shard), make(shard)
    assert tenfold.events_R.sum() == 10 * once.events_R.sum()
    for name in ("window_R", "user_R", "events_R", "counts_RK"):
        assert getattr(tenfold, name).nbytes == getattr(once, name).nbytes


def test_save_and_load(tmp_path):
    made = simulate(PLANT, 4)
    profile = profiler(made)(made.shard)
    profile.save(tmp_path / "p.parquet")
    same(UserHistograms.load(tmp_path / "p.parquet"), profile)


@pytest.mark.parametrize(
    ("kind", "name", "count"), [("month", "2011-02", 12), ("quarter", "2011Q1", 4), ("year", "2011", 1)]
)
def test_calendar(kind, name, count):
    windows = calendar(kind, 1_296_518_400, 1_296_518_400 + 364 * 86_400)  # 2011-02-01 on
    assert windows[0].name == name
    assert all(a.end_s == b.start_s for a, b in pairwise(windows))
    full = full_windows(windows, windows[0].start_s, windows[count - 1].end_s - 1)
    assert full == list(range(count))
    assert window_of(np.array([0, windows[0].start_s, windows[0].end_s - 1]), windows).tolist() == [-1, 0, 0]


def test_windows_that_the_data_does_not_fill_are_left_out():
    windows = calendar("month", 1_296_518_400, 1_310_000_000)
    kept = full_windows(windows, windows[0].start_s + 5 * 86_400, windows[3].start_s + 5 * 86_400)
    assert kept == [1, 2]


@pytest.mark.parametrize(
    ("kind", "anchor", "names"),
    [
        ("year", "2015-04-01", ["2013-04 to 2014-03", "2014-04 to 2015-03", "2015-04 to 2016-03"]),
        ("quarter", "2015-04-01", ["2014Q1", "2014Q2", "2014Q3"]),
        ("month", "2015-01-31", ["2013-12-31", "2014-01-31", "2014-02-28"]),
        ("week", "2014-01-03", ["2014-01-10", "2014-01-17", "2014-01-24"]),
        ("day", "2014-01-03", ["2014-01-15", "2014-01-16", "2014-01-17"]),
        ("hour", "2014-01-03", ["2014-01-15T00", "2014-01-15T01", "2014-01-15T02"]),
    ],
)
def test_windows_begin_at_the_anchor(kind, anchor, names):
    """Nothing is lost between the cut and the calendar's next window."""
    first, last, cut = (
        int(datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp())
        for day in ("2014-01-15", "2016-03-31", anchor)
    )
    windows = calendar(kind, first, last, cut)
    assert [window.name for window in windows[:3]] == names
    assert all(a.end_s == b.start_s for a, b in pairwise(windows))
    assert windows[0].start_s <= first < windows[0].end_s
    assert cut > last or cut < first or cut in [window.start_s for window in windows]


def test_the_lasting_top_is_that_of_the_year_before_the_reference():
    made = simulate(replace(PLANT, items=300, users=120), 6)
    catalogue = read_item_facts(made.items, vocabulary=300, seen=300)
    counts = ItemCounts.of_shard(made.shard, made.windows, 300)
    make = HistogramMaker(made.windows, list(range(6)), catalogue, counts, [1, 2])
    early_V = counts.counts_WV[1:3].sum(axis=0)
    best = set(np.argsort(-early_V, kind="stable")[:100].tolist())
    items, times = (
        made.shard[name].combine_chunks().flatten().to_numpy() for name in ("items", "timestamps")
    )
    inside = np.isin(items, list(best)) & (window_of(times, made.windows) == 4)
    found = make(made.shard)
    top = column(found, make.layout, "lasting_top")[found.window_R == 4]
    assert top[:, 1].sum() == inside.sum() > 0
    none = HistogramMaker(made.windows, [4], catalogue, counts)(made.shard)
    assert column(none, make.layout, "lasting_top")[:, 1].sum() == 0
