"""Baselines of items: item to item by cosine, and each user's own items, against plain Python."""

import math

import numpy as np
import pytest
import torch

from ss4rec.config import DataConfig
from ss4rec.data.batches.source import LocalSource
from ss4rec.data.prepared.folder import PreparedFolder
from ss4rec.data.prepared.manifest import Manifest
from ss4rec.data.prepared.tables import read_shard
from ss4rec.evaluation.baselines import baselines
from ss4rec.evaluation.evaluator import rank_users, summarise
from ss4rec.evaluation.item_cosine import ItemCosine
from ss4rec.evaluation.own_items import OwnMostFrequent, OwnMostRecent
from ss4rec.evaluation.training import TrainingPart, training_parts
from ss4rec.protocol.plan import make_plan
from ss4rec.protocol.settings import Protocol

CUT = Protocol(name="cut", kind="global_time", cut=0.7, targets="successive", validation="last_train_item")


class Batch:
    """What these baselines read of a batch."""

    def __init__(self, histories):
        self.seen_X = torch.tensor([item for history in histories for item in history])
        self.seen_offsets_S1 = torch.tensor([0, *np.cumsum([len(history) for history in histories])])


def part_of(users):
    items = np.array([item for user in users for item in user], np.int32)
    return TrainingPart(np.cumsum([0, *map(len, users)]), items, np.zeros(len(items), np.int64))


USERS = [[1, 2, 2, 3], [2, 3], [4], [3, 1, 5], [2, 5, 5]]


def naive_cosine(one, two):
    has = [set(user) for user in USERS]
    counts = [sum(item in user for user in has) for item in (one, two)]
    both = sum(one in user and two in user for user in has)
    return both / math.sqrt(counts[0] * counts[1]) if both and one != two else 0.0


@pytest.mark.parametrize("neighbours", [None, 2])
def test_cosines_are_those_of_the_loop(neighbours):
    scorer = ItemCosine.count([part_of(USERS[:2]), part_of(USERS[2:])], 6, neighbours)
    expected = np.array([[naive_cosine(i, j) if i and j else 0.0 for j in range(7)] for i in range(7)])
    if neighbours:
        for row in expected:
            row[sorted(range(7), key=lambda j: (-row[j], j))[neighbours:]] = 0
    np.testing.assert_allclose(scorer.similar_VV.toarray(), expected, atol=1e-15)
    histories = [[1, 5, 1], [4]]
    scores = scorer.scores(Batch(histories), target_time_known=False).matrix()[:, 1:]
    summed = [expected[sorted(set(history)), 1:].sum(0) for history in histories]
    np.testing.assert_allclose(scores.numpy(), summed, atol=1e-15)


def test_own_items_come_first_and_popularity_decides_among_others():
    counts, histories = np.array([0, 9, 4, 2, 7, 0]), [[3, 2, 3, 5], [5, 2, 5, 2]]
    orders = []
    for scorer in (OwnMostRecent(counts), OwnMostFrequent(counts)):
        scores = scorer.scores(Batch(histories), target_time_known=True).matrix().tolist()
        orders.append([sorted(range(1, 6), key=row.__getitem__, reverse=True) for row in scores])
    recent, frequent = orders
    assert recent == [[5, 3, 2, 1, 4], [2, 5, 1, 4, 3]]
    assert frequent == [[3, 5, 2, 1, 4], [2, 5, 1, 4, 3]]


@pytest.mark.parametrize("protocol", [Protocol(), CUT], ids=["leave one out", "cut in time"])
def test_all_baselines_count_nothing_but_training(prepared, protocol):
    plan, manifest = make_plan(protocol, prepared), Manifest.load(prepared)
    parts = list(training_parts(PreparedFolder.open(prepared).shard_paths, manifest.items, plan))
    assert sum(len(part.items_E) for part in parts) == plan.facts["fit_rows"]
    if plan.cut_s is not None:
        assert max(int(part.times_E.max()) for part in parts) <= plan.cut_s
    source = LocalSource(prepared, DataConfig(max_len=10, overlap=2), batch_size=4, seed=0, plan=plan)
    found = {}
    for name, scorer in baselines(prepared, plan).items():
        ranks = rank_users(scorer, source.eval_batches("test", 64))
        assert ranks.num_rows == plan.facts["test_targets"]
        found[name] = (
            summarise(ranks, (10,), protocol=protocol).setting("excluded", "known").metrics["NDCG@10"]
        )
    assert {
        "most popular",
        "popular in 30 days",
        "Markov chain",
        "item to item",
        "own frequent",
        "own recent",
    } <= set(found)
    assert ("popular now, 7 days" in found) == (plan.cut_s is not None)
    assert found["Markov chain"] == max(found.values())


def test_popularity_now_counts_what_happened_before_the_moment(prepared):
    plan = make_plan(CUT, prepared)
    events = [
        (time, int(plan.rules.index_V[item]))
        for path in PreparedFolder.open(prepared).shard_paths
        for row in read_shard(path).to_pylist()
        for item, time in zip(row["items"], row["timestamps"], strict=True)
    ]
    source = LocalSource(prepared, DataConfig(max_len=10, overlap=2), batch_size=4, seed=0, plan=plan)
    batch = next(source.eval_batches("test", 8))
    both = baselines(prepared, plan)
    scores = both["popular now, 7 days"].scores(batch, target_time_known=True).matrix()
    for row, moment in enumerate(batch.target_times_S.tolist()):
        expected = np.zeros(plan.num_items + 1)
        for time, item in events:
            expected[item] += item > 0 and moment - 7 * 86_400 <= time < moment
        assert scores[row, 1:].tolist() == expected[1:].tolist()
