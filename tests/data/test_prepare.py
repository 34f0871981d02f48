import os
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ss4rec.data.prepare.engine import prepare
from ss4rec.data.prepared import tables
from ss4rec.data.prepared.folder import PreparedFolder
from ss4rec.data.prepared.manifest import Manifest
from ss4rec.errors import DataError
from tests.data.reference import content, many_blocks, naive_core, naive_sequences, read_back

REAL = Path(os.environ.get("SS4REC_DATA", "../shared/data"))


def write_rows(path, rows):
    path.write_text("user,item,rating,time\n" + "".join(f"{u},{i},{r},{t}\n" for u, i, r, t in rows))
    return path


# Few users, items and seconds, so that ties, repeats and rare ids are the rule.
INTEGERS = st.integers(8, 12)
STRINGS = INTEGERS.map(lambda number: f"id {number}")


def some_rows(ids):
    return st.lists(st.tuples(ids, ids, st.sampled_from([0.5, 3.0, 5.0]), st.integers(0, 3)), max_size=60)


@settings(derandomize=True, deadline=None, max_examples=60)
@given(
    st.one_of(some_rows(INTEGERS), some_rows(STRINGS)), st.integers(0, 5), st.integers(1, 4), st.booleans()
)
def test_same_rows_in_the_same_order_as_naive(tmp_path_factory, rows, k_core, rows_per_shard, large):
    folder = tmp_path_factory.mktemp("p")
    source = write_rows(folder / "p.csv", rows)
    options = {"k_core": k_core, "rows_per_shard": rows_per_shard, "block_bytes": 64}
    core = naive_core(rows, k_core, k_core)
    kept = naive_core(core, max(k_core, 3), k_core)
    if not kept:
        with (
            many_blocks() if large else nullcontext(),
            pytest.raises(DataError, match=r"none is left|no rows"),
        ):
            prepare(source, folder / "out", **options)
        assert [path.name for path in folder.iterdir()] == ["p.csv"]
        return
    with many_blocks() if large else nullcontext():
        manifest = prepare(source, folder / "out", **options)
    expected = naive_sequences(kept)
    assert read_back(folder / "out") == expected
    assert manifest.rows_dropped == {"k_core": len(rows) - len(core), "short_users": len(core) - len(kept)}
    assert manifest.interactions + sum(manifest.rows_dropped.values()) == manifest.source.rows == len(rows)
    check_statistics(manifest, expected)
    check_tables(folder / "out", kept, rows_per_shard)


def check_statistics(manifest, sequences):
    times = [[time for _, time, _ in events] for events in sequences.values()]
    gaps = [b - a for user in times for a, b in zip(user[:-2], user[1:-2], strict=False)]
    lengths = [len(user) for user in times]
    assert (manifest.first_time_s, manifest.last_time_s) == (min(map(min, times)), max(map(max, times)))
    assert (manifest.training_gaps, manifest.zero_gaps) == (len(gaps), gaps.count(0))
    assert manifest.median_gap_s == (np.median(gaps) if gaps else 0)
    assert manifest.mean_length == pytest.approx(sum(lengths) / len(lengths))
    assert (manifest.max_length, manifest.median_length) == (max(lengths), np.median(lengths))


def check_tables(folder, kept, rows_per_shard):
    items = [row[1] for row in kept]
    table = tables.read_items(folder).to_pylist()
    assert [row["source_id"] for row in table] == sorted(set(items))
    assert [row["item"] for row in table] == list(range(1, len(table) + 1))
    assert [row["count"] for row in table] == [items.count(row["source_id"]) for row in table]
    users = [row[0] for row in kept]
    for row in tables.read_users(folder).to_pylist():
        assert row["count"] == users.count(row["source_id"])
        assert row["shard"] == row["user"] // rows_per_shard


def test_items_stay_frequent_enough_when_short_users_go(tmp_path):
    # Users 1 and 2 form the whole 2-core with item 9, which is too rare once user 2 with its two rows is dropped.
    rows = [(1, item, 3.0, 0) for item in (5, 5, 6, 6, 9)] + [(2, item, 3.0, 0) for item in (9, 5)]
    manifest = prepare(write_rows(tmp_path / "p.csv", rows), tmp_path / "out", k_core=2)
    assert manifest.rows_dropped == {"k_core": 0, "short_users": 3}
    assert tables.read_items(tmp_path / "out")["source_id"].to_pylist() == [5, 6]


ROWS = [(user, item, 3.0, user * item) for user in range(6) for item in range(6)]


def test_same_input_gives_the_same_bytes(tmp_path):
    source = write_rows(tmp_path / "p.csv", ROWS)
    prepare(source, tmp_path / "a", rows_per_shard=4)
    prepare(source, tmp_path / "deep/er/b", rows_per_shard=4)
    assert content(tmp_path / "a") == content(tmp_path / "deep/er/b")
    assert len(content(tmp_path / "a")) == 5


def test_titles_and_genres_follow_their_items(tmp_path):
    (tmp_path / "x.inter").write_text(
        "user_id:token\titem_id:token\ttimestamp:float\n" + "".join(f"{u}\t{i}\t{t}\n" for u, i, _, t in ROWS)
    )
    (tmp_path / "x.item").write_text("item_id:token\tgenre:token_seq\nextra\tWar\n4\tDrama Comedy\n1\t\n")
    prepare(tmp_path / "x.inter", tmp_path / "out")
    table = tables.read_items(tmp_path / "out")
    assert table["genres"].to_pylist() == [None, None, None, None, ["Drama", "Comedy"], None]
    assert table["title"].null_count == 6


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_with_other_files_is_never_replaced(tmp_path, overwrite):
    source = write_rows(tmp_path / "p.csv", ROWS)
    (tmp_path / "out").mkdir()
    (tmp_path / "out/manifest.json").write_text("{}")
    (tmp_path / "out/thesis.txt").write_text("years of work")
    with pytest.raises(DataError, match=r"thesis\.txt"):
        prepare(source, tmp_path / "out", overwrite=overwrite)
    assert (tmp_path / "out/thesis.txt").read_text() == "years of work"
    with pytest.raises(DataError, match="is a file"):
        prepare(source, source, overwrite=overwrite)


def test_overwrite_replaces_a_prepared_folder_only_when_asked(tmp_path):
    source = write_rows(tmp_path / "p.csv", ROWS)
    (tmp_path / "out").mkdir()
    prepare(source, tmp_path / "out", name="first")
    with pytest.raises(DataError, match="--overwrite"):
        prepare(source, tmp_path / "out")
    assert Manifest.load(tmp_path / "out").name == "first"
    prepare(source, tmp_path / "out", name="second", overwrite=True)
    assert Manifest.load(tmp_path / "out").name == "second"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "p.csv"]


@pytest.mark.parametrize(
    "where",
    [
        "ss4rec.data.prepare.assemble.write_table",
        "ss4rec.data.prepared.tables.write_table",
        "ss4rec.data.sources.archive.sha256_of",
    ],
)
def test_a_failure_while_writing_leaves_nothing_and_keeps_the_old_folder(tmp_path, monkeypatch, where):
    source = write_rows(tmp_path / "p.csv", ROWS)
    prepare(source, tmp_path / "out", name="first")

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(where, full)
    with pytest.raises(DataError, match="No space left"):
        prepare(source, tmp_path / "out", overwrite=True)
    PreparedFolder.open(tmp_path / "out").verify()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "p.csv"]


def test_progress_is_told(tmp_path):
    messages = []
    prepare(write_rows(tmp_path / "p.csv", ROWS), tmp_path / "out", progress=messages.append)
    assert [message.split()[0] for message in messages] == ["reading", "5-core", "writing"]


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("name", "rows", "users", "items", "interactions"),
    [
        ("ml-1m", 1_000_209, 6_040, 3_416, 999_611),
        ("ml-100k", 100_000, 943, 1_349, 99_287),
        ("ml-latest-small", 100_836, 610, 3_650, 90_274),
        ("ml-32m-slice", 99_994, 625, 3_622, 88_754),
        ("ml-union-open", 294_703, 1_897, 6_082, 280_521),
    ],
)
def test_real_archives(tmp_path, name, rows, users, items, interactions):
    archive = REAL / f"{name}.zip"
    if not archive.exists():
        pytest.skip(f"{archive} is not here; set SS4REC_DATA to the folder with the MovieLens archives")
    manifest = prepare(archive, tmp_path / "out")
    PreparedFolder.open(tmp_path / "out").verify()
    found = (manifest.source.rows, manifest.users, manifest.items, manifest.interactions)
    assert found == (rows, users, items, interactions)
    assert tables.read_items(tmp_path / "out")["title"].null_count == 0
