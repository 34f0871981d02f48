"""The objective: learned repeats and swapped items, against naive computations."""

import pytest
import torch

from ss4rec.config import LossConfig, ModelConfig
from ss4rec.errors import UsageError
from ss4rec.model.inputs import Context
from ss4rec.model.segments import Segments
from ss4rec.model.ss4rec import SS4Rec
from ss4rec.train.objective import Objective, with_drawn_moments

SMALL = {"dim": 8, "blocks": 1, "time_states": 4, "relation_states": 2, "dropout": 0.0}
ITEMS = torch.tensor([3, 5, 3, 7, 1, 2, 2])
TARGETS = torch.tensor([5, 3, 7, 0, 2, 2, 9])
SEGMENTS = Segments.from_lengths([4, 3])


def make(**changes):
    torch.manual_seed(0)
    return SS4Rec(ModelConfig(**SMALL, **changes), num_items=12).double()


@pytest.mark.parametrize("chunk", [2, 100])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_learned_repeats_equal_a_naive_softmax_with_every_gradient(chunk, smoothing):
    model = make(repeats="learned")
    with torch.no_grad():
        model.repeat_parameter.fill_(-0.13)
    gaps = torch.rand(7, dtype=torch.float64) * 100
    config = LossConfig(chunk_tokens=chunk, label_smoothing=smoothing)
    loss = Objective(model, config)(ITEMS, gaps, TARGETS, SEGMENTS)
    loss.backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()

    hidden = model.encode(ITEMS, gaps, SEGMENTS)
    naive = torch.zeros((), dtype=torch.float64)
    for first, last in ((0, 4), (4, 7)):
        for token in range(first, last):
            if TARGETS[token] == 0:
                continue
            logits = hidden[token] @ model.item_matrix()[1:].T
            held = torch.zeros(12, dtype=torch.float64)
            held[ITEMS[first : token + 1].unique() - 1] = 1.0
            log_p = (logits + held * 10 * model.repeat_parameter).log_softmax(0)
            naive -= (1 - smoothing) * log_p[TARGETS[token] - 1] + smoothing * log_p.mean()
    naive.backward()
    assert loss.item() == pytest.approx(naive.item(), rel=1e-10)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-8, atol=1e-10, msg=name)


def test_scores_add_the_repeat_logit_once_to_each_seen_item():
    model, plain = make(repeats="learned"), make()
    with torch.no_grad():
        model.repeat_parameter.fill_(-0.2)
    hidden = torch.randn(2, 8, dtype=torch.float64)
    seen, offsets = torch.tensor([3, 3, 4, 7]), torch.tensor([0, 3, 4])
    with_logit, without = (m.scores(hidden, seen, offsets).matrix() for m in (model, plain))
    difference = with_logit - without
    expected = torch.zeros(2, 13, dtype=torch.float64)
    expected[0, [3, 4]] = expected[1, 7] = -2.0
    torch.testing.assert_close(difference[:, 1:], expected[:, 1:])


def test_swapping_happens_in_training_only_and_leaves_context_alone():
    objective = Objective(make(), LossConfig(swap_inputs=0.5, swap_targets=0.5))
    zeros = torch.zeros(1000, dtype=torch.int64)
    assert torch.equal(objective._swap(zeros, 0.9), zeros)
    swapped = objective._swap(torch.full((4000,), 5), 0.5)
    share = (swapped != 5).double().mean().item()
    assert 0.4 < share < 0.52
    assert int(swapped.min()) >= 1
    assert int(swapped.max()) <= 12
    gaps = torch.ones(7, dtype=torch.float64)
    objective.eval()
    assert objective(ITEMS, gaps, TARGETS, SEGMENTS) == objective(ITEMS, gaps, TARGETS, SEGMENTS)
    objective.train()
    assert objective(ITEMS, gaps, TARGETS, SEGMENTS) != objective(ITEMS, gaps, TARGETS, SEGMENTS)


def test_moments_are_drawn_between_an_event_and_the_next():
    gaps, segments = torch.tensor([0.0, 50, 0, 900, 7, 7]), Segments.from_lengths([4, 2])
    context = Context(torch.zeros(6, dtype=torch.int64), torch.zeros(6), torch.zeros(6, 0, dtype=torch.int64))
    torch.manual_seed(0)
    drawn = torch.stack([with_drawn_moments(context, gaps, segments).elapsed_T for _ in range(400)])
    until_next = torch.tensor([50.0, 0, 900, -1, 7, -1])
    told = drawn >= 0
    assert (drawn[:, [3, 5]] == -1).all()  # nothing follows the last event of a window
    assert ((drawn <= until_next) | ~told).all()
    assert 0.4 < float(told[:, 0].float().mean()) < 0.6
    assert float(drawn[told[:, 2], 2].mean()) == pytest.approx(450, rel=0.15)
    with pytest.raises(UsageError, match="pass a Context"):
        with_drawn_moments(None, gaps, segments)
