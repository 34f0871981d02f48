"""MovieLens' marginals, planted drift, and several processes."""

import json
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner

from ss4rec.cli.synth import synth_command
from ss4rec.data.synth import generate as module
from ss4rec.data.synth.generate import make_chunk, synth
from ss4rec.data.synth.settings import LIKE, ML_32M, SMALL, Drift, parse_drift
from ss4rec.data.synth.world import QUARTER_S, make_world, oracle
from ss4rec.errors import UsageError

FROM_S = SMALL.first_time_s + 3 * 365 * 86_400
ITEMS, USERS = 500, 2000


def gaps_of(chunk):
    """Gaps within users, and the user of each."""
    users_T = np.repeat(np.arange(len(chunk.lengths_U)), chunk.lengths_U)
    same = users_T[1:] == users_T[:-1]
    return np.diff(chunk.times_T)[same], users_T[1:][same]


def test_ml_32m_has_the_marginals_of_the_archive():
    # Measured on ml-32m-slice, 625 users of ML-32M; users and items as in the whole release.
    like = LIKE["ml-32m"]
    assert like.users * like.mean_len == pytest.approx(32_000_204, rel=0.01)
    world = make_world(20_000, 0, like.settings)
    chunk = make_chunk(world, 1500, like.mean_len, 0, 0)
    gaps, users = gaps_of(chunk)
    assert np.median(chunk.lengths_U) == pytest.approx(77, rel=0.1)
    assert chunk.lengths_U.min() >= 20
    for low, high, share in ((0, 1, 0.144), (1, 30, 0.590), (30, 600, 0.202), (600, 1e10, 0.064)):
        assert ((gaps >= low) & (gaps < high)).mean() == pytest.approx(share, rel=0.1), low
    away = np.bincount(users[gaps >= 3600], minlength=1500)
    assert (away == 0).mean() == pytest.approx(0.536, abs=0.05)
    assert 1 + away.mean() == pytest.approx(9.9, rel=0.25)
    assert chunk.times_T.min() >= ML_32M.first_time_s
    assert chunk.times_T.max() <= ML_32M.end_s
    years, counts = np.unique(chunk.times_T // 31_557_600 + 1970, return_counts=True)
    assert years.tolist() == list(range(1996, 2024))
    share = dict(zip(years.tolist(), counts / counts.sum(), strict=True))
    assert share[1998] < share[1996] / 2  # the volume has MovieLens' hollow of 1998 and its rise of 2015
    assert share[2013] < share[2015] / 1.5


def drifted(*drift):
    world = make_world(ITEMS, 0, SMALL, drift)
    return world, make_chunk(world, USERS, 60, 0, 0)


def share_of_hits(world, chunk, table, later):
    """How often an event is among the successors of the one before, by one of the two tables."""
    users_T = np.repeat(np.arange(USERS), chunk.lengths_U)
    at = np.flatnonzero(users_T[1:] == users_T[:-1]) + 1
    at = at[(chunk.times_T[at] >= FROM_S) == later]
    rows = world.successors_2VK[2 * table + chunk.returned_T[at].astype(int), chunk.items_T[at - 1]]
    return (rows == chunk.items_T[at][:, None]).any(1).mean()


def test_planted_transitions_come_from_their_day_in_their_size():
    world, chunk = drifted(Drift("transitions", FROM_S, 0.4))
    assert share_of_hits(world, chunk, 0, later=False) > 0.8
    assert share_of_hits(world, chunk, 1, later=False) < 0.1
    assert share_of_hits(world, chunk, 0, later=True) == pytest.approx(0.6 * 0.83, abs=0.06)
    assert share_of_hits(world, chunk, 1, later=True) == pytest.approx(0.4 * 0.83, abs=0.06)
    law = oracle(world, chunk)  # the law knows of the drift, so it still explains the data
    assert law["ndcg@10_with_gap"] > 0.8 * oracle(*drifted())["ndcg@10_with_gap"]


def test_planted_popularity_moves_what_follows_nothing():
    counts = {}
    for name, drift in (("none", ()), ("moved", (Drift("popularity", FROM_S, 1.0),))):
        world, chunk = drifted(*drift)
        rows = world.successors_2VK[chunk.returned_T[1:].astype(int), chunk.items_T[:-1]]
        follows_T = np.concatenate([[False], (rows == chunk.items_T[1:][:, None]).any(1)])
        later_T = chunk.times_T >= FROM_S
        for when, mask in (("before", ~later_T), ("after", later_T)):
            items = chunk.items_T[mask & ~follows_T]
            counts[name, when] = np.bincount(items, minlength=ITEMS) / len(items)

    def distance(when):
        return 0.5 * np.abs(counts["none", when] - counts["moved", when]).sum()

    assert distance("before") < 0.1
    assert distance("after") > 2.5 * distance("before")


def test_planted_pace_stretches_time_from_its_day():
    (_, plain), (_, slow) = drifted(), drifted(Drift("pace", FROM_S, 3.0))
    before_T = plain.times_T < FROM_S
    assert np.array_equal(plain.times_T[before_T], slow.times_T[before_T])
    assert np.array_equal(3 * (plain.times_T[~before_T] - FROM_S), slow.times_T[~before_T] - FROM_S)
    gaps, _ = gaps_of(slow)
    inner = np.ones(len(slow.times_T), bool)
    inner[np.cumsum(slow.lengths_U) - slow.lengths_U] = False
    assert np.array_equal(gaps >= module.BREAK_S, slow.returned_T[inner])


def test_planted_rating_is_added_from_its_day():
    (_, plain), (_, higher) = drifted(), drifted(Drift("rating", FROM_S, -0.5))
    late_T = plain.times_T >= FROM_S
    np.testing.assert_array_equal(plain.ratings_T[~late_T], higher.ratings_T[~late_T])
    assert (higher.ratings_T - plain.ratings_T)[late_T].mean() == pytest.approx(-0.5, abs=0.03)


def test_ratings_wander_by_quarters_and_nothing_else_does():
    """An AR(1) path with the deviation that was asked for, which the ratings of each quarter follow."""
    still, moving = (make_world(ITEMS, 0, replace(SMALL, wander=wander)) for wander in (0.0, 0.3))
    assert still.wander_Q is None
    long_Q = make_world(100, 1, replace(SMALL, wander=0.3, span_s=4000 * QUARTER_S)).wander_Q
    assert long_Q.std() == pytest.approx(0.3, rel=0.1)
    assert np.corrcoef(long_Q[1:], long_Q[:-1])[0, 1] == pytest.approx(0.8, abs=0.05)
    plain, wandered = (make_chunk(world, USERS, 60, 0, 0) for world in (still, moving))
    np.testing.assert_array_equal(plain.items_T, wandered.items_T)
    quarter_T = (plain.times_T - SMALL.first_time_s) // QUARTER_S
    for quarter in (3, 12, 20):
        moved = (wandered.ratings_T - plain.ratings_T)[quarter_T == quarter].mean()
        assert moved == pytest.approx(moving.wander_Q[quarter], abs=0.06)


def test_drift_is_in_the_truth(tmp_path):
    arguments = ["--users", "40", "--items", "120", "--mean-len", "25", "--format", "csv", "--json"]
    arguments += ["--drift", "popularity=0.3@2018-01-01", "--drift", "pace=2@2019-06-01"]
    CliRunner().invoke(synth_command, ["--out", str(tmp_path / "x"), *arguments], catch_exceptions=False)
    truth = json.loads((tmp_path / "x/truth.json").read_text())
    assert truth["drift"] == [
        {"signal": "popularity", "from_s": 1514764800, "size": 0.3},
        {"signal": "pace", "from_s": 1559347200, "size": 2.0},
    ]


@pytest.mark.parametrize(
    "text",
    ["taste=1@2018-01-01", "pace=2", "popularity=2@2018-01-01", "pace=2@2018-31-01", "rating=0@2018-01-01"],
)
def test_wrong_drift_is_refused(text):
    with pytest.raises(UsageError, match="--drift"):
        parse_drift(text)


def test_one_signal_twice_is_refused(tmp_path):
    twice = [Drift("pace", FROM_S, 2.0), Drift("pace", FROM_S + 1, 2.0)]
    with pytest.raises(UsageError, match="once"):
        synth(tmp_path / "x", users=30, items=120, mean_len=25, drift=twice)


def test_processes_change_no_byte(tmp_path):
    sizes = {"users": 9000, "items": 100, "mean_len": 22}
    synth(tmp_path / "one", **sizes, fmt="csv", processes=1)
    synth(tmp_path / "two", **sizes, fmt="csv", processes=2)
    for name in ("ratings.csv", "movies.csv", "truth.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
