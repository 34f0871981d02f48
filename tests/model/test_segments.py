"""Layouts of packed sequences."""

import pytest
import torch

from ss4rec.model.segments import Segments


def test_time_major_order_is_a_permutation_step_by_step():
    segments = Segments.from_lengths([2, 4, 1])
    layout = segments.time_major
    assert layout.active == (3, 2, 1, 1)
    assert layout.order_T.tolist() == [2, 0, 6, 3, 1, 4, 5]
    assert layout.order_T[layout.inverse_T].tolist() == list(range(7))


@pytest.mark.parametrize("size", [1, 2, 5])
def test_groups_hold_every_token_once_in_time_major_order(size):
    segments = Segments.from_lengths([3, 1, 4, 4, 2])
    groups = segments.time_major_groups(size)
    assert torch.cat([group.order_T for group in groups]).sort().values.tolist() == list(range(14))
    for group in groups:
        assert group.active[0] <= size
        for start, count, step in zip(group.starts, group.active, range(99), strict=False):
            assert bool((segments.positions_T[group.order_T[start : start + count]] == step).all())


def test_pad_and_unpad_are_inverse():
    segments = Segments.from_lengths([2, 4, 1])
    values = torch.randn(7, 3)
    padded = segments.pad(values)
    assert padded.shape == (3, 4, 3)
    assert not padded[0, 2:].any()
    assert torch.equal(segments.unpad(padded), values)


@pytest.mark.parametrize("offsets", [[1, 2], [0, 2, 2], [0]])
def test_bad_offsets_are_refused(offsets):
    with pytest.raises(ValueError, match="offsets"):
        Segments(torch.tensor(offsets))
