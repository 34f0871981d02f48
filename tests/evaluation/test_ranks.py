"""Ranks against a naive count in Python, with many ties, seen items, doubles, and targets seen before."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ss4rec.errors import NonFiniteError
from ss4rec.evaluation.ranks import target_ranks
from ss4rec.model import item_scores
from ss4rec.model.item_scores import ItemScores


def naive_rank(scores, target, left_out=()):
    others = [j for j in range(1, len(scores)) if j != target and j not in left_out]
    return 1 + sum((scores[j] > scores[target]) + 0.5 * (scores[j] == scores[target]) for j in others)


@st.composite
def users(draw):
    items = draw(st.integers(2, 12))
    item = st.integers(1, items)
    score = st.sampled_from([-1e30, -1.0, 0.0, 0.5, 2.0, float("inf"), float("-inf")])
    user = st.tuples(
        st.lists(score, min_size=items + 1, max_size=items + 1), item, st.lists(item, max_size=15)
    )
    return draw(st.lists(user, min_size=1, max_size=5))


@settings(derandomize=True, deadline=None, max_examples=150)
@given(users(), st.sampled_from([1, 7, 1 << 24]))
def test_equals_a_naive_count(batch, chunk_scores):
    scores, targets, seen = zip(*batch, strict=True)
    offsets = torch.tensor([0, *map(len, seen)]).cumsum(0)
    flat = torch.tensor([item for items in seen for item in items], dtype=torch.int64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(item_scores, "CHUNK_SCORES", chunk_scores)
        kept, excluded = target_ranks(
            ItemScores.of_matrix(torch.tensor(scores), flat, offsets), torch.tensor(targets)
        )
    assert kept.tolist() == [naive_rank(s, t) for s, t in zip(scores, targets, strict=True)]
    assert excluded.tolist() == [naive_rank(*user) for user in batch]
    assert (excluded <= kept).all()


def one(scores, target, seen=()):
    seen_X = torch.tensor(seen, dtype=torch.int64)
    matrix = ItemScores.of_matrix(torch.tensor([scores]), seen_X, torch.tensor([0, len(seen)]))
    kept, excluded = target_ranks(matrix, torch.tensor([target]))
    return kept.item(), excluded.item()


def test_padding_never_counts():
    assert one([9.0, 1.0, 0.0], 1, [0]) == (1.0, 1.0)


def test_a_target_that_was_seen_stays_in_the_ranking():
    assert one([0.0, 3.0, 2.0, 1.0], 2, [2, 2, 1, 1]) == (2.0, 1.0)


def test_seen_items_that_tie_with_the_target_give_back_half_a_place():
    assert one([0.0, 1.0, 1.0, 1.0], 3, [1]) == (2.0, 1.5)


def test_half_precision_scores_do_not_lose_counts():
    scores_BV = torch.zeros(1, 5001, dtype=torch.bfloat16)
    nothing = torch.tensor([], dtype=torch.int64)
    kept, _ = target_ranks(ItemScores.of_matrix(scores_BV, nothing, torch.tensor([0, 0])), torch.tensor([17]))
    assert kept.item() == 2500.5


@pytest.mark.parametrize("column", [1, 2, 3])
def test_nan_is_refused_and_nan_in_padding_is_not(column):
    scores = [float("nan"), 0.0, 0.0, 0.0]
    assert one(scores, 1)[0] == 2.0
    scores[column] = float("nan")
    with pytest.raises(NonFiniteError, match="1 of 1 users are NaN"):
        one(scores, 1)
