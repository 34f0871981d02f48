import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from ss4rec.cli.synth import synth_command
from ss4rec.data.prepared.folder import PreparedFolder
from ss4rec.data.synth import generate as module
from ss4rec.data.synth.generate import chunks, synth
from ss4rec.data.synth.world import make_world, next_item_law, oracle
from ss4rec.errors import UsageError

ITEMS, USERS = 500, 2000


@pytest.fixture(scope="module")
def world():
    return make_world(ITEMS, seed=0)


@pytest.fixture(scope="module")
def chunk(world):
    return next(chunks(world, USERS, 60, seed=0))


def sequences(chunk):
    """Items of each user, and whether each event is the first after a break."""
    cuts = np.cumsum(chunk.lengths_U)[:-1]
    return list(zip(np.split(chunk.items_T, cuts), np.split(chunk.returned_T, cuts), strict=True))


def ndcg10(scores_of, users):
    """Leave-one-out NDCG@10 of the last item, rated items masked; ties count against the model."""
    gains = []
    for items, returned in users:
        scores_V = np.array(scores_of(items[:-1], returned[-1]), float)
        scores_V[items[:-1]] = -np.inf
        rank = (scores_V >= scores_V[items[-1]]).sum() - 1
        gains.append(1 / np.log2(rank + 2) if rank < 10 else 0.0)
    return np.mean(gains)


def bytes_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_same_seed_same_bytes_other_seed_other_bytes(tmp_path: Path):
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        synth(tmp_path / name, users=40, items=120, mean_len=25, seed=seed, fmt="csv")
    first, again, other = (bytes_of(tmp_path / name) for name in "abc")
    assert first.keys() == {"ratings.csv", "movies.csv", "truth.json"}
    assert first == again
    assert all(first[name] != other[name] for name in first)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "c"]


def test_chunks_do_not_depend_on_one_another(monkeypatch):
    monkeypatch.setattr(module, "CHUNK_USERS", 16)
    world = make_world(120, seed=0)
    short, long = (list(chunks(world, users, 25, seed=0)) for users in (16, 40))
    assert [len(part.lengths_U) for part in long] == [16, 16, 8]
    assert np.array_equal(short[0].items_T, long[0].items_T)
    assert not np.array_equal(long[0].items_T[:20], long[1].items_T[:20])


def test_csv_is_grouplens_layout(tmp_path: Path):
    synth(tmp_path / "out", users=50, items=120, mean_len=25, seed=0, fmt="csv")
    header, *lines = (tmp_path / "out" / "ratings.csv").read_text().splitlines()
    assert header == "userId,movieId,rating,timestamp"
    assert all(re.fullmatch(r"\d+,\d+,[0-5]\.[05],\d{9,10}", line) for line in lines)
    ratings = pd.read_csv(tmp_path / "out" / "ratings.csv", dtype={"rating": str})
    movies = pd.read_csv(tmp_path / "out" / "movies.csv")
    assert list(movies) == ["movieId", "title", "genres"]
    assert set(ratings["rating"]) <= {f"{half / 2}" for half in range(1, 11)}
    assert set(ratings["movieId"]) <= set(movies["movieId"])
    assert len(movies) == 120
    assert movies["title"].is_unique
    assert movies["title"].str.contains(", The (", regex=False).any()
    assert not ratings.duplicated(["userId", "movieId"]).any()
    assert ratings["userId"].is_monotonic_increasing
    assert ratings.groupby("userId")["timestamp"].apply(lambda times: times.is_monotonic_increasing).all()
    assert ratings.groupby("userId").size().min() >= 20


def test_truth_is_the_table_that_made_the_data(tmp_path: Path):
    summary = synth(tmp_path / "out", users=300, items=120, mean_len=30, seed=0, fmt="csv")
    truth = json.loads((tmp_path / "out" / "truth.json").read_text())
    ratings = pd.read_csv(tmp_path / "out" / "ratings.csv")
    assert truth["counts"] == summary["counts"] == {"users": 300, "ratings": len(ratings)}
    same_user = ratings["userId"].to_numpy()[1:] == ratings["userId"].to_numpy()[:-1]
    gaps = np.diff(ratings["timestamp"])
    movies = ratings["movieId"].to_numpy()
    hits = [
        movies[at + 1]
        in truth["successors"][str(movies[at])][int(gaps[at] >= truth["parameters"]["break_s"])]
        for at in np.flatnonzero(same_user)
    ]
    # Under FOLLOW where all successors are rated already, over it where a popularity draw is one by chance.
    assert 0.75 < np.mean(hits) < 0.92


def test_marginals(chunk):
    inner_T = np.ones(len(chunk.times_T), bool)
    inner_T[np.cumsum(chunk.lengths_U) - chunk.lengths_U] = False
    gaps = np.diff(chunk.times_T, prepend=0)[inner_T]
    assert gaps.min() == 0
    assert 0.48 < (gaps == 0).mean() < 0.52
    assert 0.33 < (gaps >= module.BREAK_S).mean() < 0.37
    assert np.array_equal(gaps >= module.BREAK_S, chunk.returned_T[inner_T])
    assert chunk.lengths_U.min() >= 20
    assert chunk.lengths_U.max() <= ITEMS // 2
    assert 55 < chunk.lengths_U.mean() < 62
    assert np.median(chunk.lengths_U) < 0.8 * chunk.lengths_U.mean()
    counts_V = np.sort(np.bincount(chunk.items_T, minlength=ITEMS))[::-1]
    assert counts_V[-1] >= 5  # the 5-core keeps everything
    assert 0.25 < counts_V[: ITEMS // 10].sum() / counts_V.sum() < 0.45
    assert 3.2 < chunk.ratings_T.mean() < 3.8
    assert 0.7 < chunk.ratings_T.std() < 1.1


def test_no_item_twice(chunk):
    assert all(len(np.unique(items)) == len(items) for items, _ in sequences(chunk))


def test_fashions_drift(chunk):
    year_T = (chunk.times_T - module.SMALL.first_time_s) // (365 * 86_400)

    def distance(one_T, other_T):
        shares = (np.bincount(chunk.items_T[mask], minlength=ITEMS) / mask.sum() for mask in (one_T, other_T))
        return 0.5 * np.abs(np.subtract(*shares)).sum()

    odd_user_T = np.repeat(np.arange(USERS) % 2 == 1, chunk.lengths_U)
    same_time = distance((year_T == 2) & odd_user_T, (year_T == 2) & ~odd_user_T)
    assert distance(year_T == 0, year_T == 5) > 1.3 * same_time


def test_order_and_gap_carry_the_signal_and_the_bag_does_not(world, chunk):
    users = sequences(chunk)
    popularity_V = np.bincount(np.concatenate([items[:-2] for items, _ in users]), minlength=ITEMS)
    last_VV, last_gap_2VV, together_VV = (
        np.zeros(shape) for shape in ((ITEMS,) * 2, (2, ITEMS, ITEMS), (ITEMS,) * 2)
    )
    for items, returned in users:
        items, returned = items[:-2], returned[:-2].astype(int)
        np.add.at(last_VV, (items[:-1], items[1:]), 1)
        np.add.at(last_gap_2VV, (returned[1:], items[:-1], items[1:]), 1)
        together_VV[np.ix_(items, items)] += 1
    together_VV /= np.sqrt(np.outer(popularity_V, popularity_V))
    tie_V = 1e-6 * popularity_V
    popular = ndcg10(lambda history, returned: popularity_V, users)
    ordered = ndcg10(lambda history, returned: last_VV[history[-1]] + tie_V, users)
    timed = ndcg10(lambda history, returned: last_gap_2VV[int(returned), history[-1]] + tie_V, users)
    bag = ndcg10(lambda history, returned: together_VV[history].sum(0), users)
    print(f"NDCG@10: popular {popular:.4f}, bag {bag:.4f}, last item {ordered:.4f}, with gap {timed:.4f}")
    assert ordered > 5 * popular
    assert timed > 1.1 * ordered
    assert bag < 1.5 * popular
    law = oracle(world, chunk)
    assert timed < law["ndcg@10_with_gap"]
    assert ordered < law["ndcg@10_without_gap"]
    assert timed > 0.9 * law["ndcg@10_with_gap"]


def test_the_law_is_a_distribution_over_unrated_items(world, chunk):
    history = chunk.items_T[:15]
    for returned in (False, True):
        law_V = next_item_law(world, world.fashion_QV[0], history, returned)
        assert law_V.sum() == pytest.approx(1)
        assert (law_V[history] == 0).all()
        assert set(np.argsort(-law_V)[:2]) <= set(world.successors_2VK[int(returned), history[-1]])


def test_successors_differ_within_and_between_the_two_sets(world):
    both_VK = np.concatenate([*world.successors_2VK, np.arange(ITEMS)[:, None]], axis=1)
    assert all(len(set(row)) == 2 * module.SUCCESSORS + 1 for row in both_VK.tolist())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"users": 0}, "--users 0"),
        ({"items": 99}, "--items 99"),
        ({"mean_len": 20}, "--mean-len 20"),
        ({"mean_len": 61, "items": 120}, "half of --items 120"),
    ],
)
def test_sizes_out_of_range_are_refused(tmp_path: Path, change, words):
    with pytest.raises(UsageError, match=words):
        synth(tmp_path / "out", **change)


def test_a_folder_with_content_is_refused_and_kept(tmp_path: Path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(UsageError, match="not an empty folder"):
        synth(tmp_path, users=30, items=120, mean_len=25, fmt="csv")
    assert bytes_of(tmp_path) == {"mine.txt": b"mine"}


def test_shards_are_a_prepared_folder_in_rated_order(tmp_path: Path):
    manifest_module = pytest.importorskip("ss4rec.data.prepare.memory") and pytest.importorskip(
        "ss4rec.data.prepared.manifest"
    )
    import pyarrow.parquet as pq

    arguments = ["--users", "300", "--items", "100", "--mean-len", "30"]
    out = tmp_path / "out"
    result = CliRunner().invoke(synth_command, ["--out", str(out), *arguments], catch_exceptions=False)
    assert "300 users" in result.output
    manifest = manifest_module.Manifest.load(out)
    PreparedFolder.open(out).verify()
    assert (manifest.users, manifest.items) == (300, 100)
    assert (out / "truth.json").is_file()
    ids = np.array([0, *pq.read_table(out / "items.parquet")["source_id"].to_pylist()])
    prepared = pq.read_table(PreparedFolder.open(out).shard_paths[0])["items"][0].as_py()
    world = make_world(100, 0)
    part = next(chunks(world, 300, 30, 0))
    assert ids[prepared].tolist() == world.movie_ids_V[part.items_T[: part.lengths_U[0]]].tolist()


def test_json_output(tmp_path: Path):
    arguments = ["--users", "30", "--items", "120", "--mean-len", "25", "--format", "csv", "--json"]
    result = CliRunner().invoke(
        synth_command, ["--out", str(tmp_path / "x"), *arguments], catch_exceptions=False
    )
    answer = json.loads(result.output)
    assert answer["counts"]["users"] == 30
    assert set(answer["law"]) == {
        f"{m}@10_{g}" for m in ("ndcg", "hr") for g in ("with_gap", "without_gap")
    } | {"users"}
