"""Initial values of the time-aware SSM: HiPPO-LegS in its eigenbasis (S5, arXiv 2208.04933, section 3.2)."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

LECUN_SHRINK = 0.87962566103423978
"""s5-pytorch, on which the published model stands, multiplies by the standard deviation of the normal distribution cut
at ±2 where JAX divides by it: its weights start at .77 of the standard deviation that LeCun's rule asks for."""


def hippo_normal_eigen(states: int) -> tuple[Tensor, Tensor]:
    """Return eigenvalues `[P]` and eigenvectors `[P, P]` (complex128) of the normal part of HiPPO-LegS.

    The normal part is A + p pᵀ with p_n = sqrt(n + 1/2) (S4, arXiv 2111.00396, appendix C.1); it is -1/2 plus a
    skew-symmetric matrix, so that all real parts are -1/2. Eigenvalues rise with their imaginary part.
    """
    n = np.arange(states)
    root = np.sqrt(2 * n + 1)
    hippo = -(np.tril(np.outer(root, root)) - np.diag(n))
    normal = hippo + np.outer(np.sqrt(n + 0.5), np.sqrt(n + 0.5))
    skew = normal + 0.5 * np.eye(states)
    imag, vectors = np.linalg.eigh(-1j * skew)
    return torch.from_numpy(-0.5 + 1j * imag), torch.from_numpy(vectors)


def lecun_normal(*shape: int, fan_in: int) -> Tensor:
    """Draw float64 values from a normal distribution cut at two deviations, as s5-pytorch does (`LECUN_SHRINK`)."""
    deviation = LECUN_SHRINK / math.sqrt(fan_in)
    values = torch.empty(*shape, dtype=torch.float64)
    return torch.nn.init.trunc_normal_(values, std=deviation, a=-2 * deviation, b=2 * deviation)


def log_uniform(size: int, low: float, high: float) -> Tensor:
    """Draw the logarithms of `size` values that are log-uniform between `low` and `high`."""
    return torch.empty(size).uniform_(math.log(low), math.log(high))
