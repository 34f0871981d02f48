"""The two requests that come all the time, past the web framework, which takes more of a core than the rest of them.

A request that cannot be read goes the long way, which says what is wrong with it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from types import SimpleNamespace
from typing import Any

from pydantic import BaseModel, ValidationError

from ss4rec.errors import SS4RecError
from ss4rec.serve.guards import App, Message, Receive, Scope, Send

Answerer = tuple[type[BaseModel], Callable[[Any], Awaitable[BaseModel]]]
"""What a body is, and what answers it."""


class ShortWay:
    """Answers POST requests of some paths with JSON in and JSON out. Plain ASGI.

    Args:
        app: the long way.
        answerers: by path.
        refuse: returns what answers a request that met an error.
    """

    def __init__(
        self, app: App, answerers: Mapping[str, Answerer], refuse: Callable[[Exception], App]
    ) -> None:
        self.app = app
        self.answerers = answerers
        self.refuse = refuse

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request or pass it on."""
        answerer = self.answerers.get(scope.get("path", "")) if scope.get("method") == "POST" else None
        if answerer is None or not _is_json(scope):
            await self.app(scope, receive, send)
            return
        kind, answer = answerer
        messages: list[Message] = [await receive()]
        while messages[-1].get("more_body", False):
            messages.append(await receive())
        try:
            body = kind.model_validate_json(b"".join(message.get("body", b"") for message in messages))
        except ValidationError:

            async def replay() -> Message:
                return messages.pop(0) if messages else await receive()

            await self.app(scope, replay, send)
            return
        scope["route"] = SimpleNamespace(path=scope["path"])
        try:
            found = (await answer(body)).model_dump_json().encode()
        except Exception as error:
            await self.refuse(error)(scope, receive, send)
            if not isinstance(error, SS4RecError):
                raise  # so that the log has it
            return
        fields = [(b"content-type", b"application/json"), (b"content-length", str(len(found)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": fields})
        await send({"type": "http.response.body", "body": found})


def _is_json(scope: Scope) -> bool:
    """Return whether a request says that its body is JSON."""
    return any(name == b"content-type" and value == b"application/json" for name, value in scope["headers"])
