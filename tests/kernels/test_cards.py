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


TWINS = {80, 89}
"""Kinds of card for which the program of sm_86 is only assembled; a test compares."""


@compiles
@pytest.mark.timeout(900)
@pytest.mark.parametrize("arch", [card.arch for card in CARDS if card.arch not in TWINS])
def test_every_kernel_starts_on_every_card(arch):
    """Seen to fail: with the tiles of an H100 at width 512 on sm_86 (139 of 99 KiB)."""
    from tools.cards import TWINS as KNOWN
    from tools.cards import compile_with_twins, sample

    cards = {card.arch: card for card in CARDS}
    uses = list(compile_with_twins(cards[arch], sample()))
    wanted = {arch, *KNOWN.get(arch, ())}
    assert wanted <= set(cards)
    for one in wanted:
        mine = [use for of, use in uses if of == one]
        assert len(mine) > 40
        assert {use.kernel for use in mine} == every_kernel()
    assert [(of, use, problem) for of, use in uses if (problem := use.problem(cards[of]))] == []


@compiles
@pytest.mark.timeout(900)
def test_twins_get_the_same_programs():
    """A few shapes, but for the target's name. Seen to fail: with sm_120 among the twins of sm_86."""
    from tools.cards import TWINS as KNOWN
    from tools.cards import programs, small_sample

    assert {86: tuple(sorted(TWINS))} == KNOWN
    cards = {card.arch: card for card in CARDS}
    for arch, twins in KNOWN.items():
        texts = [
            [
                compiled.asm["ptx"].replace(f"sm_{one}", "sm")
                for _, compiled in programs(cards[one], small_sample())
            ]
            for one in (arch, *twins)
        ]
        assert texts[0]
        assert all(text == texts[0] for text in texts)


def test_twins_get_the_same_tiles():
    for dim in (32, 64, 128, 256, 512):
        for kind in (torch.bfloat16, torch.float32):
            for walks in (True, False):
                tiles = [softmax_tile(dim, kind, walks_items=walks, arch=arch) for arch in (86, *TWINS)]
                assert all(tile == tiles[0] for tile in tiles)


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
