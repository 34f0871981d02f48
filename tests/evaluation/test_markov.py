"""The Markov chain against a loop over events."""

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix

from ss4rec.config import DataConfig
from ss4rec.data.batches.source import LocalSource
from ss4rec.data.prepared.folder import PreparedFolder
from ss4rec.data.prepared.manifest import Manifest
from ss4rec.data.prepared.tables import read_shard
from ss4rec.evaluation.evaluator import rank_users, summarise
from ss4rec.evaluation.markov import MarkovChain
from ss4rec.evaluation.popularity import MostPopular, TrainingEvents


def test_counts_are_those_of_the_loop_and_no_held_out_event_is_in_them(prepared):
    manifest = Manifest.load(prepared)
    naive, events = np.zeros((manifest.items + 1,) * 2), np.zeros(manifest.items + 1)
    for path in PreparedFolder.open(prepared).shard_paths:
        for row in read_shard(path).to_pylist():
            training = row["items"][:-2]
            np.add.at(events, training, 1)
            for one, two in zip(training, training[1:], strict=False):
                naive[one, two] += 1
    chain = MarkovChain.count(PreparedFolder.open(prepared).shard_paths, manifest.items)
    assert np.array_equal(chain.counts_VV.toarray(), naive)
    np.testing.assert_allclose(chain.prior_V, 20 * events / events.sum())


def test_scores_are_probabilities_that_lean_on_popularity_where_nothing_was_counted(prepared):
    batch = next(
        LocalSource(prepared, DataConfig(max_len=5, overlap=1), batch_size=4, seed=0).eval_batches("test", 3)
    )
    counts = np.zeros((121, 121), int)
    counts[int(batch.items_T[batch.offsets_S1[1] - 1]), 7] = 5
    popularity = np.arange(121) * (np.arange(121) > 0)
    chain = MarkovChain(csr_matrix(counts), popularity, prior_count=5)
    scores = chain.scores(batch, target_time_known=True).matrix()
    share = popularity / popularity.sum()
    assert bool((scores[:, 0] == -torch.inf).all())
    torch.testing.assert_close(scores[:, 1:].sum(1), torch.ones(3, dtype=torch.float64))
    assert float(scores[0, 7]) == pytest.approx((5 + 5 * share[7]) / 10)
    assert float(scores[0, 8]) == pytest.approx(5 * share[8] / 10)


def test_it_beats_popularity_where_items_follow_each_other(prepared):
    manifest = Manifest.load(prepared)
    paths = PreparedFolder.open(prepared).shard_paths
    source = LocalSource(prepared, DataConfig(max_len=5, overlap=1), batch_size=4, seed=0)
    scorers = [
        MarkovChain.count(paths, manifest.items),
        MostPopular(TrainingEvents.read(paths, manifest.items).counts()),
    ]
    chain, popular = (
        summarise(rank_users(scorer, source.eval_batches("valid", 64)), (10,)).setting("kept", "unknown")
        for scorer in scorers
    )
    assert chain.metrics["NDCG@10"] > 2 * popular.metrics["NDCG@10"]
