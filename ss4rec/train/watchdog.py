"""Says where every thread of a worker stands when a step takes too long: a collective waits for a peer in silence."""

from __future__ import annotations

import faulthandler
import time

_STDERR = 2
_REARM_S = 1.0


class Watchdog:
    """Writes the stacks of all threads to stderr if it is not fed for `after_s` seconds.

    Args:
        after_s: shortly before collective operations time out and end the process.
    """

    def __init__(self, after_s: float) -> None:
        self.after_s = after_s
        self._fed_at = float("-inf")

    def feed(self) -> None:
        """Start counting anew; cheap enough for every step, since the timer is set at most once a second."""
        now = time.monotonic()
        if now - self._fed_at >= min(_REARM_S, self.after_s / 4):
            self._fed_at = now
            # The file descriptor, since Ray and pytest replace sys.stderr by objects without one.
            faulthandler.dump_traceback_later(self.after_s, file=_STDERR)

    def close(self) -> None:
        """Stop counting."""
        faulthandler.cancel_dump_traceback_later()
