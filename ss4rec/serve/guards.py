"""What stands before the application: tokens, and limits of size and rate. Plain ASGI."""

from __future__ import annotations

import hmac
import json
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

OPEN_PATHS = ("/health", "/ready", "/demo", "/docs", "/openapi.json")
"""Need no token: what a load balancer asks, and pages that hold no data."""
MOST_CLIENTS = 10_000
"""Clients whose rate is remembered."""


@dataclass(frozen=True)
class Limits:
    """What one client may do."""

    tokens: tuple[str, ...] = ()
    """Any of these lets a request in, as `Authorization: Bearer TOKEN`; none: all requests are let in."""
    body_bytes: int = 1 << 20
    """Largest body of a request."""
    requests_per_s: float = 0.0
    """Requests a second of one token, or of one address where there are no tokens; 0: no limit."""
    burst_s: float = 2.0
    """Seconds of that rate that may come at once."""


class Guard:
    """Refuses what is not let in, with one sentence, before anything of it is read.

    Args:
        app: what comes next.
        limits: the rules.
        clock: seconds.
    """

    def __init__(self, app: App, limits: Limits, clock: Callable[[], float] = time.monotonic) -> None:
        self.app = app
        self.limits = limits
        self.clock = clock
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._tokens = [token.encode() for token in limits.tokens]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through or answer it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        token = headers.get(b"authorization", b"").removeprefix(b"Bearer ").strip()
        if not self._is_open(scope["path"]) and self._tokens and not self._knows(token):
            sentence = "send a token that this server knows, as in Authorization: Bearer TOKEN"
            await _refuse(send, 401, sentence, (b"www-authenticate", b"Bearer"))
            return
        client = token.decode("latin-1") if self._tokens else str((scope.get("client") or ("",))[0])
        if self.limits.requests_per_s and not self._is_open(scope["path"]) and not self._may(client):
            sentence = f"more than {self.limits.requests_per_s:g} requests a second; try again in a second"
            await _refuse(send, 429, sentence, (b"retry-after", b"1"))
            return
        if int(headers.get(b"content-length", b"0") or 0) > self.limits.body_bytes:
            await _refuse(send, 413, self._too_large)
            return
        await self._measured(scope, receive, send)

    @property
    def _too_large(self) -> str:
        return f"the body has more than {self.limits.body_bytes:,} bytes; send less at a time"

    async def _measured(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Read a body that does not say how long it is, no further than allowed."""
        messages: list[Message] = []
        size, more = 0, True
        while more:
            message = await receive()
            messages.append(message)
            if message["type"] != "http.request":
                break
            size += len(message.get("body", b""))
            if size > self.limits.body_bytes:
                await _refuse(send, 413, self._too_large)
                return
            more = message.get("more_body", False)

        async def replay() -> Message:
            return messages.pop(0) if messages else await receive()

        await self.app(scope, replay, send)

    def _is_open(self, path: str) -> bool:
        return path == "/" or path.startswith(OPEN_PATHS)

    def _knows(self, token: bytes) -> bool:
        found = [hmac.compare_digest(token, known) for known in self._tokens]  # in a time that says nothing
        return any(found)

    def _may(self, client: str) -> bool:
        """Take one request from what a client has left (token bucket)."""
        rate, now = self.limits.requests_per_s, self.clock()
        most = max(1.0, rate * self.limits.burst_s)
        left, since = self._left.pop(client, (most, now))
        left = min(most, left + rate * (now - since))
        self._left[client] = (left - 1.0 if left >= 1.0 else left, now)
        while len(self._left) > MOST_CLIENTS:
            self._left.popitem(last=False)
        return left >= 1.0


async def _refuse(send: Send, status: int, sentence: str, *headers: tuple[bytes, bytes]) -> None:
    body = json.dumps({"error": sentence}).encode()
    fields = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()), *headers]
    await send({"type": "http.response.start", "status": status, "headers": fields})
    await send({"type": "http.response.body", "body": body})
