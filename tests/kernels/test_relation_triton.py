"""The Triton convolution and selective scan against the naive ones in float64: output and every gradient."""

from __future__ import annotations

import importlib.util
import os

import pytest
import torch

from ss4rec.kernels import naive
from ss4rec.kernels.inputs import SelectiveInputs
from ss4rec.model.segments import Segments

if importlib.util.find_spec("triton") is None:
    pytest.skip("triton is not installed", allow_module_level=True)
if not torch.cuda.is_available() and os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("needs a CUDA device, or TRITON_INTERPRET=1", allow_module_level=True)

from ss4rec.kernels import relation_triton

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}
"""Largest ‖out - reference‖ / ‖reference‖: float32 sums over 1,000 tokens; bf16 keeps 8 bits."""
on_gpu = pytest.mark.skipif(DEVICE == "cpu", reason="needs a CUDA device")


def draw_conv(tokens, channels, taps, dtype):
    generator = torch.Generator().manual_seed(tokens + taps)
    return {
        "values": torch.randn(tokens, channels, generator=generator).to(dtype),
        "weight": torch.randn(channels, taps, generator=generator),
        "bias": torch.randn(channels, generator=generator),
    }


def draw_scan(tokens, channels, states, dtype):
    generator = torch.Generator().manual_seed(tokens + states)

    def normal(*shape):
        return torch.randn(*shape, generator=generator)

    return {
        "u": normal(tokens, channels).to(dtype),
        "delta": (normal(tokens, channels) - 1).to(dtype),
        "A": -torch.arange(1.0, states + 1).repeat(channels, 1)
        * (0.5 + torch.rand(channels, 1, generator=generator)),
        "B": normal(tokens, states).to(dtype),
        "C": normal(tokens, states).to(dtype),
        "D": normal(channels),
        "z": normal(tokens, channels).to(dtype),
        "delta_bias": normal(channels) - 2,
    }


def run(function, tensors, segments, dtype, device):
    """Return output and gradients by name, for a gradient of the output drawn from a fixed seed."""
    leaves = {
        name: (value.to(device) if dtype is None else value.to(device, dtype)).requires_grad_()
        for name, value in tensors.items()
    }
    given = leaves.values()
    output = function(SelectiveInputs(*given), segments) if "A" in leaves else function(*given, segments)
    grad = torch.randn(output.shape, generator=torch.Generator().manual_seed(1)).to(
        next(iter(tensors.values()))
    )
    output.backward(grad.to(device, output.dtype))
    return {"output": output.detach()} | {name: leaf.grad for name, leaf in leaves.items()}


def check(name, tensors, lengths):
    dtype = next(iter(tensors.values())).dtype
    expected = run(getattr(naive, name), tensors, Segments.from_lengths(lengths), torch.float64, "cpu")
    segments = Segments.from_lengths(lengths, DEVICE)
    actual = run(getattr(relation_triton, name), tensors, segments, None, DEVICE)
    assert actual["output"].dtype == dtype
    errors = {
        key: float((actual[key].cpu().double() - value).norm() / value.norm())
        for key, value in expected.items()
    }
    assert all(error < TOLERANCE[dtype] for error in errors.values()), errors


@pytest.mark.parametrize("taps", [1, 4])
@pytest.mark.parametrize("lengths", [[1, 2, 63, 64, 65, 3], [200]])
def test_conv_matches_naive(lengths, taps):
    check("causal_conv", draw_conv(sum(lengths), 40, taps, torch.float32), lengths)


def test_conv_in_bf16():
    check("causal_conv", draw_conv(70, 33, 4, torch.bfloat16), [1, 69])


@pytest.mark.parametrize("lengths", [[1, 2, 63], [64], [65, 8, 1, 9]])
def test_scan_matches_naive_over_lengths(lengths):
    check("selective_scan", draw_scan(sum(lengths), 20, 16, torch.float32), lengths)


@pytest.mark.parametrize("states", [1, 3, 32, 64])
def test_scan_matches_naive_over_state_sizes(states):
    check("selective_scan", draw_scan(20, 16, states, torch.float32), [3, 17])


def test_scan_in_bf16():
    check("selective_scan", draw_scan(40, 16, 16, torch.bfloat16), [31, 9])


def test_scan_of_a_view_that_begins_between_words():
    tensors = {name: x.to(DEVICE) for name, x in draw_scan(1, 8, 16, torch.bfloat16).items()}
    for name in "BC":  # one token's slice of a wider row is contiguous wherever it begins
        tensors[name] = torch.cat([tensors[name][:, :3], tensors[name]], 1)[:, 3:]
    segments = Segments.from_lengths([1], DEVICE)
    views = relation_triton.selective_scan(SelectiveInputs(*tensors.values()), segments)
    clones = SelectiveInputs(*(x.clone() for x in tensors.values()))
    copies = relation_triton.selective_scan(clones, segments)
    assert torch.equal(views, copies)


@pytest.mark.gpu
@on_gpu
@pytest.mark.parametrize("dtype", list(TOLERANCE))
@pytest.mark.parametrize("states", [1, 16, 32, 64])
def test_scan_of_long_packed_sequences_on_a_gpu(states, dtype):
    lengths = [1, 2, 63, 64, 65, 200, 1000]
    check("selective_scan", draw_scan(sum(lengths), 128, states, dtype), lengths)


@pytest.mark.gpu
@on_gpu
@pytest.mark.parametrize("dtype", list(TOLERANCE))
def test_conv_of_long_packed_sequences_on_a_gpu(dtype):
    lengths = [1, 2, 63, 64, 65, 200, 1000]
    check("causal_conv", draw_conv(sum(lengths), 128, 4, dtype), lengths)
