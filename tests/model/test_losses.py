"""Objectives against the plain expressions, values and gradients."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F

from ss4rec.model.losses import Repeats, bpr, cross_entropy
from ss4rec.model.segments import Segments


def draw(tokens=23, items=11, dim=6):
    torch.manual_seed(0)
    hidden = torch.randn(tokens, dim, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(items + 1, dim, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(0, items + 1, (tokens,))
    targets[4] = 0
    return hidden, weight, targets


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("chunk", [1, 5, 100])
def test_cross_entropy_equals_torch_without_the_padding_column(smoothing, chunk):
    hidden, weight, targets = draw()
    total = cross_entropy(hidden, weight, targets, chunk_tokens=chunk, label_smoothing=smoothing)
    kept = targets > 0
    expected = F.cross_entropy(
        hidden[kept] @ weight[1:].T, targets[kept] - 1, reduction="sum", label_smoothing=smoothing
    )
    torch.testing.assert_close(total, expected)
    got = torch.autograd.grad(3 * total, (hidden, weight))
    wanted = torch.autograd.grad(3 * expected, (hidden, weight))
    torch.testing.assert_close(got, wanted)
    assert not got[1][0].any()


def test_cross_entropy_of_no_targets_is_zero_with_zero_gradients():
    hidden, weight, targets = draw()
    total = cross_entropy(hidden, weight, torch.zeros_like(targets))
    total.backward()
    assert float(total.detach()) == 0.0
    assert not weight.grad.any()


def test_cross_entropy_under_bf16_autocast_sums_in_float32():
    hidden, weight, targets = draw(tokens=400)
    exact = cross_entropy(hidden.float(), weight.float(), targets)
    with torch.autocast("cpu", torch.bfloat16):
        total = cross_entropy(hidden.float(), weight.float(), targets)
    assert total.dtype == torch.float32
    torch.testing.assert_close(total, exact, rtol=5e-3, atol=0)


def test_bpr_never_draws_the_target_or_padding_and_equals_its_formula():
    hidden, weight, targets = draw(items=3)
    kept = targets > 0
    total = bpr(hidden, weight, targets, 400, torch.Generator().manual_seed(0))
    scores = hidden[kept] @ weight.T
    positive = scores.gather(1, targets[kept, None])
    expected = 0.0
    for row, target in enumerate(targets[kept].tolist()):
        others = [item for item in (1, 2, 3) if item != target]
        expected += -F.logsigmoid(positive[row] - scores[row, others]).mean()
    torch.testing.assert_close(
        total, expected, rtol=0.05, atol=0, check_dtype=False
    )  # 400 draws of two items
    total.backward()
    assert not weight.grad[0].any()


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_held_items_get_their_logit_once_however_often_the_history_has_them(smoothing):
    """Seen to fail: without the count of first occurrences, and with windows that begin one token too late."""
    torch.manual_seed(3)
    segments = Segments.from_lengths([150, 3, 90, 1])
    items_T = torch.randint(0, 9, (244,))  # many repeats; 0 is no item
    targets_T = torch.randint(1, 12, (244,))
    rows_R = torch.randperm(244)[:201]
    leaves = [torch.randn(244, 5).double(), torch.randn(12, 5).double(), torch.tensor(0.7).double()]
    ours, plain = ([leaf.clone().requires_grad_() for leaf in leaves] for _ in range(2))
    loss = cross_entropy(
        ours[0], ours[1], targets_T, rows_R,
        label_smoothing=smoothing, repeats=Repeats(items_T, segments, ours[2]),
    )  # fmt: skip
    hidden_TD, weight_VD, logit = plain
    held_TV = torch.zeros(244, 12, dtype=torch.bool)
    for first, after in itertools.pairwise(segments.host_offsets_S1.tolist()):
        for row in range(first, after):
            held_TV[row, items_T[first : row + 1]] = True
    logits_TI = (hidden_TD @ weight_VD.T + held_TV * logit)[:, 1:]
    wanted = F.cross_entropy(
        logits_TI[rows_R], targets_T[rows_R] - 1, label_smoothing=smoothing, reduction="sum"
    )
    torch.testing.assert_close(loss, wanted)
    torch.testing.assert_close(torch.autograd.grad(loss, ours), torch.autograd.grad(wanted, plain))
