"""The fused softmax over drawn items against plain torch: gradient of the scores, losses, shares."""

from __future__ import annotations

import importlib.util
import os

import pytest
import torch

from ss4rec.model.sampled import _part_softmax

if importlib.util.find_spec("triton") is None:
    pytest.skip("triton is not installed", allow_module_level=True)
if not torch.cuda.is_available() and os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("needs a CUDA device, or TRITON_INTERPRET=1", allow_module_level=True)

from ss4rec.kernels.sampled_triton import part_softmax

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def draw(rows, count, kind):
    generator = torch.Generator().manual_seed(rows + count)
    scores = (3 * torch.randn(rows, count, generator=generator)).to(kind)
    bias, own = torch.randn(count, generator=generator), 3 * torch.randn(rows, generator=generator)
    drawn = torch.randint(1, 9, (count,), generator=generator)
    targets = torch.randint(1, 9, (rows,), generator=generator)
    live = (torch.rand(rows, generator=generator) < 0.7).float()
    return [x.to(DEVICE) for x in (scores, bias, drawn, targets, own, live)]


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("rows", "count"), [(1, 1), (5, 30), (3, 2048), (4, 5000)])
def test_it_equals_torch(rows, count, kind):
    """Seen to fail: with the target left among the drawn items; with the end of a row not masked."""
    tensors = draw(rows, count, kind)
    expected = _part_softmax(*[x.clone() for x in tensors])
    actual = part_softmax(*tensors)
    rounding = 1e-5 if kind == torch.float32 else 1e-2
    for got, wanted, tolerance in zip(actual, expected, (rounding, 1e-5, 1e-5), strict=True):
        torch.testing.assert_close(got, wanted, rtol=tolerance, atol=1e-5)


def test_large_scores_overflow_nothing():
    scores, bias, drawn, targets, own, live = draw(4, 100, torch.float32)
    results = part_softmax(scores + 300, bias, drawn, targets, own, live)
    assert all(bool(torch.isfinite(x).all()) for x in results)
