"""What a model is given in both time settings, with a stand-in that records it."""

from dataclasses import replace

import pytest
import torch

from ss4rec.config import DataConfig, ModelConfig
from ss4rec.data.batches.source import LocalSource
from ss4rec.evaluation.scorers import ModelScorer
from ss4rec.model.ss4rec import SS4Rec

UNKNOWN_GAP_S = 77.0


def batch_of(prepared, target_time):
    source = LocalSource(
        prepared, DataConfig(max_len=10, overlap=2, target_time=target_time), batch_size=4, seed=0
    )
    return next(source.eval_batches("test", 6))


def scorer_of(target_time, num_items=200):
    torch.manual_seed(0)
    # Long steps, so that an untrained model hears a change of the last gap.
    config = ModelConfig(dim=8, time_states=4, relation_states=4, gap_map="log", init_std=1.0)
    return ModelScorer(SS4Rec(config, num_items), UNKNOWN_GAP_S, target_time)


def test_unknown_time_replaces_the_last_gap_of_each_user_and_nothing_else(prepared, monkeypatch):
    batch, scorer, given = batch_of(prepared, True), scorer_of(True), []
    encode = scorer.model.encode
    monkeypatch.setattr(
        scorer.model,
        "encode",
        lambda i, gaps_T, s, context: given.append((gaps_T, context)) or encode(i, gaps_T, s, context),
    )
    for target_time_known in (True, False):
        scorer.scores(batch, target_time_known=target_time_known)
    last_S = batch.offsets_S1[1:] - 1
    expected_T = batch.gaps_T.clone()
    expected_T[last_S] = UNKNOWN_GAP_S
    assert torch.equal(given[0][0], batch.gaps_T)
    assert torch.equal(given[1][0], expected_T)
    hours_T = batch.hours_T.clone()
    assert torch.equal(given[0][1].hours_T, hours_T)
    hours_T[last_S] = (batch.last_times_S + int(UNKNOWN_GAP_S)) // 3600
    assert torch.equal(given[1][1].hours_T, hours_T)
    assert torch.equal(batch.gaps_T[last_S], (batch.target_times_S - batch.last_times_S).float())


def test_unknown_time_hides_the_target_s_time(prepared):
    batch, scorer = batch_of(prepared, True), scorer_of(True)
    moved_T = batch.gaps_T.clone()
    moved_T[batch.offsets_S1[1:] - 1] += 1e6
    hours_T = batch.hours_T.clone()
    hours_T[batch.offsets_S1[1:] - 1] += 300
    moved = replace(batch, gaps_T=moved_T, hours_T=hours_T, target_times_S=batch.target_times_S + 1_000_000)
    for known in (False, True):
        found, after = (scorer.scores(b, target_time_known=known).matrix() for b in (batch, moved))
        assert torch.equal(found, after) != known


def test_a_model_without_target_time_scores_the_same_in_both_settings(prepared):
    batch, scorer = batch_of(prepared, False), scorer_of(False)
    assert not scorer.uses_target_time
    known, unknown = (scorer.scores(batch, target_time_known=known).matrix() for known in (True, False))
    assert torch.equal(known, unknown)


@pytest.mark.parametrize("target_time", [True, False])
def test_a_batch_scores_like_its_users_alone_and_without_dropout(prepared, target_time):
    source = LocalSource(
        prepared, DataConfig(max_len=10, overlap=2, target_time=target_time), batch_size=4, seed=0
    )
    scorer = scorer_of(target_time)
    together = scorer.scores(batch_of(prepared, target_time), target_time_known=True).matrix()
    alone = [
        scorer.scores(b, target_time_known=True).matrix()
        for b, _ in zip(source.eval_batches("test", 1), range(6), strict=False)
    ]
    torch.testing.assert_close(together, torch.cat(alone))
