"""Sums by code in Triton, in a fixed order: the gradient of looking up millions of codes in a table of a hundred rows.

Adding with atomics would collide at few addresses and give other last digits each time.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ss4rec.kernels.launch import launch

BLOCK = 1024
"""Values that a program has in registers at one time."""
MOST_PROGRAMS = 1024


def bucket_sums(values_X: Tensor, code_X: Tensor, size: int) -> Tensor:
    """Return the sum of the values of each code 0..size-1, `[size]`, in the values' type.

    Args:
        values_X: float32 values.
        code_X: int32 code of each.
        size: number of codes.
    """
    values_X, code_X = values_X.contiguous(), code_X.contiguous()
    programs = max(1, min(MOST_PROGRAMS, triton.cdiv(values_X.numel(), BLOCK)))
    partial_GN = values_X.new_empty(programs, size, dtype=torch.float32)
    launch(_bucket_kernel, (programs,), values_X, code_X, partial_GN, values_X.numel(), programs,
        SIZE=size, SIZE_2=triton.next_power_of_2(size), BLOCK=BLOCK, num_warps=4,
    )  # fmt: skip
    return partial_GN.sum(0).to(values_X.dtype)


@triton.jit
def _bucket_kernel(
    values_ptr: tl.tensor, code_ptr: tl.tensor, partial_ptr: tl.tensor, X: tl.tensor, PROGRAMS: tl.tensor,
    SIZE: tl.constexpr, SIZE_2: tl.constexpr, BLOCK: tl.constexpr,
) -> None:  # fmt: skip
    """Program g: the sums of every `PROGRAMS`-th block."""
    n = tl.arange(0, SIZE_2)
    sums = tl.zeros([SIZE_2], tl.float32)
    for first in range(tl.program_id(0) * BLOCK, X, PROGRAMS * BLOCK):
        x = first + tl.arange(0, BLOCK)
        values = tl.load(values_ptr + x, mask=x < X, other=0.0).to(tl.float32)
        code = tl.load(code_ptr + x, mask=x < X, other=-1).to(tl.int32)
        for c in range(SIZE):
            total = tl.sum(tl.where(code == c, values, 0.0), 0)
            sums += tl.where(n == c, total, 0.0)
    tl.store(partial_ptr + tl.program_id(0) * SIZE + n, sums, mask=n < SIZE)
