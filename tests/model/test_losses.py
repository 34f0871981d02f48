"""Objectives against the plain expressions, values and gradients."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from ss4rec.model.losses import bpr, cross_entropy


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
