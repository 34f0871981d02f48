"""Lists under filters, limits, MMR and calibration, against loops over one user at a time."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ss4rec.data.batches.batch import EvalBatch
from ss4rec.errors import NonFiniteError
from ss4rec.evaluation.lists import ItemFacts
from ss4rec.model import item_scores
from ss4rec.model.item_scores import ItemScores
from ss4rec.recommendations import lists as lists_module
from ss4rec.recommendations.filters import Filters, UserItems
from ss4rec.recommendations.lists import ListRules, best_lists
from ss4rec.recommendations.options import RecommendOptions
from ss4rec.recommendations.rerank import Limit


def batch_of(seen):
    """A batch of which lists look at users and at what was seen."""
    none = torch.zeros(len(seen), dtype=torch.int64)
    flat = torch.tensor([item for own in seen for item in own], dtype=torch.int64)
    offsets = torch.tensor([0, *map(len, seen)]).cumsum(0)
    names = ("items_T", "gaps_T", "hours_T", "ratings_T", "profiles_TF", "offsets_S1")
    names += ("last_S", "targets_S", "target_times_S", "last_times_S", "histories_S", "weights_S")
    rest = dict.fromkeys(names, none)
    return EvalBatch(**rest, users_S=torch.arange(len(seen)), seen_X=flat, seen_offsets_S1=offsets)


def naive(scores, k, left_out, features, most, gain):
    """One user's list, place by place."""
    found, counts = [], np.zeros(features.shape[1])
    while len(found) < k:
        may = [
            item
            for item in range(1, len(scores))
            if item not in left_out
            and item not in found
            and (most is None or not (features[item] * (counts >= most)).any())
        ]
        if not may:
            break
        best = max(may, key=lambda item: (gain(item, found), scores[item], -item))
        found.append(best)
        counts += features[best]
    return found


@st.composite
def problems(draw):
    users, items = draw(st.integers(1, 4)), draw(st.integers(1, 25))
    generator = np.random.default_rng(draw(st.integers(0, 2**31)))
    scores = generator.integers(-3, 4, (users, items + 1)).astype(np.float32)
    features = (generator.random((items + 1, 3)) < 0.4).astype(np.float64)
    features[0] = 0
    sets = st.lists(st.integers(1, items), max_size=8)
    seen, denied, allowed = ([draw(sets) for _ in range(users)] for _ in range(3))
    has_allowed = draw(st.lists(st.booleans(), min_size=users, max_size=users))
    candidates = np.append(False, generator.random(items) < 0.8)
    return scores, features, seen, denied, allowed, has_allowed, candidates


def pairs(owners, lists):
    flat = [(user, item) for user, own in zip(owners, lists, strict=True) for item in own or [0]]
    users, items = (np.array([pair[place] for pair in flat], np.int64) for place in (0, 1))
    return UserItems.of_pairs(users, items)


@settings(derandomize=True, deadline=None, max_examples=150)
@given(problems(), st.integers(1, 12), st.sampled_from([None, 1, 2]), st.sampled_from([1, 9, 1 << 24]))
def test_filters_and_limits_equal_a_loop(problem, k, most, chunk):
    scores, features, seen, denied, allowed, has_allowed, candidates = problem
    users = np.flatnonzero(has_allowed)
    filters = Filters(candidates, pairs(users, [allowed[u] for u in users]), pairs(range(len(seen)), denied))
    limits = () if most is None else (Limit(torch.from_numpy(features), most),)
    rules = ListRules(RecommendOptions(k=k, pool=1), filters, limits)
    batch = batch_of(seen)
    given_scores = ItemScores.of_matrix(torch.from_numpy(scores), batch.seen_X, batch.seen_offsets_S1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(item_scores, "CHUNK_SCORES", chunk)
        items_BK, best_BK = best_lists(given_scores, batch, rules)
    everything = set(range(1, scores.shape[1]))
    for user, (items, best) in enumerate(zip(items_BK.tolist(), best_BK.tolist(), strict=True)):
        left_out = {*seen[user], *denied[user], *(everything - set(np.flatnonzero(candidates)))}
        if has_allowed[user]:
            left_out |= everything - set(allowed[user])
        own = scores[user]
        right = naive(
            own, min(k, len(everything)), left_out, features, most, lambda item, _, own=own: own[item]
        )
        assert [item for item in items if item] == right
        assert best[: len(right)] == [own[item] for item in right]
        assert items[len(right) :] == [0] * (len(items) - len(right))


def unit(scores, pool):
    low, high = min(scores[pool]), max(scores[pool])
    return {item: (scores[item] - low) / max(high - low, 1e-300) for item in pool}


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("goal", ["mmr", "calibrated"])
def test_re_ranking_equals_a_loop(goal, weight):
    generator = np.random.default_rng(3)
    users, items, k, size = 5, 40, 8, 15
    scores = generator.normal(size=(users, items + 1)).astype(np.float32)
    rows = generator.normal(size=(items + 1, 6)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    features = (generator.random((items + 1, 4)) < 0.5).astype(float)
    features[0] = 0
    none = torch.zeros(items + 1, dtype=torch.int64)
    shares = ItemFacts(none, none, 1, torch.from_numpy(features)).shares()
    seen = [generator.integers(1, items + 1, 6).tolist() for _ in range(users)]
    options = RecommendOptions(k=k, pool=size, rerank=goal, weight=weight)
    rules = ListRules(options, Filters(), shares_VG=shares, rows_VD=torch.from_numpy(rows))
    batch = batch_of(seen)
    matrix = ItemScores.of_matrix(torch.from_numpy(scores), batch.seen_X, batch.seen_offsets_S1)
    found, best = best_lists(matrix, batch, rules)
    for user in range(users):
        pool = sorted(set(range(1, items + 1)) - set(seen[user]), key=lambda i: -scores[user, i])[:size]
        relevance, share = unit(scores[user], pool), shares.numpy()
        history = sum(share[item] for item in seen[user])
        history = history / history.sum()

        def gain(item, chosen, relevance=relevance, share=share, history=history):
            if goal == "mmr":
                near = max((float(rows[item] @ rows[other]) for other in chosen), default=None)
                return relevance[item] if near is None else (1 - weight) * relevance[item] - weight * near
            together = sum((share[other] for other in [*chosen, item]), np.zeros(4))
            mixed = 0.99 * together / max(together.sum(), 1e-300) + 0.01 * history
            away = sum(p * np.log(p / q) for p, q in zip(history, mixed, strict=True) if p > 0)
            return (1 - weight) * relevance[item] - weight * away

        left_out = set(range(1, items + 1)) - set(pool)
        assert found[user].tolist() == naive(scores[user], k, left_out, features, None, gain)
        assert best[user].tolist() == [scores[user, item] for item in found[user].tolist()]


def test_weight_0_is_the_score_alone_and_limits_hold_with_re_ranking():
    generator = np.random.default_rng(5)
    scores = torch.from_numpy(generator.normal(size=(3, 61)).astype(np.float32))
    features = torch.nn.functional.one_hot(torch.arange(61) % 5).double()
    rows = torch.nn.functional.normalize(torch.randn(61, 4, generator=torch.Generator().manual_seed(1)))
    batch = batch_of([[1], [2], []])
    matrix = ItemScores.of_matrix(scores, batch.seen_X, batch.seen_offsets_S1)
    plain, _ = best_lists(matrix, batch, ListRules(RecommendOptions(k=10), Filters()))
    options = RecommendOptions(k=10, rerank="mmr", pool=12)
    same, _ = best_lists(matrix, batch, ListRules(options, Filters(), rows_VD=rows))
    assert torch.equal(plain, same)
    strict = RecommendOptions(k=10, rerank="mmr", weight=0.5, pool=10)
    limited, _ = best_lists(matrix, batch, ListRules(strict, Filters(), (Limit(features, 2),), rows_VD=rows))
    assert (limited > 0).all()
    assert torch.equal(features[limited].sum(1), torch.full((3, 5), 2.0, dtype=torch.float64))


def test_scores_that_are_no_numbers_are_refused():
    batch = batch_of([[1]])
    matrix = ItemScores.of_matrix(torch.full((1, 5), torch.nan), batch.seen_X, batch.seen_offsets_S1)
    for options in (RecommendOptions(k=3), RecommendOptions(k=3, rerank="mmr")):
        with pytest.raises(NonFiniteError, match="NaN"):
            best_lists(matrix, batch, ListRules(options, Filters(), rows_VD=torch.ones(5, 2)))


def test_pools_are_worked_on_in_stretches(monkeypatch):
    """A pool of rows of features never has more numbers than a stretch of scores."""
    sizes = []
    make = lists_module._made

    def seen_sizes(best_BM, *rest):
        sizes.append(len(best_BM))
        return make(best_BM, *rest)

    monkeypatch.setattr(lists_module, "_made", seen_sizes)
    monkeypatch.setattr(item_scores, "CHUNK_SCORES", 100)
    batch = batch_of([[]] * 12)
    matrix = ItemScores.of_matrix(torch.rand(12, 30), batch.seen_X, batch.seen_offsets_S1)
    options = RecommendOptions(k=3, pool=10, rerank="mmr", weight=0.5)
    best_lists(matrix, batch, ListRules(options, Filters(), rows_VD=torch.rand(30, 4)))
    assert sizes == [2] * 6
