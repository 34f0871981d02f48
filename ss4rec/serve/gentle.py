"""Work that leaves the cores to others: a replica that starts must not slow down those that answer."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

Result = TypeVar("Result")
NICE = 10
"""By how much a thread that works gently is nicer: where cores are short it gets a tenth of what another one gets."""


def gently(work: Callable[[], Result]) -> Result:
    """Return what some work gives, done in a thread of its own of low priority; threads that it starts inherit that.

    Where single threads have no priority (not Linux) it is done like any other work.
    """
    done: Future[Result] = Future()

    def run() -> None:
        try:
            if sys.platform == "linux":
                own = threading.get_native_id()
                os.setpriority(os.PRIO_PROCESS, own, min(19, NICE + os.getpriority(os.PRIO_PROCESS, own)))
            done.set_result(work())
        except BaseException as error:
            done.set_exception(error)

    threading.Thread(target=run, name="gentle").start()
    # Not `join`: interrupted there, Python 3.11 takes the thread for ended and leaves it behind, in the midst of torch.
    return done.result()
