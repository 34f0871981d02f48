"""The fused time-aware scan against the naive one in float64: output and every gradient."""

from __future__ import annotations

import importlib.util
import os

import pytest
import torch

from ss4rec.kernels import naive
from ss4rec.kernels.inputs import TimeSystem
from ss4rec.model.segments import Segments

if importlib.util.find_spec("triton") is None:
    pytest.skip("triton is not installed", allow_module_level=True)
if not torch.cuda.is_available() and os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("needs a CUDA device, or TRITON_INTERPRET=1", allow_module_level=True)

from ss4rec.kernels import time_triton

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 2e-2}
"""Largest ‖out - reference‖ / ‖reference‖: float32 sums over 1,000 tokens; bf16 keeps 8 bits."""
TEN_YEARS_S = 3.2e8
on_gpu = pytest.mark.skipif(DEVICE == "cpu", reason="needs a CUDA device")


def draw(lengths, states, gap_map, dtype):
    """Random inputs; gaps are drawn from zero, one second, an hour and ten years, and anything between."""
    generator = torch.Generator().manual_seed(sum(lengths) + states)
    tokens = sum(lengths)
    gaps = torch.rand(tokens, generator=generator) * 100
    special = torch.tensor([0.0, 1.0, 3600.0, TEN_YEARS_S])
    pick = torch.randint(0, 12, (tokens,), generator=generator)
    gaps = torch.where(pick < 4, special[pick.clamp(max=3)], gaps)

    def normal(*shape):
        return torch.randn(*shape, generator=generator)

    tensors = {
        "drive": normal(tokens, 2 * states).to(dtype),
        "gaps": gaps,
        "lambda_re": -0.5 - torch.rand(states, generator=generator),
        "lambda_im": normal(states) * 30,
        "log_step": torch.rand(states, generator=generator) * 4.6 - 6.9,
    }
    if gap_map:
        tensors |= {"gap_weight": normal(states) * 0.5, "gap_bias": normal(states)}
    return tensors, normal(tokens, 2 * states).to(dtype)


def run(function, tensors, grad, segments, dtype, device):
    """Return output and gradients by name; integer-free tensors are cast to `dtype` unless it is None."""
    leaves = {
        name: (value.to(device) if dtype is None else value.to(device, dtype)).requires_grad_()
        for name, value in tensors.items()
    }
    ordered = list(leaves.values())
    output = function(*ordered[:2], TimeSystem(*ordered[2:]), segments)
    output.backward(grad.to(device, output.dtype))
    return {"output": output.detach()} | {name: leaf.grad for name, leaf in leaves.items()}


def _join_lambda(tensors):
    """Put the gradients of Λ's real and imaginary parts into one tensor."""
    parts = [tensors.pop("lambda_re"), tensors.pop("lambda_im")]
    return tensors | {"lambda": torch.stack(parts)}


def check(lengths, states, gap_map=False, dtype=torch.float32):
    tensors, grad = draw(lengths, states, gap_map, dtype)
    expected = run(naive.time_scan, tensors, grad, Segments.from_lengths(lengths), torch.float64, "cpu")
    segments = Segments.from_lengths(lengths, DEVICE)
    actual = run(time_triton.time_scan, tensors, grad, segments, None, DEVICE)
    assert actual["output"].dtype == actual["drive"].dtype == dtype
    # Λ is one complex parameter: its imaginary part alone may be a small difference of large sums.
    expected, actual = _join_lambda(expected), _join_lambda(actual)
    errors = {
        name: float((actual[name].cpu().double() - value).norm() / value.norm().clamp(min=1e-30))
        for name, value in expected.items()
    }
    assert all(error < TOLERANCE[dtype] for error in errors.values()), str(errors)


@pytest.mark.parametrize("gap_map", [False, True])
@pytest.mark.parametrize("lengths", [[1, 2, 63], [64], [65, 3, 1, 1]])
def test_matches_naive_over_lengths(lengths, gap_map):
    check(lengths, 16, gap_map)


@pytest.mark.parametrize("states", [1, 3, 32, 64])
def test_matches_naive_over_state_sizes(states):
    check([5, 70], states)


@pytest.mark.parametrize("rows", [1, 2])
def test_few_rows_as_with_many_sequences(rows, monkeypatch):
    monkeypatch.setattr(time_triton, "MOST_RUNS", rows)
    check([1, 33, 8], 16, gap_map=True)


def test_bf16_input_and_output_with_a_float32_state():
    check([70, 9], 16, dtype=torch.bfloat16)


def test_gaps_of_zero_leave_the_state_and_of_ten_years_erase_it():
    states, tokens = 4, 6
    tensors, _ = draw([tokens], states, False, torch.float32)
    tensors["gaps"] = torch.tensor([50.0, 0.0, 0.0, TEN_YEARS_S, 0.0, 1.0])
    segments = Segments.from_lengths([tokens], DEVICE)
    drive, gaps, *system = (value.to(DEVICE) for value in tensors.values())
    output = time_triton.time_scan(drive, gaps, TimeSystem(*system), segments).cpu()
    torch.testing.assert_close(output[1:3], output[:1].expand(2, -1), rtol=0, atol=0)
    steady = -torch.complex(*tensors["drive"][3].chunk(2)) / torch.complex(
        tensors["lambda_re"], tensors["lambda_im"]
    )
    torch.testing.assert_close(output[3], torch.cat([steady.real, steady.imag]), rtol=1e-5, atol=1e-6)


@pytest.mark.gpu
@on_gpu
@pytest.mark.parametrize("dtype", list(TOLERANCE))
@pytest.mark.parametrize("gap_map", [False, True])
@pytest.mark.parametrize("states", [1, 16, 32, 64])
def test_long_packed_sequences_on_a_gpu(states, gap_map, dtype):
    check([1, 2, 63, 64, 65, 200, 1000], states, gap_map, dtype)
