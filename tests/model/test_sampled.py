"""Sampled softmax against the full one, and its samplers against their law."""

import math

import pytest
import torch
import torch.nn.functional as F

from ss4rec.config import LossConfig, ModelConfig
from ss4rec.errors import ConfigError
from ss4rec.model.sampled import NegativeSampler, sampled_softmax
from ss4rec.model.ss4rec import SS4Rec
from ss4rec.train.objective import Objective

ITEMS = 11


def draw():
    torch.manual_seed(0)
    hidden = torch.randn(23, 6, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(ITEMS + 1, 6, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(0, ITEMS + 1, (23,))
    return hidden, weight, targets


def full(hidden, weight, targets):
    kept = targets > 0
    return F.cross_entropy(hidden[kept] @ weight[1:].T, targets[kept] - 1, reduction="sum")


def test_every_item_drawn_once_is_the_full_softmax_with_its_gradients():
    hidden, weight, targets = draw()
    every = torch.arange(1, ITEMS + 1)
    log_q = torch.full((ITEMS,), -math.log(ITEMS), dtype=torch.float64)
    total = sampled_softmax(hidden, weight, targets, every, log_q)
    expected = full(hidden, weight, targets)
    torch.testing.assert_close(total, expected)
    got, wanted = (torch.autograd.grad(value, (hidden, weight)) for value in (total, expected))
    torch.testing.assert_close(got, wanted)


@pytest.mark.parametrize("popular", [False, True])
def test_many_samples_come_near_the_full_softmax_whatever_they_are_drawn_from(popular):
    hidden, weight, targets = draw()
    sampler = NegativeSampler(ITEMS, torch.arange(ITEMS + 1) if popular else None)
    total = sampled_softmax(hidden, weight, targets, *sampler.draw(200_000, hidden.device))
    torch.testing.assert_close(total, full(hidden, weight, targets), rtol=2e-3, atol=0)


def test_log_uniform_draws_by_rank_of_popularity_with_the_probabilities_it_says():
    torch.manual_seed(1)
    counts = torch.tensor([99, 5, 50, 5, 7])  # entry 0 is padding; the order of items is 2, 4, 1, 3
    drawn, log_q = NegativeSampler(4, counts).draw(100_000, torch.device("cpu"))
    share = torch.bincount(drawn, minlength=5) / 100_000
    law = {item: math.log((rank + 2) / (rank + 1)) / math.log(5) for rank, item in enumerate((2, 4, 1, 3))}
    assert share[0] == 0
    for item, q in law.items():
        assert abs(float(share[item]) - q) < 4 * math.sqrt(q / 100_000)
        torch.testing.assert_close(log_q[drawn == item][0], torch.tensor(math.log(q)))


def test_uniform_never_draws_padding():
    drawn, log_q = NegativeSampler(3).draw(1000, torch.device("cpu"))
    assert set(drawn.tolist()) == {1, 2, 3}
    assert torch.equal(log_q, torch.full((1000,), -math.log(3)))


@pytest.mark.parametrize(
    ("model", "loss", "message"),
    [({"repeats": "learned"}, {}, "model.repeats=ignore"), ({}, {"label_smoothing": 0.1}, "set it to 0")],
)
def test_what_it_cannot_train_is_refused(model, loss, message):
    small = SS4Rec(ModelConfig(dim=8, blocks=1, time_states=4, relation_states=2, **model), num_items=12)
    with pytest.raises(ConfigError, match=message):
        Objective(small, LossConfig(kind="sampled_softmax", **loss))
