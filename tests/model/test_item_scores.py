"""Scores in stretches of items against the whole matrix: ranks, the best items, memory, and float32 throughout."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ss4rec.evaluation.ranks import target_ranks
from ss4rec.model import item_scores
from ss4rec.model.item_scores import ItemScores, SeenItems, best_of


def whole_matrix(hidden, weight, seen, logit):
    """All scores by one product; the logit is added once to each item that was seen."""
    scores = (hidden @ weight.T).tolist()
    return [
        [s + logit * (item in held) for item, s in enumerate(row)]
        for row, held in zip(scores, seen, strict=True)
    ]


def naive_rank(scores, target, left_out):
    others = [j for j in range(1, len(scores)) if j != target and j not in left_out]
    return 1 + sum((scores[j] > scores[target]) + 0.5 * (scores[j] == scores[target]) for j in others)


@st.composite
def problems(draw):
    """Users and items with small whole numbers for coordinates: sums are exact in any order, and many scores tie."""
    users, items, dim = draw(st.integers(1, 5)), draw(st.integers(1, 40)), draw(st.integers(1, 3))
    item = st.integers(1, items)
    seen = draw(st.lists(st.lists(item, max_size=12), min_size=users, max_size=users))
    targets = draw(st.lists(item, min_size=users, max_size=users))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    hidden = torch.randint(-2, 3, (users, dim), generator=generator).float()
    weight = torch.randint(-2, 3, (items + 1, dim), generator=generator).float()
    return hidden, weight, seen, targets, draw(st.sampled_from([0.0, -3.0, 1.0]))


@settings(derandomize=True, deadline=None, max_examples=200)
@given(problems(), st.sampled_from([1, 7, 33, 1 << 24]), st.integers(1, 45))
def test_ranks_and_best_items_equal_those_of_the_whole_matrix(problem, chunk_scores, k):
    hidden, weight, seen, targets, logit = problem
    flat = torch.tensor([item for items in seen for item in items], dtype=torch.int64)
    pairs = SeenItems(flat, torch.tensor([0, *map(len, seen)]).cumsum(0), len(weight), "cpu")
    scores = ItemScores.of_products(hidden, weight, pairs, torch.tensor(logit))
    expected = whole_matrix(hidden, weight, seen, logit)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(item_scores, "CHUNK_SCORES", chunk_scores)
        kept, excluded = target_ranks(scores, torch.tensor(targets))
        best = {left_out: scores.top(k, exclude_seen=left_out) for left_out in (False, True)}
    assert kept.tolist() == [naive_rank(s, t, ()) for s, t in zip(expected, targets, strict=True)]
    assert excluded.tolist() == [naive_rank(*user) for user in zip(expected, targets, seen, strict=True)]
    for left_out, (values, items) in best.items():
        for row, (found, at) in enumerate(zip(values.tolist(), items.tolist(), strict=True)):
            allowed = [i for i in range(1, len(weight)) if not (left_out and i in seen[row])]
            right = sorted((expected[row][i] for i in allowed), reverse=True)[:k]
            assert found == right + [float("-inf")] * (len(found) - len(right))
            assert at[: len(right)] == sorted(allowed, key=lambda i: (-expected[row][i], i))[:k]
            assert len(set(at)) == len(at) == min(k, len(weight) - 1)
            own_V = np.array(
                [s if i in allowed else -np.inf for i, s in enumerate(expected[row])], np.float32
            )
            assert best_of(own_V, k)[0] == found
            assert best_of(own_V, k)[1][: len(right)] == at[: len(right)]


def test_random_scores_rank_as_in_float64():
    """Real numbers: the rank is that of float64 wherever no other score is within rounding of the target's."""
    generator = torch.Generator().manual_seed(1)
    hidden, weight = torch.randn(9, 64, generator=generator), torch.randn(5001, 64, generator=generator)
    targets = torch.randint(1, 5001, (9,), generator=generator)
    exact = hidden.double() @ weight.double().T
    own = exact.gather(1, targets[:, None])
    near = ((exact - own).abs() < 1e-4)[:, 1:].sum(1) == 1
    expected = 1 + (exact > own)[:, 1:].sum(1)
    pairs = SeenItems(torch.tensor([], dtype=torch.int64), torch.zeros(10, dtype=torch.int64), 5001, "cpu")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(item_scores, "CHUNK_SCORES", 9 * 640)
        with torch.autocast("cpu", torch.bfloat16):
            kept, _ = target_ranks(ItemScores.of_products(hidden, weight, pairs), targets)
    assert near.sum() >= 7
    assert kept[near].tolist() == expected[near].tolist()


def test_no_stretch_is_larger_than_the_bound(monkeypatch):
    monkeypatch.setattr(item_scores, "CHUNK_SCORES", 100)
    pairs = SeenItems(torch.tensor([1, 49]), torch.tensor([0, 1, 2, 2]), 50, "cpu")
    scores = ItemScores.of_products(torch.ones(3, 2), torch.ones(50, 2), pairs)
    chunks = list(scores.chunks())
    assert [first for first, _ in chunks] == [1, 34]
    assert [tuple(chunk.shape) for _, chunk in chunks] == [(3, 33), (3, 16)]
    assert not scores.is_one_chunk


@pytest.mark.parametrize("allowed", [True, False])
def test_products_never_use_tf32_and_leave_the_switch_as_it_was(monkeypatch, allowed):
    class Switch:
        allow_tf32 = allowed

    seen_states = []
    monkeypatch.setattr(torch.backends.cuda, "matmul", Switch)

    class Rows(torch.Tensor):
        @classmethod
        def __torch_function__(cls, function, types, args=(), kwargs=None):
            if "matmul" in function.__name__:
                seen_states.append(Switch.allow_tf32)
            return super().__torch_function__(function, types, args, kwargs)

    item_scores._full_product(torch.ones(2, 3).as_subclass(Rows), torch.ones(4, 3))
    assert seen_states == [False]
    assert Switch.allow_tf32 == allowed
