"""Linear recurrences by doubling, for programs that are recorded once and run at any length.

x_k = a_k x_(k-1) + b_k is computed in log2(T) rounds: after round r each place holds what the last 2^r events make. The
rounds are fixed when a program is recorded, the length is not. It is naive: T log T work, and all states in memory.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def prefix(decay_TX: Tensor, added_TX: Tensor, rounds: int) -> Tensor:
    """Return x_k = decay_k x_(k-1) + added_k for every k, 0 before the first; right for T up to 2 ** `rounds`."""
    for r in range(rounds):
        added_TX = added_TX + decay_TX * _earlier(added_TX, 2**r, 0.0)
        decay_TX = decay_TX * _earlier(decay_TX, 2**r, 1.0)
    return added_TX


def complex_prefix(decay_T2P: Tensor, added_T2P: Tensor, rounds: int) -> Tensor:
    """Return the same for complex numbers, real parts then imaginary parts."""
    decay = decay_T2P.chunk(2, dim=1)
    added = added_T2P.chunk(2, dim=1)
    for r in range(rounds):
        before = [_earlier(part, 2**r, 0.0) for part in added]
        carried = _times(decay, before)
        added = (added[0] + carried[0], added[1] + carried[1])
        decay = _times(decay, [_earlier(decay[0], 2**r, 1.0), _earlier(decay[1], 2**r, 0.0)])
    return torch.cat(list(added), dim=1)


def _times(left: tuple[Tensor, ...], right: list[Tensor]) -> tuple[Tensor, Tensor]:
    return left[0] * right[0] - left[1] * right[1], left[0] * right[1] + left[1] * right[0]


def _earlier(values_TX: Tensor, by: int, filled: float) -> Tensor:
    """Return the values of `by` places before, and `filled` where there is none."""
    sides = [0, 0] * (values_TX.ndim - 1) + [by, 0]
    return F.pad(values_TX, sides, value=filled)[: values_TX.shape[0]]
