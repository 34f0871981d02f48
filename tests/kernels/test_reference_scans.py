"""The fast torch scans against the naive ones in float64: output and every gradient."""

from __future__ import annotations

import pytest
import torch

from ss4rec.kernels import naive, relation_torch, time_torch
from ss4rec.kernels.inputs import SelectiveInputs, TimeSystem
from ss4rec.kernels.steps import relation_state, relation_step
from ss4rec.model.segments import Segments

LENGTHS = [1, 2, 63, 64, 65, 200]
TEN_YEARS_S = 3.2e8


def normal(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def time_inputs(tokens, states, log_gaps):
    gaps_T = (torch.rand(tokens, dtype=torch.float64) * 100).where(torch.rand(tokens) < 0.6, 0.0)
    gaps_T[::7], gaps_T[3::11] = 1.0, TEN_YEARS_S
    re_P = -0.5 - torch.rand(states, dtype=torch.float64)
    steps_P = torch.rand(states, dtype=torch.float64) * 4.6 - 6.9
    inputs = [normal(tokens, 2 * states), gaps_T, re_P, normal(states) * 30, steps_P]
    return inputs, [normal(states), normal(states)] if log_gaps else []


def relation_inputs(tokens, states, inner=5):
    A_EN = -torch.rand(inner, states, dtype=torch.float64) * 30 - 0.01
    return [
        normal(tokens, inner), normal(tokens, inner), A_EN, normal(tokens, states), normal(tokens, states),
        normal(inner), normal(tokens, inner), normal(inner),
    ]  # fmt: skip


def run_time(module, inputs, extra, segments):
    return module.time_scan(*inputs[:2], TimeSystem(*inputs[2:], *extra), segments)


def assert_same(fast, slow, inputs, names):
    """Compare two functions of `inputs` and their gradients for a random projection."""
    out, expected = fast(inputs), slow(inputs)
    torch.testing.assert_close(out, expected, rtol=1e-9, atol=1e-9)
    grad = torch.randn_like(out)
    pairs = zip(
        torch.autograd.grad(out, inputs, grad), torch.autograd.grad(expected, inputs, grad), strict=True
    )
    for name, (got, wanted) in zip(names, pairs, strict=True):
        scale = float(wanted.abs().max().clamp_min(1e-3))
        torch.testing.assert_close(
            got / scale, wanted / scale, rtol=0, atol=1e-9, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.parametrize("log_gaps", [False, True])
@pytest.mark.parametrize("states", [1, 16, 32])
def test_time_scan_equals_naive(states, log_gaps):
    torch.manual_seed(states)
    segments = Segments.from_lengths(LENGTHS)
    (drive, gaps, *rest), extra = time_inputs(segments.num_tokens, states, log_gaps)
    leaves = [value.requires_grad_() for value in (drive, *rest, *extra)]
    split = 4

    def call(module):
        return lambda x: run_time(module, [x[0], gaps, *x[1:split]], x[split:], segments)

    names = ["drive", "lambda_re", "lambda_im", "log_step", "gap_weight", "gap_bias"][: len(leaves)]
    assert_same(call(time_torch), call(naive), leaves, names)


def test_small_arguments_keep_their_digits_in_float32():
    """A gap of 1 s at the slowest step has |Λs| near 1e-4, where (e^z - 1)/Λ and its slope cancel if done naively."""
    torch.manual_seed(0)
    segments = Segments.from_lengths([20])
    drive, re, im = normal(20, 8), torch.full((4,), -0.01), torch.tensor([0.0, 1e-3, 0.1, 1.0])
    gaps, steps = torch.ones(20), torch.full((4,), -6.9)
    results = {}
    for module, kind in ((time_torch, torch.float32), (naive, torch.float64)):
        leaves = [value.to(kind).clone().requires_grad_() for value in (re, im, steps)]
        out = module.time_scan(drive.to(kind), gaps.to(kind), TimeSystem(*leaves), segments)
        results[kind] = [out.double(), *(g.double() for g in torch.autograd.grad(out.square().sum(), leaves))]
    for got, wanted in zip(results[torch.float32], results[torch.float64], strict=True):
        torch.testing.assert_close(got, wanted, rtol=2e-5, atol=1e-9)


@pytest.mark.parametrize("states", [1, 16, 32])
def test_selective_scan_equals_naive(states):
    torch.manual_seed(states)
    segments = Segments.from_lengths(LENGTHS)
    leaves = [value.requires_grad_() for value in relation_inputs(segments.num_tokens, states)]
    names = ["u", "delta", "A", "B", "C", "D", "z", "delta_bias"]
    assert_same(
        lambda x: relation_torch.selective_scan(SelectiveInputs(*x), segments),
        lambda x: naive.selective_scan(SelectiveInputs(*x), segments),
        leaves,
        names,
    )


def test_selective_scan_over_many_groups_and_chunks(monkeypatch):
    """Several groups, chunks of one step and of many, and sequences that end inside of a chunk."""
    torch.manual_seed(1)
    segments = Segments.from_lengths([3, 1, 9, 2, 7, 7, 4, 1, 5, 6, 8])
    leaves = [value.requires_grad_() for value in relation_inputs(segments.num_tokens, 4)]
    for group, chunk in ((3, 2), (3, 7), (4, 100), (1, 3)):
        monkeypatch.setattr(relation_torch, "GROUP_SEQUENCES", group)
        monkeypatch.setattr(relation_torch, "CHUNK_ROWS", chunk)
        assert_same(
            lambda x: relation_torch.selective_scan(SelectiveInputs(*x), segments),
            lambda x: naive.selective_scan(SelectiveInputs(*x), segments),
            leaves,
            ["u", "delta", "A", "B", "C", "D", "z", "delta_bias"],
        )


@pytest.mark.parametrize("inner", [4, 128, 256])
def test_ranking_gets_the_bits_of_training(inner):
    """Without gradients chunks are smaller, as states are large.

    Seen to fail: with the rows of a chunk cut to those of its first step.
    """
    torch.manual_seed(inner)
    lengths = [1, 2, 3, 17, 40, 40, 41, 90]
    inputs = [values.float() for values in relation_inputs(sum(lengths), 32, inner)]
    with_gradients = [values.clone().requires_grad_() for values in inputs]
    trained = relation_torch.selective_scan(SelectiveInputs(*with_gradients), Segments.from_lengths(lengths))
    with torch.inference_mode():
        ranked = relation_torch.selective_scan(SelectiveInputs(*inputs), Segments.from_lengths(lengths))
    assert torch.equal(ranked, trained)


def test_states_left_are_those_of_single_steps(monkeypatch):
    """Sequences that end in the middle of a chunk, at its end, and before the first step of the next one.

    Seen to fail: with only those kept that run at the last step of a chunk.
    """
    torch.manual_seed(2)
    lengths = [3, 1, 9, 2, 7, 7, 4, 1, 5, 6, 8]
    inputs = SelectiveInputs(*relation_inputs(sum(lengths), 4))
    wanted = []
    for first, stop in Segments.from_lengths(lengths).host_offsets_S1.unfold(0, 2, 1).tolist():
        state = torch.zeros(1, *inputs.A_EN.shape, dtype=torch.float64)
        for k in range(first, stop):
            token = [
                x[k : k + 1] if name in ("u_TE", "delta_TE", "B_TN", "C_TN", "z_TE") else x
                for name, x in inputs._asdict().items()
            ]
            _, state = relation_step(SelectiveInputs(*token), state)
        wanted.append(state[0])
    for rows in (4, 16, 100):
        monkeypatch.setattr(relation_torch, "RANKING_BYTES", rows * inputs.A_EN.nbytes)
        monkeypatch.setattr(relation_torch, "RANKING_ROWS", 1)
        segments = Segments.from_lengths(lengths)
        out, left = relation_torch.selective_scan_left(inputs, segments)
        torch.testing.assert_close(left, torch.stack(wanted), rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(out, relation_torch.selective_scan(inputs, segments))
        torch.testing.assert_close(
            left, relation_state(*inputs[:4], inputs.delta_bias_E, segments), rtol=1e-9, atol=1e-9
        )


@pytest.mark.parametrize("taps", [1, 4, 8])
def test_causal_conv_equals_naive(taps):
    torch.manual_seed(taps)
    segments = Segments.from_lengths([1, 2, 3, 65, 7])
    leaves = [x.requires_grad_() for x in (normal(segments.num_tokens, 5), normal(5, taps), normal(5))]
    assert_same(
        lambda x: relation_torch.causal_conv(*x, segments),
        lambda x: naive.causal_conv(*x, segments),
        leaves,
        ["values", "weight", "bias"],
    )


def test_causal_conv_of_bfloat16_values_is_computed_in_the_type_of_its_weights():
    segments = Segments.from_lengths([3, 9])
    values = torch.randn(12, 5).bfloat16().requires_grad_()
    out = relation_torch.causal_conv(values, torch.randn(5, 4), torch.randn(5), segments)
    out.sum().backward()
    assert out.dtype == torch.float32
    assert values.grad is not None
    assert values.grad.dtype == torch.bfloat16


def test_packed_equals_one_by_one():
    torch.manual_seed(2)
    segments, alone = Segments.from_lengths([5, 1, 70]), [Segments.from_lengths([n]) for n in (5, 1, 70)]
    relation = relation_inputs(76, 3)
    timed, extra = time_inputs(76, 3, True)
    together = (
        relation_torch.selective_scan(SelectiveInputs(*relation), segments),
        run_time(time_torch, timed, extra, segments),
    )
    parts = [torch.arange(0, 5), torch.arange(5, 6), torch.arange(6, 76)]
    for part, single in zip(parts, alone, strict=True):
        own = [x[part] if x.shape[0] == 76 else x for x in relation]
        torch.testing.assert_close(
            relation_torch.selective_scan(SelectiveInputs(*own), single), together[0][part]
        )
        own = [x[part] if x.shape[0] == 76 else x for x in timed]
        torch.testing.assert_close(run_time(time_torch, own, extra, single), together[1][part])


def test_bf16_inputs_give_float32_states_and_bf16_gradients():
    segments = Segments.from_lengths([4, 9])
    timed, _ = time_inputs(13, 2, False)
    drive = timed[0].bfloat16().requires_grad_()
    out = run_time(time_torch, [drive, *(x.float() for x in timed[1:])], [], segments)
    relation = [x.float() for x in relation_inputs(13, 3)]
    u = relation[0].bfloat16().requires_grad_()
    y = relation_torch.selective_scan(SelectiveInputs(u, *relation[1:]), segments)
    (out.sum() + y.sum()).backward()
    assert (out.dtype, y.dtype, drive.grad.dtype, u.grad.dtype) == (
        *[torch.float32] * 2,
        *[torch.bfloat16] * 2,
    )
