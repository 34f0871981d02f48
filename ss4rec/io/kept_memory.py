"""Memory that a process keeps when it frees it, for what it allocates next."""

from __future__ import annotations

import ctypes
from functools import lru_cache

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3
"""Parameters of glibc's mallopt(3)."""
MOST_KEPT = (1 << 31) - 1
"""Bytes that may lie free at the end of the heap."""
AHEAD = 1 << 26
"""Bytes that the heap grows by at minimum."""
LARGE = 1 << 30
"""Blocks from this size on are still taken from the system, and given back, one by one."""


@lru_cache(maxsize=1)
def keep_freed_memory() -> bool:
    """Let this process keep freed memory; return whether its C library can. Meant for workers, which do little else.

    Blocks of 32 MiB and more come from the system and go back to it each time, and each of their pages costs a fault
    when it is first written, which took a quarter of the time of ranking on a CPU.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    wanted = {_MMAP_THRESHOLD: LARGE, _TRIM_THRESHOLD: MOST_KEPT, _TOP_PAD: AHEAD}
    return bool(min(mallopt(parameter, value) for parameter, value in wanted.items()))
