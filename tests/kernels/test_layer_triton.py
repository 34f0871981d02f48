"""Fused dropout, residual sum and norm, and SwiGLU, against plain torch in float64: output and every gradient."""

from __future__ import annotations

import importlib.util
import os

import pytest
import torch

from ss4rec.kernels import layer_torch

if importlib.util.find_spec("triton") is None:
    pytest.skip("triton is not installed", allow_module_level=True)
if not torch.cuda.is_available() and os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("needs a CUDA device, or TRITON_INTERPRET=1", allow_module_level=True)

from ss4rec.kernels import layer_triton

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
TOLERANCE = {torch.float32: 3e-6, torch.bfloat16: 1e-2}
"""Largest ‖out - reference‖ / ‖reference‖; a bf16 branch's gradient keeps 8 bits."""
EPS = 1e-6


def draw(tokens, dim, kind=torch.float32):
    """Residual stream, branch, weight and bias of a norm, and a gradient."""
    generator = torch.Generator().manual_seed(tokens + dim)

    def normal(*shape):
        return torch.randn(*shape, generator=generator)

    values, branch, grad = (normal(tokens, dim) for _ in range(3))
    return [3 + values, branch.to(kind), 1 + 0.1 * normal(dim), normal(dim)], grad


def run(function, tensors, grad, *options, double=False, device="cpu"):
    """Return output and gradients."""
    leaves = [(x.double() if double else x).to(device).detach().requires_grad_() for x in tensors]
    output = function(*leaves, *options)
    output.backward(grad.to(device, output.dtype))
    return [x.detach().cpu() for x in (output, *(leaf.grad for leaf in leaves))]


def assert_close(actual, expected, tolerance):
    errors = [
        float((a.double() - e).norm() / e.norm().clamp(min=1e-30))
        for a, e in zip(actual, expected, strict=True)
    ]
    assert all(error < tolerance for error in errors), errors


@pytest.mark.parametrize("kind", list(TOLERANCE))
@pytest.mark.parametrize(("tokens", "dim"), [(1, 1), (5, 3), (70, 64), (33, 200), (9, 2048)])
def test_residual_norm_equals_torch(tokens, dim, kind):
    tensors, grad = draw(tokens, dim, kind)
    actual = run(layer_triton.residual_norm, tensors, grad, EPS, device=DEVICE)
    assert [x.dtype for x in actual] == [torch.float32, torch.float32, kind, torch.float32, torch.float32]
    if dim == 1:  # one value has no deviation: the output is the bias, and only that learns
        assert_close(actual[:1] + actual[4:], [tensors[3].expand(1, 1), grad[0]], 1e-6)
        return
    expected = run(layer_torch.residual_norm, tensors, grad, EPS, double=True)
    assert_close(actual, expected, TOLERANCE[kind])


def test_more_rows_than_programs(monkeypatch):
    monkeypatch.setattr(layer_triton, "PROGRAMS", 3)
    tensors, grad = draw(333, 64)
    actual = run(layer_triton.residual_norm, tensors, grad, EPS, device=DEVICE)
    assert_close(actual, run(layer_torch.residual_norm, tensors, grad, EPS, double=True), 3e-6)


@pytest.mark.parametrize("dropouts", [(0.4, 0.0), (0.0, 0.25), (0.4, 0.25)])
def test_the_backward_pass_draws_the_masks_of_the_forward_pass(dropouts):
    """The gradient of the branch says what was kept; with that mask plain torch gives the same output."""
    tensors, grad = draw(512, 64)
    torch.manual_seed(3)
    actual = run(layer_triton.residual_norm, tensors, grad, EPS, *dropouts, device=DEVICE)
    value, layer = 1 - dropouts[0], 1 - dropouts[1]
    scale = actual[2] / actual[1]  # gradients of branch and stream: 0 or what kept values are multiplied with
    kept = scale.abs() > 0.5
    torch.testing.assert_close(scale[kept], torch.full_like(scale[kept], 1 / (value * layer)))
    assert kept.double().mean().item() == pytest.approx(value * layer, abs=0.05)
    whole = kept.any(dim=1)
    assert whole.double().mean().item() == pytest.approx(layer, abs=0.07)
    assert kept[whole].double().mean().item() == pytest.approx(value, abs=0.02)
    if min(dropouts):  # the draw for token t is not that of value t
        assert (kept.flatten()[: len(whole)] & ~whole).any()

    def masked(values, branch, weight, bias):
        return layer_torch.residual_norm(values, branch * kept / (value * layer), weight, bias, EPS)

    assert_close(actual, run(masked, tensors, grad, double=True), 3e-6)


def test_masks_follow_torchs_generator_and_differ_between_calls():
    tensors, _ = draw(40, 32)
    tensors = [x.to(DEVICE) for x in tensors]

    def outputs():
        torch.manual_seed(5)
        return [layer_triton.residual_norm(*tensors, EPS, 0.5, 0.1) for _ in range(2)]

    (first, second), (again, _) = outputs(), outputs()
    assert torch.equal(first, again)
    assert not torch.equal(first, second)


@pytest.mark.parametrize("kind", list(TOLERANCE))
@pytest.mark.parametrize(("tokens", "dim"), [(1, 1), (5, 3), (70, 256), (3, 1500)])
def test_swiglu_equals_torch(tokens, dim, kind):
    both = (2 * torch.randn(tokens, 2 * dim, generator=torch.Generator().manual_seed(dim))).to(kind)
    grad = torch.randn(tokens, dim, generator=torch.Generator().manual_seed(tokens))
    actual = run(layer_triton.swiglu, [both], grad.to(kind), device=DEVICE)
    assert [x.dtype for x in actual] == [kind, kind]
    expected = run(layer_torch.swiglu, [both], grad.to(kind).double(), double=True)
    assert_close(actual, expected, TOLERANCE[kind])
