"""Cross entropy in tiles against the plain expression in float64: loss and every gradient."""

from __future__ import annotations

import importlib.util
import os
from unittest.mock import patch

import pytest
import torch
import torch.nn.functional as F

from ss4rec.model.segments import Segments

if importlib.util.find_spec("triton") is None:
    pytest.skip("triton is not installed", allow_module_level=True)
if not torch.cuda.is_available() and os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("needs a CUDA device, or TRITON_INTERPRET=1", allow_module_level=True)

from ss4rec.kernels import softmax_stored_triton, softmax_triton
from ss4rec.kernels.buckets_triton import bucket_sums

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 1e-2}
"""Largest ‖out - reference‖ / ‖reference‖; bf16 keeps 8 bits of the probabilities that are multiplied."""
on_gpu = pytest.mark.skipif(DEVICE == "cpu", reason="needs a CUDA device")


@pytest.fixture(autouse=True)
def whole_products():
    """Products of float32 by torch are not in TF32, which a training in bf16 switches on for its process."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32 = before


def draw(lengths, items, dim, dtype):
    """Hidden states with a spread of logits as in training, a tenth of the tokens without a target."""
    generator = torch.Generator().manual_seed(sum(lengths) + items + dim)
    tokens = sum(lengths)
    hidden = (torch.randn(tokens, dim, generator=generator) * 2 / dim**0.25).to(dtype)
    weight = (torch.randn(items + 1, dim, generator=generator) * 2 / dim**0.25).to(dtype)
    sequence = torch.randint(1, items + 1, (tokens,), generator=generator)
    targets = torch.randint(1, items + 1, (tokens,), generator=generator)
    targets[torch.rand(tokens, generator=generator) < 0.1] = 0
    return hidden, weight, sequence, targets


def naive(hidden, weight, sequence, targets, lengths, smoothing, logit):
    """Return loss and gradients from the whole matrix of logits."""
    leaves = [hidden.double().requires_grad_(), weight.double().requires_grad_()]
    logits = leaves[0] @ leaves[1][1:].T
    if logit is not None:
        leaves.append(torch.tensor(logit, dtype=torch.float64, requires_grad=True))
        held, start = torch.zeros_like(logits), 0
        for length in lengths:
            for k in range(start, start + length):
                held[k, sequence[start : k + 1] - 1] = 1.0
            start += length
        logits = logits + held * leaves[2]
    kept = targets > 0
    loss = F.cross_entropy(logits[kept], targets[kept] - 1, reduction="sum", label_smoothing=smoothing)
    return [loss.detach(), *torch.autograd.grad(3 * loss, leaves)]


def by_kernels(hidden, weight, sequence, targets, lengths, smoothing, logit, pad):
    """The same from the kernels, with `pad` rows that count for nothing."""
    hidden, weight, sequence, targets = (x.to(DEVICE) for x in (hidden, weight, sequence, targets))
    leaves, bits = [hidden.requires_grad_(), weight.requires_grad_()], None
    if logit is not None:
        leaves.append(torch.tensor(logit, device=DEVICE, requires_grad=True))
        bits = softmax_triton.held_bits(sequence, len(weight), Segments.from_lengths(lengths, DEVICE))
    rows = torch.cat([targets.nonzero().squeeze(1), torch.full((pad,), -1, device=DEVICE)])
    held_logit = leaves[2] if logit is not None else None
    loss = softmax_triton.softmax_loss(
        hidden,
        weight,
        targets,
        rows,
        smoothing=smoothing,
        kind=weight.dtype,
        bits_TW=bits,
        held_logit=held_logit,
    )
    return [loss.detach(), *torch.autograd.grad(3 * loss, leaves)]


def check(lengths, items, dim, dtype=torch.float32, smoothing=0.0, logit=None, pad=0):
    drawn = draw(lengths, items, dim, dtype)
    expected = naive(*drawn, lengths, smoothing, logit)
    for stored in (False, True):
        with patch.object(softmax_triton, "stores_logits", lambda *_, stored=stored, **__: stored):
            found = by_kernels(*drawn, lengths, smoothing, logit, pad)
        for name, mine, theirs in zip(("loss", "hidden", "weight", "logit"), found, expected, strict=False):
            error = float((mine.cpu().double() - theirs).norm() / theirs.norm())
            assert error < TOLERANCE[dtype], (stored, name, error)
        assert not found[2][0].any()


@pytest.mark.parametrize("logit", [None, -1.5])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_loss_and_gradients_in_every_combination(smoothing, logit):
    check([7, 1, 40], items=77, dim=16, smoothing=smoothing, logit=logit, pad=5)


@pytest.mark.parametrize(("items", "dim"), [(2, 8), (63, 16), (64, 24), (65, 64), (200, 130)])
def test_catalogues_and_widths_that_do_not_fill_a_tile(items, dim):
    check([30, 3], items, dim, smoothing=0.1, logit=0.7)


def test_bf16_products():
    check([20, 50], items=150, dim=32, dtype=torch.bfloat16, smoothing=0.1, logit=-2.0, pad=3)


def test_logits_in_memory_part_by_part(monkeypatch):
    monkeypatch.setattr(softmax_stored_triton, "PART_LOGITS", 40 * 192)
    monkeypatch.setattr(softmax_stored_triton, "MIN_PART", 16)
    monkeypatch.setattr(softmax_stored_triton, "BLOCK", 64)
    check([20, 50, 31], items=150, dim=32, dtype=torch.bfloat16, smoothing=0.1, logit=-2.0, pad=30)


def test_no_row_counts():
    hidden, weight, _, targets = (x.to(DEVICE) for x in draw([9], 20, 8, torch.float32))
    hidden.requires_grad_()
    rows = torch.full((4,), -1, device=DEVICE)
    loss = softmax_triton.softmax_loss(hidden, weight, targets, rows, smoothing=0.1, kind=torch.float32)
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert not hidden.grad.any()


def test_bits_follow_every_sequence_alone():
    items = torch.tensor([1, 31, 32, 4095, 64, 1], device=DEVICE)
    bits = softmax_triton.held_bits(items, 4100, Segments.from_lengths([4, 2], DEVICE)).cpu()
    held = ((bits[:, :, None] >> torch.arange(32)) & 1).flatten(1)
    rows = [set(held[k].nonzero().squeeze(1).tolist()) for k in range(6)]
    assert rows == [{1}, {1, 31}, {1, 31, 32}, {1, 31, 32, 4095}, {64}, {1, 64}]


@pytest.mark.parametrize(("items", "dim"), [(64, 16), (150, 24)])
def test_log_sums_over_items_that_are_not_held(items, dim):
    lengths = [7, 1, 30]
    hidden, weight, sequence, targets = draw(lengths, items, dim, torch.float32)
    rows = targets.nonzero().squeeze(1)
    scale = torch.randn(len(rows), generator=torch.Generator().manual_seed(0)).double()
    leaves = [hidden.double().requires_grad_(), weight.double().requires_grad_()]
    logits, start = leaves[0] @ leaves[1][1:].T, 0
    held = torch.zeros_like(logits, dtype=torch.bool)
    for length in lengths:
        for k in range(start, start + length):
            held[k, sequence[start : k + 1] - 1] = True
        start += length
    expected = logits.masked_fill(held, -torch.inf).logsumexp(1)[rows]
    hidden, weight, sequence, rows = (x.to(DEVICE) for x in (hidden, weight, sequence, rows))
    bits = softmax_triton.held_bits(sequence, len(weight), Segments.from_lengths(lengths, DEVICE))
    mine = [hidden.requires_grad_(), weight.requires_grad_()]
    padded = torch.cat([rows, torch.full((5,), -1, device=DEVICE)])
    found = softmax_triton.log_sum_exp(hidden, weight, padded, kind=torch.float32, bits_TW=bits)[: len(rows)]
    assert torch.allclose(found.cpu().double(), expected, rtol=1e-5)
    theirs = torch.autograd.grad((scale * expected).sum(), leaves)
    for a, b in zip(torch.autograd.grad((scale.to(DEVICE).float() * found).sum(), mine), theirs, strict=True):
        assert float((a.cpu().double() - b).norm() / b.norm()) < TOLERANCE[torch.float32]


@pytest.mark.parametrize("size", [5, 128])
def test_sums_by_code(size):
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(3, 50, 7, generator=generator)
    codes = torch.randint(0, size, values.shape, generator=generator, dtype=torch.int32)
    expected = torch.zeros(size).index_add(0, codes.flatten(), values.flatten())
    found = bucket_sums(values.to(DEVICE), codes.to(DEVICE), size).cpu()
    assert torch.allclose(found, expected, atol=1e-5)


@on_gpu
@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("dim", [64, 128, 256])
def test_a_real_catalogue_on_a_gpu(dim, dtype):
    check([200] * 20 + [63, 64, 65, 1, 1000], 3416, dim, dtype, smoothing=0.1, logit=-3.0, pad=97)
