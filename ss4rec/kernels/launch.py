"""Launches Triton kernels, and compiles beforehand, side by side, all that a piece of work is going to launch.

Triton compiles a kernel where it is first launched, one after another: the kernels of one training step take 18 s of
one core on a fresh machine. Most of it is C++ that releases Python's lock, so threads do it side by side.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor

MOST_THREADS = 16
"""A step has some fifteen kernels, and the longest takes a third of all."""

_noted: dict[Hashable, Callable[[], object]] | None = None
"""What would have to be compiled, while nothing is launched. Not a context variable: autograd's threads see it too."""


def launch(kernel: Any, grid: tuple[int, ...], *args: Any, **options: Any) -> None:
    """Launch a Triton kernel; within `compile_together`, note it instead and write nothing.

    Args:
        kernel: a function under `triton.jit`.
        grid: programs in each direction.
        args: the kernel's arguments, in order.
        options: constants and options of the compiler, by name.
    """
    if _noted is None:
        kernel[grid](*args, **options)
        return
    kinds = tuple((x.dtype, x.data_ptr() % 16) if isinstance(x, Tensor) else x for x in args)
    key = (id(kernel), kinds, tuple(sorted(options.items())))
    _noted.setdefault(key, partial(kernel.warmup, *args, grid=grid, **options))


@cache
def current_arch() -> int:
    """Return the compute capability that Triton compiles for, as in 86; an H100's in its CPU interpreter."""
    import triton

    if triton.knobs.runtime.interpret:
        return 90
    return int(triton.runtime.driver.active.get_current_target().arch)


def compile_together(work: Callable[[], object]) -> int:
    """Run `work` without launching any of our kernels, then compile those that it would have launched.

    What `work` computes is garbage: the results of kernels are left as they were allocated. It may draw random numbers.

    Args:
        work: launches kernels by `launch`, also in backward passes.

    Returns:
        How many different kernels there were.

    Raises:
        RuntimeError: if called within `work`.
    """
    global _noted
    if _noted is not None:
        raise RuntimeError(
            "compile_together was called by the work that it runs; call it once, around all of it"
        )
    _noted = {}
    try:
        work()
    finally:
        jobs, _noted = list(_noted.values()), None
    if not jobs:
        return 0
    device = torch.cuda.current_device() if torch.cuda.is_available() else None
    threads = min(MOST_THREADS, len(os.sched_getaffinity(0)))
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(partial(_compile, device=device), jobs))
    return len(jobs)


def _compile(job: Callable[[], object], device: int | None) -> None:
    """Compile for `device`; each thread has a current device of its own."""
    if device is not None:
        torch.cuda.set_device(device)
    job()
