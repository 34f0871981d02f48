"""mamba-ssm's kernels, packed by our wrapper, against the torch reference."""

from __future__ import annotations

import pytest
import torch

from ss4rec.errors import BackendError
from ss4rec.kernels import relation_torch
from ss4rec.kernels.inputs import SelectiveInputs
from ss4rec.model.segments import Segments


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(("kind", "tolerance"), [(torch.float32, 2e-4), (torch.bfloat16, 3e-2)])
def test_scan_and_convolution_equal_the_reference(kind, tolerance):
    pytest.importorskip("mamba_ssm")
    pytest.importorskip("causal_conv1d")
    from ss4rec.kernels import relation_mamba

    torch.manual_seed(0)
    segments = Segments.from_lengths([1, 2, 63, 64, 65, 200], "cuda")
    tokens, inner, states = segments.num_tokens, 128, 32

    def normal(*shape, dtype=kind):
        return torch.randn(*shape, device="cuda").to(dtype)

    u, z, values = normal(tokens, inner), normal(tokens, inner), normal(tokens, inner)
    delta, B, C = normal(tokens, inner), normal(tokens, states), normal(tokens, states)
    A = -torch.rand(inner, states, device="cuda") * 4 - 0.1
    D, bias = (normal(inner, dtype=torch.float32) for _ in range(2))
    weight, conv_bias = normal(inner, 4, dtype=torch.float32), normal(inner, dtype=torch.float32)
    leaves = [x.requires_grad_() for x in (u, delta, A, B, C, D, z, bias, values, weight, conv_bias)]
    results = []
    for module in (relation_mamba, relation_torch):
        y = module.selective_scan(SelectiveInputs(*leaves[:8]), segments)
        conv = module.causal_conv(*leaves[8:], segments)
        total = y.float().square().sum() + conv.float().square().sum()
        results.append([y, conv, *torch.autograd.grad(total, leaves)])
    for got, wanted in zip(*results, strict=True):
        error = (got.float() - wanted.float()).norm() / wanted.float().norm()
        assert float(error) < tolerance


def test_taps_that_the_package_lacks_are_refused(monkeypatch):
    import sys
    import types

    fake = types.ModuleType("causal_conv1d")
    fake.causal_conv1d_fn = None
    monkeypatch.setitem(sys.modules, "causal_conv1d", fake)
    from ss4rec.kernels import relation_mamba

    with pytest.raises(BackendError, match="conv_width=8"):
        relation_mamba.causal_conv(
            torch.ones(3, 2), torch.ones(2, 8), torch.ones(2), Segments.from_lengths([3])
        )
