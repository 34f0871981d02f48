"""Ctrl-C and SIGTERM in every verb: the first asks for an orderly stop, the second ends the process at once.

A verb that has nothing to finish is interrupted where it is. One that has something, as training has a checkpoint to
write, says so with `finish_first`, and is interrupted when that is done. The exit code is 130 either way.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

EXIT_CODE = 130
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_WAKE = signal.SIGUSR2
"""Sent to the main thread by the one that finished what there was to finish; Ray Tune uses SIGUSR1."""


class Interrupted(KeyboardInterrupt):
    """The user or a scheduler ended this command; its text is what the user reads last."""


class _Handler:
    """The handlers of one process."""

    def __init__(self) -> None:
        self.signals = 0
        self.finishing: list[Callable[[], str]] = []

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self.signals += 1
        if self.signals > 1:
            os.write(2, b"\x1b[?25h\nended at once\n" if sys.stderr.isatty() else b"ended at once\n")
            os._exit(EXIT_CODE)
        if not self.finishing:
            if _is_importing("torch"):
                os.write(2, f"{_last_words}\n".encode())
                os._exit(EXIT_CODE)
            raise Interrupted(_last_words)
        threading.Thread(
            target=self._finish, args=(self.finishing[-1],), name="stopping", daemon=True
        ).start()

    def _finish(self, finish: Callable[[], str]) -> None:
        global _last_words
        try:
            _last_words = finish()
        except Exception as error:  # whatever it is, the user wanted to stop
            _last_words = f"stopped ({error})"
        signal.pthread_kill(threading.main_thread().ident or 0, _WAKE)

    def wake(self, number: int, frame: FrameType | None) -> None:
        """Answer the signal with which `_finish` says that it is done: stop the main thread."""
        raise Interrupted(_last_words)


def _is_importing(name: str) -> bool:
    """Return whether a module is being imported; in the middle of torch, an exception is an abort of the process."""
    return bool(getattr(getattr(sys.modules.get(name), "__spec__", None), "_initializing", False))


_handler: _Handler | None = None
_last_words = "stopped"


def last_words() -> str:
    """Return what the user reads last after an interruption.

    Not the exception's own text: Ray raises a plain KeyboardInterrupt instead of ours where it waits in C++.
    """
    return _last_words


@contextmanager
def interruptible() -> Iterator[None]:
    """Handle SIGINT and SIGTERM as described above for the length of the block; only in the main thread."""
    global _handler, _last_words
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before: dict[int, Any] = {number: signal.getsignal(number) for number in (*_SIGNALS, _WAKE)}
    _handler, _last_words = _Handler(), "stopped"
    try:
        claim_signals()
        yield
    finally:
        _handler = None
        for number, old in before.items():
            signal.signal(number, old)


def claim_signals() -> None:
    """Take the signals back from a library that has put handlers of its own in place; nothing outside a command."""
    if _handler is not None and threading.current_thread() is threading.main_thread():
        for number in _SIGNALS:
            signal.signal(number, _handler)
        signal.signal(_WAKE, _handler.wake)


@contextmanager
def finish_first(finish: Callable[[], str]) -> Iterator[None]:
    """Let the first signal in this block call `finish`, in a thread, and interrupt the main thread when it returns.

    Args:
        finish: does what has to be done before the end and returns what the user shall read last.
    """
    if _handler is None:
        yield
        return
    _handler.finishing.append(finish)
    try:
        yield
    finally:
        if _handler is not None:
            _handler.finishing.remove(finish)
