"""Our layers against the packages that the published model stands on, where those are installed."""

from __future__ import annotations

import pytest
import torch

from ss4rec.config import ModelConfig
from ss4rec.kernels import TimeBackend, naive
from ss4rec.model.segments import Segments
from ss4rec.model.time_ssm import TimeSSM

TOLERANCE = 2e-6
"""Largest ‖ours - theirs‖ / ‖theirs‖ in float32."""


def test_the_time_aware_ssm_equals_s5_pytorch():
    s5 = pytest.importorskip("s5", reason="s5-pytorch is not installed")
    torch.manual_seed(0)
    theirs = s5.S5(6, 4, dt_min=0.001, dt_max=0.1)
    ours = TimeSSM(ModelConfig(dim=6, time_states=4))
    seq = theirs.seq
    input_PD = torch.view_as_complex(seq.B)
    with torch.no_grad():
        ours.log_decay.copy_(torch.log(-seq.Lambda.real))
        ours.frequency.copy_(seq.Lambda.imag)
        ours.input_2PD.copy_(torch.cat([input_PD.real, input_PD.imag]))
        ours.output_D2P.copy_(torch.cat([seq.C.real, -seq.C.imag], 1))
        ours.skip.copy_(seq.D)
        ours.log_step.copy_(seq.log_step)
    values_BLD, gaps_BL = torch.randn(3, 10, 6), torch.rand(3, 10) * 50
    leaves = [values_BLD.clone().requires_grad_(), values_BLD.flatten(0, 1).requires_grad_()]
    expected = theirs(leaves[0], gaps_BL).flatten(0, 1)
    found = ours(
        leaves[1], gaps_BL.flatten(), Segments.from_lengths([10] * 3), TimeBackend("naive", naive.time_scan)
    )
    grad = torch.randn_like(found)
    (expected_grad,) = torch.autograd.grad(expected, leaves[:1], grad)
    (found_grad,) = torch.autograd.grad(found, leaves[1:], grad)
    for theirs_T, ours_T in ((expected, found), (expected_grad.flatten(0, 1), found_grad)):
        assert float((ours_T - theirs_T).detach().norm() / theirs_T.norm()) < TOLERANCE
