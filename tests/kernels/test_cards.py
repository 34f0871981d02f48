"""Every kernel in every shape starts on every kind of card; compiled without one (`make test-kernels`)."""

import importlib.util
import os
import re
from pathlib import Path

import pytest
import torch

from ss4rec.errors import BackendError
from ss4rec.kernels import resolve_loss_backend
from ss4rec.kernels.cards import CARDS, MAX_WIDTH, softmax_tile, stores_logits

compiles = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None or os.environ.get("TRITON_INTERPRET") == "1",
    reason="needs triton, and not its interpreter",
)


def every_kernel() -> set[str]:
    """Return the names of the functions that are launched, from the source."""
    from ss4rec import kernels

    text = "".join(path.read_text() for path in Path(kernels.__file__).parent.glob("*.py"))
    return set(re.findall(r"^def (\w+_kernel)\(", text, re.M))


@compiles
@pytest.mark.timeout(900)
@pytest.mark.parametrize("card", CARDS, ids=lambda card: f"sm_{card.arch}")
def test_every_kernel_starts_on_every_card(card):
    """Seen to fail: with the tiles of an H100 at width 512 on sm_86 (139 of 99 KiB)."""
    from tools.cards import compile_for, sample

    uses = list(compile_for(card, sample()))
    assert len(uses) > 40
    assert {use.kernel for use in uses} == every_kernel()
    assert [(use, problem) for use in uses if (problem := use.problem(card))] == []


def test_the_tiles_of_an_h100_are_those_that_were_measured():
    tile = softmax_tile(64, torch.bfloat16, walks_items=True, arch=90)
    assert (tile["BLOCK_R"], tile["BLOCK_V"], tile["num_stages"], tile["num_warps"]) == (128, 64, 3, 4)
    assert softmax_tile(128, torch.bfloat16, walks_items=True, arch=90)["BLOCK_R"] == 64
    assert softmax_tile(128, torch.bfloat16, walks_items=False, arch=90)["BLOCK_R"] == 128


def test_rows_that_are_too_wide_are_refused_by_name_and_left_to_the_reference_by_auto():
    assert resolve_loss_backend("auto", "cuda", MAX_WIDTH + 1) == "reference"
    with pytest.raises(BackendError, match=r"at most 512 values, model.dim is 513|triton is missing"):
        resolve_loss_backend("triton", "cuda", MAX_WIDTH + 1)


@pytest.mark.parametrize(
    ("dim", "narrow", "held", "expected"),
    [(64, True, False, False), (64, True, True, True), (129, True, False, True), (256, False, True, False)],
)
def test_where_logits_in_memory_are_faster(dim, narrow, held, expected):
    assert stores_logits(dim, narrow, held) is expected
