"""Work in a thread beside the rest: reading and checksums hold no lock of Python's."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

Found = TypeVar("Found")


def begin(work: Callable[[], Found]) -> Future[Found]:
    """Start `work` in a thread; the future has what it returns or raises.

    Nothing waits for the thread at the end of the process, so a long piece of work does not hold up Ctrl-C.
    """
    future: Future[Found] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:  # is raised where the result is asked for
            future.set_exception(error)

    threading.Thread(target=run, name="beside", daemon=True).start()
    return future
