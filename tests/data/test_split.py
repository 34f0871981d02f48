"""The cut in time: nothing of the future may reach the past, and nothing may be lost."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from ss4rec.cli.split import split_command
from ss4rec.data.batches.windows import train_windows
from ss4rec.data.prepare.engine import prepare
from ss4rec.data.prepared.folder import PreparedFolder
from ss4rec.data.prepared.item_months import item_months, month_of, month_start_s, read_item_months
from ss4rec.data.prepared.manifest import Manifest
from ss4rec.data.prepared.tables import read_items, read_shard, read_users
from ss4rec.data.split import SplitRecord, parse_cut, split
from ss4rec.errors import DataError, UsageError

EVENT = st.tuples(st.integers(1, 5), st.integers(1, 7), st.integers(0, 40))


def events_of(folder):
    """All (user id, item id, time) of a prepared folder."""
    items, users = read_items(folder)["source_id"].to_pylist(), read_users(folder)["source_id"].to_pylist()
    found = []
    for path in PreparedFolder.open(folder).shard_paths:
        for row in pq.read_table(path).to_pylist():
            times = zip(row["items"], row["timestamps"], strict=True)
            found += [(users[row["user"]], items[item - 1], time) for item, time in times]
    return sorted(found)


def folder_of(events, path, k_core=0):
    path.mkdir()
    columns = ("userId", "movieId", "timestamp")
    table = pa.table({name: [event[i] for event in events] for i, name in enumerate(columns)})
    table = table.append_column("rating", pa.array([3.5] * len(events)))
    pq.write_table(table, path / "ratings.parquet")
    prepare(path / "ratings.parquet", path / "full", k_core=k_core)
    return path / "full"


@settings(max_examples=12, deadline=None, derandomize=True)
@given(
    st.lists(EVENT, min_size=20, max_size=60, unique_by=lambda e: e[:2]),
    st.integers(5, 30),
    st.integers(0, 2),
)
def test_the_past_knows_nothing_later(tmp_path_factory, events, cut_s, k_core):
    root = tmp_path_factory.mktemp("split")
    try:
        full = folder_of(events, root / "in")
        record = split(full, root / "out", cut_s, k_core=k_core)
    except DataError:
        return  # nothing left on one side
    past, timeline = root / "out" / "past", root / "out" / "timeline"
    assert all(time <= cut_s for *_, time in events_of(past))
    assert events_of(timeline) == events_of(full)

    # The future may be anything: the past folder keeps its bytes.
    other = [(user, 8 - item if time > cut_s else item, time) for user, item, time in events]
    split(folder_of(other, root / "other"), root / "out2", cut_s, k_core=k_core)
    for name in ("items.parquet", "users.parquet", "shards/part-00000.parquet"):
        assert (past / name).read_bytes() == (root / "out2" / "past" / name).read_bytes()
    # Nor does a statistic that training reads: times, gaps, lengths, counts. The rest is where the rows came from.
    origin = {"source", "rows_dropped"}
    statistics = Manifest.load(past).model_dump(exclude=origin)
    assert statistics == Manifest.load(root / "out2" / "past").model_dump(exclude=origin)
    assert statistics["last_time_s"] <= cut_s
    check_training_inputs(past, events, cut_s)

    counts = dict(zip(*np.unique([item for _, item, _ in events_of(past)], return_counts=True), strict=True))
    items = read_items(past)
    assert dict(zip(items["source_id"].to_pylist(), items["count"].to_pylist(), strict=True)) == counts

    ids = read_items(timeline)["source_id"].to_pylist()
    assert ids[: record.vocabulary] == items["source_id"].to_pylist()
    seen = {item for _, item, time in events_of(full) if time <= cut_s}
    assert set(ids[: record.seen]) == seen
    assert record.future_events == sum(time > cut_s for *_, time in events_of(full))
    named = read_items(timeline)["source_id"].to_pylist()
    by_month = read_item_months(root / "out").to_pylist()
    assert [row["first_s"] for row in by_month] == [
        min(t for _, i, t in events_of(full) if i == n) for n in named
    ]
    assert [sum(row["events"]) for row in by_month] == [
        sum(i == n for _, i, _ in events_of(full)) for n in named
    ]
    marks = pq.read_table(root / "out" / "past_events.parquet")["past_events"].to_pylist()
    users = read_users(timeline)["source_id"].to_pylist()
    assert marks == [sum(u == user and t <= cut_s for u, _, t in events_of(full)) for user in users]
    assert SplitRecord.load(root / "out") == record


def check_training_inputs(past, events, cut_s):
    """Every window that training sees is made of events at or before the cut, gaps to its targets too."""
    times = {(user, item): time for user, item, time in events}
    users, items = read_users(past)["source_id"].to_pylist(), read_items(past)["source_id"].to_pylist()
    for path in PreparedFolder.open(past).shard_paths:
        windows = train_windows(read_shard(path), max_len=4, overlap=1, target_time=True).to_pylist()
        for row in windows:
            inputs = [items[item - 1] for item in row["items"]]
            targets = [items[item - 1] for item in row["targets"] if item]
            user = users[row["user"]]
            latest = max(times[user, item] for item in [*inputs, *targets])
            assert latest <= cut_s
            assert times[user, inputs[0]] + sum(row["gaps"]) <= cut_s


EVENTS = [(user, item, item * 10 + user) for user in range(1, 5) for item in range(1, 7)]


def test_a_core_taken_with_the_future_is_refused(tmp_path):
    full = folder_of(EVENTS, tmp_path / "in", k_core=2)
    with pytest.raises(DataError, match="--k-core 2"):
        split(full, tmp_path / "out", 35)


def test_a_cut_with_nothing_on_one_side_is_refused(tmp_path):
    full = folder_of(EVENTS, tmp_path / "in")
    for cut_s in (5, 999):
        with pytest.raises(DataError, match="move --cutoff"):
            split(full, tmp_path / "out", cut_s)


def test_a_date_means_its_whole_day():
    assert parse_cut("2015-03-31") == 1427846399
    assert parse_cut("2015-03-31T06:40:02") == parse_cut("1427784002") == 1427784002
    with pytest.raises(UsageError, match="yesterday"):
        parse_cut("yesterday")


def test_events_of_an_item_by_month():
    """Item 2 in 1970-02 (twice) and 1971-01, item 1 in the last second of 1970-02."""
    feb, mar, jan = 31 * 86_400, 59 * 86_400, 365 * 86_400
    assert month_of(np.array([0, feb - 1, feb, mar - 1, mar, jan])).tolist() == [0, 0, 1, 1, 2, 12]
    assert month_start_s(np.array([1, 2, 12])).tolist() == [feb, mar, jan]
    table = item_months(
        np.array([2, 1, 2, 2], np.int32), np.array([feb + 9, mar - 1, jan, feb]), 2
    ).to_pylist()
    assert table == [
        {"item": 1, "first_s": mar - 1, "months": [1], "events": [1]},
        {"item": 2, "first_s": feb, "months": [1, 12], "events": [2, 1]},
    ]


def test_a_folder_of_an_older_split_says_what_to_do(tmp_path):
    with pytest.raises(DataError, match=r"item_months.parquet is missing; run `ss4rec data split` again"):
        read_item_months(tmp_path)


def test_command_line(tmp_path):
    full = folder_of(EVENTS, tmp_path / "in")
    args = ["--data", str(full), "--cutoff", "35", "--out", str(tmp_path / "out"), "--json"]
    result = CliRunner().invoke(split_command, args, catch_exceptions=False)
    assert json.loads(result.output)["vocabulary"] == 3
