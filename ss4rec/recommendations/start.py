"""The start of a worker: how long each part of it takes, and what of it can go on beside another part."""

from __future__ import annotations

import ctypes
import threading
import time
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Start:
    """When the parts of a worker's start had ended, in seconds after the job asked for workers.

    Clocks of two machines may differ; on one machine the figures are exact.
    """

    asked_at: float
    """Unix time."""
    seconds: dict[str, float] = field(default_factory=dict)
    _told: bool = False

    def note(self, name: str) -> None:
        """Keep the present moment under a name, if it is the first of this name."""
        self.seconds.setdefault(name, round(time.time() - self.asked_at, 3))

    def reported(self) -> dict[str, float]:
        """Return what was noted; nothing the next time."""
        found = {} if self._told else self.seconds
        self._told = True
        return found


def open_card(device: str) -> threading.Thread:
    """Begin to make the CUDA context of the first card, which torch takes over; a thread to join before torch is used.

    It takes about as long as the import of torch does, and needs nothing of it. Where there is no driver it does
    nothing: torch says then what is missing.
    """
    thread = threading.Thread(target=_open_context if device.startswith("cuda") else int, daemon=True)
    thread.start()
    return thread


def _open_context() -> None:
    try:
        driver: Any = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return
    card, context = ctypes.c_int(), ctypes.c_void_p()
    if driver.cuInit(0) == 0 and driver.cuDeviceGet(ctypes.byref(card), 0) == 0:
        driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), card)
