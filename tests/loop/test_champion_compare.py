"""Champion against challenger: the same events, who is better, and who may serve."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch

from drift.model.rank import rank_shard
from ss4rec.config import override
from ss4rec.data.prepare.engine import prepare
from ss4rec.data.prepared.folder import PreparedFolder
from ss4rec.data.prepared.tables import read_shard
from ss4rec.data.split import split
from ss4rec.errors import UsageError
from ss4rec.loop.compare import Gate, compare_on_gate, gate_users, judge, paired, rank_gate
from ss4rec.loop.settings import CompareConfig
from ss4rec.presets import preset
from ss4rec.recommender import load
from ss4rec.runs.load import load_model
from ss4rec.train.worker import train_alone

CONFIG = CompareConfig(users=60, targets_per_user=3)
RUN = override(
    preset("debug"), {"tracking.wandb": "disabled", "train.epochs": 1, "data.max_len": 12, "data.overlap": 4}
)


def events(gain=0.0, users=600, per_user=10, seed=0, known_items=0.9, loss_on=None):
    """Ranks of a champion, and of a challenger that turns a share of its misses into hits."""
    rng = np.random.default_rng(seed)
    size = users * per_user
    frame = pd.DataFrame(
        {
            "user": np.repeat(np.arange(users), per_user),
            "first": np.where(rng.random(size) < 0.2, 1.0, 100.0),
            "known_item": rng.random(size) < known_items,
            "known_user": np.repeat(rng.random(users) < 0.7, per_user),
        }
    )
    again = np.where(rng.random(size) < 0.2, 1.0, 100.0)  # another model that is as good
    frame["second"] = np.where(rng.random(size) < 0.7, frame["first"], again)
    frame.loc[rng.random(size) < gain, "second"] = 1.0
    if loss_on is not None:
        frame.loc[~frame[loss_on], "second"] = 100.0
    return frame


def test_a_better_one_is_promoted_and_says_by_how_much():
    found = judge(events(gain=0.03), CompareConfig())
    assert found.promote
    overall = found.rows[0]
    assert (overall.users, overall.events) == (600, 6000)
    frame = events(gain=0.03)
    expected = [
        frame.assign(hit=frame[side] == 1).groupby("user")["hit"].mean().mean()
        for side in ("first", "second")
    ]
    assert [overall.champion, overall.challenger] == pytest.approx(expected)
    assert f"NDCG@10 {overall.challenger:.4f} against the champion's {overall.champion:.4f}" in found.reason
    assert "No loss was found for known items, known users and new users." in found.reason


@pytest.mark.parametrize(
    ("frame", "words"),
    [
        (events(), "was not shown to be better"),
        (events(users=40, gain=0.5), "Only 40 users have events to compare on, 50 are asked for"),
        (events(gain=0.3, loss_on="known_user"), "but worse for new users"),
        (events(gain=0.9, known_items=0.5, loss_on="known_user"), "but worse for new users"),
    ],
)
def test_the_champion_stays(frame, words):
    found = judge(frame, CompareConfig())
    assert not found.promote
    assert words in found.reason
    assert found.reason.endswith("The champion stays.")


def test_a_worse_one_and_its_mirror():
    frame = events(gain=0.05)
    mirrored = frame.rename(columns={"first": "second", "second": "first"})
    assert judge(frame, CompareConfig()).promote
    worse = judge(mirrored, CompareConfig())
    assert not worse.promote
    assert worse.rows[0].p > 0.99


def test_ranks_are_joined_event_by_event():
    columns = ("user", "event_s", "number", "rank", "unseen", "known")
    first = [(1, 10, 0, 2.0, False, True), (1, 10, 1, 5.0, False, True), (2, 11, 0, np.inf, True, False)]
    second = [(1, 10, 0, 3.0, False, True), (2, 11, 0, 1.0, False, False), (3, 12, 0, 4.0, False, False)]
    tables = [
        pa.table({name: [row[n] for row in rows] for n, name in enumerate(columns)})
        for rows in (first, second)
    ]
    found = paired(*tables).to_dict("records")
    assert [(row["user"], row["first"], row["second"]) for row in found] == [
        (1, 2.0, 3.0), (1, 5.0, np.inf), (2, np.inf, 1.0), (3, np.inf, 4.0),
    ]  # fmt: skip
    assert [row["known_item"] for row in found] == [True, True, False, False]
    assert [row["known_user"] for row in found] == [True, True, False, False]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Two cuts of one timeline with a run on each."""
    base = tmp_path_factory.mktemp("gate")
    rng = np.random.default_rng(4)
    lines = ["userId,movieId,rating,timestamp"]
    for user in range(120):
        count = int(rng.integers(8, 40))
        # Some users are there all the time, some come late; later items are others.
        times = np.sort(rng.integers(17_000 * (user % 4), 60_000, count)) * 10 + user % 10
        items = rng.integers(0, 60, count) + (times > 350_000) * rng.integers(0, 30, count)
        lines += [f"{user},{item},4.0,{time + 10**9}" for item, time in zip(items, times, strict=True)]
    (base / "csv").mkdir()
    (base / "csv" / "ratings.csv").write_text("\n".join(lines) + "\n")
    (base / "csv" / "movies.csv").write_text("movieId,title,genres\n1,A (1990),Drama\n")
    prepare(base / "csv", base / "whole", k_core=0)
    folder = PreparedFolder.open(base / "whole")
    times = np.concatenate(
        [
            folder.read_shard(n)["timestamps"].combine_chunks().values.to_numpy()
            for n in range(len(folder.shard_paths))
        ]
    )
    cuts = [int(np.quantile(times, share)) for share in (0.5, 0.8)]
    for name, cut_s in zip(("early", "late"), cuts, strict=True):
        split(base / "whole", base / name, cut_s, k_core=2)
        train_alone(RUN, base / name / "past", base / f"run-{name}", torch.device("cpu"))
    return base, Gate(cuts[1] + 1, folder.manifest.last_time_s + 1)


def test_a_gate_is_ranked_as_the_recommender_ranks(world):
    base, gate = world
    timeline = PreparedFolder.open(base / "late" / "timeline")
    users = gate_users(timeline, gate, CONFIG)
    assert 20 < len(users) <= 60
    assert users.tolist() == sorted(set(users.tolist()))
    ranks = rank_gate(base / "run-early", timeline, gate, users, CONFIG, gate.start_s).to_pandas()
    assert ranks.groupby("user").size().max() == 3
    assert ranks["event_s"].between(gate.start_s, gate.end_s - 1).all()
    known = load(base / "run-early")
    ids = [None, *timeline.items["source_id"].to_pylist()]
    everyone = {
        row["user"]: row
        for n in range(len(timeline.shard_paths))
        for row in timeline.read_shard(n).to_pylist()
    }
    checked = 0
    for _, row in ranks[~ranks["unseen"]].groupby("user").head(1).iterrows():
        one = everyone[row["user"]]
        if one["timestamps"].count(row["event_s"]) > 1:
            continue  # events of one second cannot be told apart by their time
        place = one["timestamps"].index(row["event_s"])
        past = [(ids[i], t) for i, t in zip(one["items"][:place], one["timestamps"][:place], strict=True)]
        options = {"target_time": int(row["event_s"]), "exclude_seen": False, "ignore_unknown": True}
        found = known.recommend([item for item, _ in past], [t for _, t in past], 10**6, **options)
        target = ids[one["items"][place]]
        seen = {item for item, _ in past} - {target}
        order = [best.item for best in found if best.item not in seen]
        assert order.index(target) + 1 == pytest.approx(row["rank"], abs=0.5)
        checked += 1
    assert checked > 3


def test_both_models_rank_the_same_events(world):
    base, gate = world
    timeline = PreparedFolder.open(base / "late" / "timeline")
    found = compare_on_gate(base / "run-early", base / "run-late", timeline, gate, CONFIG)
    assert [row.group for row in found.rows] == ["all", "known items", "known users", "new users"]
    overall, items, known, new = found.rows
    assert known.users + new.users == overall.users
    assert items.events < overall.events
    same = compare_on_gate(base / "run-early", base / "run-early", timeline, gate, CONFIG)
    assert not same.promote
    assert all(row.champion == row.challenger for row in same.rows)


def test_a_model_that_has_seen_the_gate_is_refused(world):
    base, gate = world
    timeline = PreparedFolder.open(base / "late" / "timeline")
    with pytest.raises(UsageError, match="it would be compared on what it has learned"):
        compare_on_gate(
            base / "run-early", base / "run-late", timeline, Gate(gate.start_s - 9, gate.end_s), CONFIG
        )
    with pytest.raises(UsageError, match="nothing to compare on"):
        gate_users(timeline, Gate(gate.end_s + 5, gate.end_s + 6), CONFIG)


def test_ranks_are_the_same_in_any_number_of_parts(world):
    """Workers take parts of a shard's batches; what they find, in order, is what one process finds."""
    base, gate = world
    timeline = PreparedFolder.open(base / "late" / "timeline")
    users = gate_users(timeline, gate, CONFIG)

    def in_parts(shards, run, task):
        model, _ = load_model(run)
        every = [(read_shard(path), (number, 3)) for path in shards for number in range(3)]
        found = [
            table for shard, part in every if (table := rank_shard(model, shard, task, part)) is not None
        ]
        assert len(found) > 1
        return pa.concat_tables(found)

    alone, shared = (
        rank_gate(base / "run-early", timeline, gate, users, CONFIG, gate.start_s, rank=rank)
        for rank in (None, in_parts)
    )
    assert alone.equals(shared)
