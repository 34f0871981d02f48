"""A source in many blocks gives the bytes of the same source in one block, also after a stop and a new start."""

import random
import zipfile
from collections import Counter
from contextlib import nullcontext
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ss4rec.data.prepare import chunks
from ss4rec.data.prepare.block import BlockFile, make_block, save_block
from ss4rec.data.prepare.engine import prepare
from ss4rec.data.prepare.k_core import kept_events
from ss4rec.data.prepared.build import training_gaps
from ss4rec.data.prepared.folder import PreparedFolder
from ss4rec.data.prepared.gap_median import LOW, GapCounts
from ss4rec.data.prepared.manifest import Manifest
from ss4rec.data.sources import Rules
from ss4rec.data.sources.checks import QUARANTINE_SCHEMA, Parsed
from ss4rec.data.sources.event_order import repeated, sorted_places
from ss4rec.errors import DataError
from ss4rec.io.beside import begin
from tests.data.reference import content, many_blocks

IDS = st.one_of(st.integers(8, 12), st.sampled_from(["x", "8", "08", "y,z"]))


@pytest.fixture
def large():
    """Sources of a test are large ones."""
    with many_blocks():
        yield


def assert_same_bytes(folder, source, *, block_bytes=64, **options):
    """Prepare both ways and compare; returns the manifest, or None if both refuse with the same words."""
    one, many = folder / "one", folder / "many"
    refusals = []
    for out, blocks in ((one, nullcontext()), (many, many_blocks())):
        try:
            with blocks:
                manifest = prepare(source, out, block_bytes=block_bytes, **options)
        except DataError as error:
            refusals.append(str(error))
            assert not out.exists()
    if refusals:
        assert len(refusals) == 2
        assert refusals[0] == refusals[1]
        return None
    assert content(many) == content(one)
    PreparedFolder.open(many).verify()
    assert not (folder / ".many.work").exists()
    return manifest


@settings(derandomize=True, deadline=None, max_examples=30)
@given(
    st.lists(st.tuples(IDS, IDS, st.sampled_from([0.5, 3.0]), st.integers(0, 3)), max_size=50),
    st.booleans(),
    st.booleans(),
    st.integers(0, 3),
    st.integers(1, 4),
    st.integers(20, 300),
)
def test_same_bytes_for_any_rows(
    tmp_path_factory, rows, by_user, repeats, k_core, rows_per_shard, block_bytes
):
    folder = tmp_path_factory.mktemp("etl")
    rows = sorted(rows, key=lambda row: str(row[0])) if by_user else rows
    lines = "".join(f'"{user}","{item}",{rating},{time}\n' for user, item, rating, time in rows)
    (folder / "p.csv").write_text("user,item,rating,time\n" + lines)
    assert_same_bytes(
        folder,
        folder / "p.csv",
        block_bytes=block_bytes,
        k_core=k_core,
        rows_per_shard=rows_per_shard,
        rules=Rules(repeats=repeats, max_bad_share=0.9),
    )


def grouplens(rng, users=60, far=False):
    """Lines of `ratings.csv`, in the order of users."""
    for user in range(1, users):
        for item in rng.sample(range(1, 40), rng.randint(3, 30)):
            yield f"{user},{item},{rng.randint(1, 10) / 2},{10**9 + rng.randint(0, 10**8 if far else 99)}\n"


@pytest.fixture
def ratings(tmp_path):
    """A folder in GroupLens' layout with 59 users."""
    lines = "".join(grouplens(random.Random(1)))
    (tmp_path / "in").mkdir()
    (tmp_path / "in/ratings.csv").write_text("userId,movieId,rating,timestamp\n" + lines)
    movies = "".join(f"{item},Film {item} (1999),Drama|War\n" for item in range(3, 50))
    (tmp_path / "in/movies.csv").write_text("movieId,title,genres\n" + movies)
    return tmp_path / "in"


@pytest.mark.parametrize("form", ["folder", "zip", "shuffled", "late scatter", "parquet"])
def test_same_bytes_for_any_form(tmp_path, ratings, form):
    lines = (ratings / "ratings.csv").read_text().splitlines(keepends=True)
    source = ratings
    if form == "shuffled":
        lines[1:] = random.Random(2).sample(lines[1:], len(lines) - 1)
    if form == "late scatter":  # what the first look does not show
        lines.append(lines[1].replace(lines[1].split(",")[1], "39", 1))
    (ratings / "ratings.csv").write_text("".join(lines))
    if form == "zip":
        source = tmp_path / "r.zip"
        with zipfile.ZipFile(source, "w", zipfile.ZIP_DEFLATED) as archive:
            for path in ratings.iterdir():
                archive.write(path, f"deep/{path.name}")
    if form == "parquet":
        rows = [line.strip().split(",") for line in lines[1:]]
        columns = {name: [float(row[at]) for row in rows] for at, name in enumerate("uirt")}
        table = pa.table({name: pa.array(values) for name, values in columns.items()})
        table = table.set_column(0, "user", table["u"].cast(pa.int64()))
        table = table.set_column(1, "item", table["i"].cast(pa.int64())).rename_columns(
            ["user", "item", "rating", "time"]
        )
        source = tmp_path / "r.parquet"
        pq.write_table(table, source, row_group_size=100)
    manifest = assert_same_bytes(tmp_path, source, block_bytes=1000, rows_per_shard=7)
    assert manifest.interactions > 500


@pytest.mark.parametrize("spoil", [False, True])
def test_rows_move_between_tasks_only_if_they_must(tmp_path, ratings, large, spoil):
    if spoil:  # one row of user 1 at the end
        with (ratings / "ratings.csv").open("a") as file:
            file.write("1,39,3.0,1000000000\n")
    told = []
    prepare(ratings, tmp_path / "out", block_bytes=1000, progress=told.append)
    assert any("partitioning by user" in message for message in told) == spoil


def test_the_median_of_long_gaps_is_exact(tmp_path):
    lines = "".join(grouplens(random.Random(4), far=True))
    (tmp_path / "ratings.csv").write_text("userId,movieId,rating,timestamp\n" + lines)
    manifest = assert_same_bytes(tmp_path, tmp_path / "ratings.csv", block_bytes=999, rows_per_shard=7)
    assert manifest.median_gap_s > LOW


@settings(derandomize=True, deadline=None)
@given(st.lists(st.lists(st.integers(0, 5 * LOW)), max_size=4))
def test_counts_give_the_median(parts):
    arrays = [np.array(part, np.int64) for part in parts]
    counts = GapCounts()
    for array in arrays:
        counts.add(GapCounts.of(array))
    every = np.concatenate([*arrays, np.zeros(0, np.int64)])
    assert (counts.total, counts.zero) == (len(every), (every == 0).sum())
    within = counts.median(lambda bucket: (array[array // LOW == bucket] for array in arrays))
    assert within == (np.median(every) if len(every) else 0)


@settings(derandomize=True, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 9), st.sampled_from([0, 1, 2, 2**32, 2**33 - 1]))),
    st.sampled_from([0, 26, 30]),
)
def test_packed_order_is_the_stable_order(rows, spread):
    users, times = (
        (np.array(column, np.int64) for column in zip(*rows, strict=True))
        if rows
        else (np.zeros(0, int),) * 2
    )
    users = users << spread  # too many bits to pack with their places, or at all
    places = np.arange(len(users))[sorted_places(users, times)]
    assert np.array_equal(places, np.lexsort((times, users)))


@settings(derandomize=True, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2), st.integers(0, 2))))
def test_repeats_are_what_an_earlier_row_said(rows):
    users, items, times = np.array(rows, np.int64).reshape(-1, 3).T
    expected = [place for place, row in enumerate(rows) if row in rows[:place]]
    assert repeated(users, items, times, sorted_places(users, times)).tolist() == expected


@pytest.mark.parametrize("shuffled", [False, True])
def test_a_core_that_takes_several_rounds(tmp_path, shuffled):
    rng = random.Random(5)
    rows = [(user, item) for user in range(150) for item in rng.sample(range(120), rng.randint(1, 8))]
    rows = rng.sample(rows, len(rows)) if shuffled else rows
    lines = "".join(f"{user},{item},4.0,1000000000\n" for user, item in rows)
    (tmp_path / "ratings.csv").write_text("userId,movieId,rating,timestamp\n" + lines)
    manifest = assert_same_bytes(
        tmp_path, tmp_path / "ratings.csv", block_bytes=1000, rows_per_shard=7, k_core=4
    )
    first_round = sum(count for count in Counter(item for _, item in rows).values() if count < 4)
    assert manifest.rows_dropped["k_core"] > 2 * first_round > 0


class StoppedError(Exception):
    """Stands for a kill."""


@pytest.mark.parametrize("shuffled", [False, True])
def test_a_stopped_job_goes_on_and_ends_with_the_same_bytes(tmp_path, ratings, large, shuffled):
    if shuffled:
        lines = (ratings / "ratings.csv").read_text().splitlines(keepends=True)
        lines[1:] = random.Random(2).sample(lines[1:], len(lines) - 1)
        (ratings / "ratings.csv").write_text("".join(lines))
    expected = prepare(ratings, tmp_path / "one", rows_per_shard=7)
    files, stops = 0, 0
    while True:
        left = 5

        def dying(function, items):
            nonlocal left
            for item in items:
                if left == 0:
                    raise StoppedError
                left -= 1
                yield function(item)

        try:
            prepare(ratings, tmp_path / "out", rows_per_shard=7, block_bytes=2000, mapper=dying)
        except StoppedError:
            stops += 1
            # Rounds of counting leave no file; they are let through once the blocks stand.
            found = sum(path.is_file() for path in (tmp_path / ".out.work").rglob("*"))
            if found == files:
                break
            files = found
            assert not (tmp_path / "out").exists()
            continue
        break
    assert stops >= 2
    ran = []

    def counting(function, items):
        for item in items:
            ran.append(item)
            yield function(item)

    prepare(ratings, tmp_path / "out", rows_per_shard=7, block_bytes=2000, mapper=counting)
    assert content(tmp_path / "out") == content(tmp_path / "one")
    assert Manifest.load(tmp_path / "out") == expected
    assert not any(isinstance(item, chunks.Chunk) for item in ran)  # no chunk was read again


def test_another_source_does_not_go_on_with_the_old_blocks(tmp_path, ratings, large):
    def dying(function, items):
        yield function(next(iter(items)))
        raise StoppedError

    with pytest.raises(StoppedError):
        prepare(ratings, tmp_path / "out", block_bytes=2000, k_core=0, mapper=dying)
    text = (ratings / "ratings.csv").read_text()
    (ratings / "ratings.csv").write_text(text.replace("\n1,", "\n61,"))
    prepare(ratings, tmp_path / "out", block_bytes=2000, k_core=0)
    prepare(ratings, tmp_path / "one", k_core=0)
    assert content(tmp_path / "out") == content(tmp_path / "one")


BAD = {
    "userId": "x1,5,3.0,1000000000",
    "fields": "1,5,3.0",
    "empty": ",5,3.0,1000000000",
    "time": "1,5,3.0,soon",
    "early": "1,5,3.0,100",
    "late": "1,5,3.0,4102444800",
    "rating": "1,5,,1000000000",
    "scale": "1,5,9.0,1000000000",
}
REASONS = {
    "fields": 1,
    "rating_missing": 1,
    "rating_off_scale": 1,
    "repeated": 2,
    "time_early": 1,
    "time_late": 1,
    "time_unreadable": 1,
    "user_missing": 1,
    "user_unreadable": 1,
}


@pytest.mark.parametrize("shuffled", [False, True])
def test_bad_rows_are_listed_with_reasons(tmp_path, ratings, shuffled):
    from ss4rec.data.sources.checks import rules_for

    lines = (ratings / "ratings.csv").read_text().splitlines(keepends=True)
    good = prepare(ratings, tmp_path / "good", k_core=0)
    rng = random.Random(3)
    for text in BAD.values():
        lines.insert(rng.randint(1, 9), text + "\n")  # among rows of user 1
    lines.insert(30, lines[29])
    lines.append(lines[-1])
    if shuffled:
        lines[1:] = rng.sample(lines[1:], len(lines) - 1)
    (ratings / "ratings.csv").write_text("".join(lines))
    rules = rules_for("grouplens-csv", 1_800_000_000, max_bad_share=0.02)
    told = []
    options = {"k_core": 0, "rules": rules, "progress": told.append}
    manifest = assert_same_bytes(tmp_path, ratings, block_bytes=1000, **options)
    assert any("partitioning" in message for message in told) == shuffled
    assert manifest.quarantined == REASONS
    assert manifest.interactions == good.interactions
    assert manifest.source.rows == manifest.interactions + sum(REASONS.values())
    table = pq.read_table(tmp_path / "many/quarantine.parquet").to_pylist()
    assert [row["row"] for row in table] == sorted(row["row"] for row in table)
    for row in table:
        line = lines[row["row"] - 1].strip()
        assert line in BAD.values() or row["reason"] == "repeated"
        if row["reason"] == "time_unreadable":
            assert row["detail"] == "time is 'soon', which is no time of type int64"
    strict = rules_for("grouplens-csv", 1_800_000_000, max_bad_share=0.001)
    with pytest.raises(DataError, match=r"In all 10 of .*fields 1, .*raise --max-bad-share"):
        prepare(ratings, tmp_path / "strict", rules=strict)
    assert_same_bytes(tmp_path / "x", ratings, rules=strict)


def test_a_file_that_is_something_else_is_refused_soon(tmp_path, monkeypatch):
    monkeypatch.setattr("ss4rec.data.sources.text.MAX_UNREADABLE", 20)
    (tmp_path / "ratings.dat").write_text("once upon a time\n" * 100)
    with pytest.raises(DataError, match="is it a file of ratings"):
        prepare(tmp_path / "ratings.dat", tmp_path / "out", rules=Rules(max_bad_share=1))


def test_a_taken_folder_is_refused_before_any_work(tmp_path, ratings):
    prepare(ratings, tmp_path / "out", block_bytes=2000)
    with pytest.raises(DataError, match="--overwrite"):
        prepare(ratings, tmp_path / "out", block_bytes=2000, mapper=None)
    prepare(ratings, tmp_path / "out", k_core=0, block_bytes=2000, overwrite=True)
    assert Manifest.load(tmp_path / "out").filters.k_core == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]


@settings(derandomize=True, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 11), max_size=12), max_size=8),
    st.sampled_from([0, 6, 11]),
    st.integers(0, 3),
)
def test_events_are_kept_and_gaps_counted_as_one_by_one(users, rarest, least):
    """Users without events and blocks of which nearly all is dropped too."""
    items_E = np.array([item for user in users for item in user], np.int64)
    offsets_U1 = np.cumsum([0, *(len(user) for user in users)])
    counts = [sum(item <= rarest for item in user) for user in users]
    counts = [count if count >= least else 0 for count in counts]
    kept = [count > 0 and item <= rarest for user, count in zip(users, counts, strict=True) for item in user]
    kept_E, kept_U = kept_events(items_E, offsets_U1, np.arange(12) <= rarest, least)
    assert (kept_E.tolist(), kept_U.tolist()) == (kept, counts)
    gaps = [b - a for user in users for a, b in zip(user[:-2], user[1:-2], strict=False)]
    assert training_gaps(items_E, offsets_U1).tolist() == gaps


@pytest.mark.parametrize("ratings", [[0.5, 5.0, 127.5], [-1.0, 3.0], [3.7, 4.0], [1e30, np.inf], [128.0]])
def test_ratings_of_a_block_come_back(tmp_path, ratings):
    users = pa.array([1] * len(ratings))
    times_R = np.arange(len(ratings))
    ratings_R = np.array(ratings, np.float32)
    nothing = QUARANTINE_SCHEMA.empty_table()
    parsed = Parsed(users, users, times_R, ratings_R, times_R, nothing, len(ratings))
    save_block(tmp_path / "block", make_block(parsed, repeats=True, together=True))
    rows = BlockFile.load(tmp_path / "block").rows
    np.testing.assert_array_equal(rows.read_ratings(0, len(ratings)), ratings_R)


def test_what_runs_beside_raises_where_it_is_asked():
    assert begin(lambda: 7).result() == 7
    with pytest.raises(DataError, match="no such file"):
        begin(partial(_refuse, "no such file")).result()


def _refuse(text):
    raise DataError(text)
