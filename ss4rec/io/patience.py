"""Waits for a file server that does not answer for a while, and says so."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TypeVar

from ss4rec.errors import DataError

PATIENCE_S = 600.0
"""Seconds for which a server may be away, from its first refusal on."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 15.0
"""Between two attempts; each pause is twice the one before. pyarrow's own client tries three times in each attempt."""
_AWAY = (
    *("NETWORK_CONNECTION", "SERVICE_UNAVAILABLE", "SLOW_DOWN", "REQUEST_TIMEOUT", "INTERNAL_FAILURE"),
    *("HTTP status 5", "curlCode"),
)
"""What errors of pyarrow's S3 client hold where the server is the cause and not the request."""
_log = logging.getLogger("ss4rec.io")
_ResultT = TypeVar("_ResultT")


def patiently(what: object, action: Callable[[], _ResultT]) -> _ResultT:
    """Return what `action` returns; where the server does not answer, try again for `PATIENCE_S`.

    Args:
        what: the file or folder, for the lines that say that it is waited for.
        action: gives the same when it is done twice.

    Raises:
        DataError: if the server stays away.
        OSError: anything else that is wrong: no such file, no right to read it.
    """
    began, pause_s = None, FIRST_PAUSE_S
    while True:
        try:
            result = action()
        except OSError as error:
            if not server_is_away(error):
                raise
            reason = " ".join(str(error).split())[:200]
            if began is None:
                began = time.monotonic()
                _log.warning(
                    "%s: the server does not answer; trying again for %.0f s (%s)", what, PATIENCE_S, reason
                )
            if time.monotonic() - began + pause_s > PATIENCE_S:
                raise DataError(
                    f"{what}: the server has not answered for {PATIENCE_S:.0f} s ({reason}); when it does, start the "
                    "same command again, it continues"
                ) from None
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
            continue
        if began is not None:
            _log.warning("%s: the server answers again after %.0f s", what, time.monotonic() - began)
        return result


def server_is_away(error: OSError) -> bool:
    """Return whether the same request may succeed later."""
    if isinstance(error, ConnectionError | TimeoutError):
        return True
    if type(error) is not OSError:  # FileNotFoundError, PermissionError and their like
        return False
    return any(word in str(error) for word in _AWAY)
