"""The recommender against the evaluation's own scores, and what it refuses."""

import numpy as np
import pytest
import torch

from ss4rec.config import DataConfig, ModelConfig
from ss4rec.data.batches.source import LocalSource
from ss4rec.data.prepared.folder import PreparedFolder
from ss4rec.data.prepared.manifest import Manifest
from ss4rec.data.prepared.tables import read_items, read_shard
from ss4rec.errors import UsageError
from ss4rec.evaluation.scorers import ModelScorer
from ss4rec.model.ss4rec import SS4Rec
from ss4rec.recommender import History, Recommender

DATA = {flag: DataConfig(max_len=10, overlap=2, target_time=flag) for flag in (True, False)}


def recommender_of(prepared, target_time=True):
    torch.manual_seed(0)
    manifest, items = Manifest.load(prepared), read_items(prepared)
    config = ModelConfig(dim=8, time_states=4, relation_states=4, gap_map="log", init_std=1.0)
    model = SS4Rec(config, manifest.items).eval()
    ids, titles = items["source_id"].to_pylist(), items["title"].to_pylist()
    return Recommender(model, DATA[target_time], manifest.median_gap_s, ids, titles)


@pytest.fixture(scope="module")
def recommender(prepared):
    return recommender_of(prepared)


@pytest.fixture(scope="module")
def users(prepared):
    """Histories of some users with the last event held out, and its time as the target's."""
    ids = np.array(read_items(prepared)["source_id"].to_pylist())
    rows = read_shard(PreparedFolder.open(prepared).shard_paths[0]).slice(0, 8).to_pylist()
    return [
        History(ids[np.array(r["items"][:-1]) - 1].tolist(), r["timestamps"][:-1], r["timestamps"][-1])
        for r in rows
    ]


@pytest.mark.parametrize("target_time", [True, False])
@pytest.mark.parametrize("known", [True, False])
def test_scores_equal_those_of_the_evaluation(prepared, users, target_time, known):
    recommender = recommender_of(prepared, target_time)
    source = LocalSource(prepared, DATA[target_time], batch_size=4, seed=0)
    scorer = ModelScorer(recommender.model, recommender.unknown_gap_s, target_time)
    batch = next(source.eval_batches("test", 8))
    expected_BV = scorer.scores(batch, target_time_known=known).matrix()[:, 1:]
    found = [recommender.scores(u.items, u.times, u.target_time if known else None) for u in users]
    np.testing.assert_allclose(np.stack(found), expected_BV.numpy(), rtol=1e-4, atol=1e-5)


def test_recommendations_are_the_best_unseen_items_in_order(recommender, users):
    for user, found in zip(users, recommender.recommend_many(users, k=7), strict=True):
        scores = dict(
            zip(
                recommender.item_ids,
                recommender.scores(user.items, user.times, user.target_time),
                strict=True,
            )
        )
        unseen = sorted((i for i in scores if i not in user.items), key=lambda i: -scores[i])
        assert [r.item for r in found] == unseen[:7]
        assert [r.score for r in found] == pytest.approx([scores[i] for i in unseen[:7]], rel=1e-4)
        assert [r.title for r in found] == [recommender.titles[recommender.index[r.item] - 1] for r in found]


def test_seen_items_can_stay_and_k_may_exceed_what_is_left(recommender, users):
    user, everything = users[0], len(recommender.item_ids)
    assert len(recommender.recommend(user.items, user.times, k=10**6)) == everything - len(set(user.items))
    assert len(recommender.recommend(user.items, user.times, k=10**6, exclude_seen=False)) == everything


def test_histories_may_come_in_any_order(recommender, users):
    events = sorted(zip(users[0].items, users[0].times, strict=True), key=lambda event: event[1])[:1]
    events += [(users[1].items[0], events[0][1] + 5), (users[1].items[1], events[0][1] + 9)]
    ordered, turned = (recommender.scores(*zip(*rows, strict=True)) for rows in (events, events[::-1]))
    assert np.array_equal(ordered, turned)


def test_unknown_items_are_listed_or_left_out(recommender, users):
    items, times = [*users[0].items, 10**9], [*users[0].times, users[0].times[-1] + 1]
    with pytest.raises(UsageError, match=r"does not know 1 items: \[1000000000\]"):
        recommender.scores(items, times)
    without = recommender.scores(users[0].items, users[0].times)
    assert np.array_equal(recommender.scores(items, times, ignore_unknown=True), without)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"items": [], "times": []}, "no known item"),
        ({"times": [1]}, "one time for each item"),
        ({"target_time": 5}, "before the last event"),
        ({"k": 0}, "k is 0"),
    ],
)
def test_what_cannot_be_answered_is_refused(recommender, users, change, message):
    with pytest.raises(UsageError, match=message):
        recommender.recommend(**{"items": users[0].items, "times": users[0].times} | change)
