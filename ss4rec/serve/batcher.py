"""Requests that come while others are worked on become one batch: where somebody waits, no batch waits to fill."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

from ss4rec.errors import SS4RecError

Asked = TypeVar("Asked")
Answered = TypeVar("Answered")


class BusyError(SS4RecError):
    """More requests wait than are allowed to."""


class Batcher(Generic[Asked, Answered]):
    """Hands requests to one thread, as many at a time as are there.

    Args:
        name: of the thread.
        work: returns an answer, or an error of ours, for each request of a batch.
        most: requests of one batch.
        most_waiting: requests that may wait; more are refused.
        linger_s: how long the first request of a batch waits for others; for work whose end nobody waits for.
    """

    def __init__(
        self,
        name: str,
        work: Callable[[Sequence[Asked]], Sequence[Answered | SS4RecError]],
        most: int = 256,
        most_waiting: int = 2048,
        linger_s: float = 0.0,
    ) -> None:
        self._work = work
        self._most = most
        self._most_waiting = most_waiting
        self._linger_s = linger_s
        self._waiting: list[tuple[Asked, asyncio.Future[Answered]]] = []
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._turn: asyncio.Task[None] | None = None
        self.batches = 0
        self.requests = 0

    async def ask(self, request: Asked) -> Answered:
        """Return the answer to one request.

        Raises:
            BusyError: if too many wait already.
            SS4RecError: what the work says about this request.
        """
        if len(self._waiting) >= self._most_waiting:
            raise BusyError(f"{len(self._waiting)} requests wait already; try again in a second")
        future: asyncio.Future[Answered] = asyncio.get_running_loop().create_future()
        self._waiting.append((request, future))
        if self._turn is None or self._turn.done():
            self._turn = asyncio.create_task(self._work_off())
        return await future

    async def _work_off(self) -> None:
        """Work until nobody waits."""
        loop = asyncio.get_running_loop()
        while self._waiting:
            if self._linger_s:
                await asyncio.sleep(self._linger_s)
            batch, self._waiting = self._waiting[: self._most], self._waiting[self._most :]
            self.batches += 1
            self.requests += len(batch)
            answers: Sequence[Answered | BaseException]
            try:
                answers = await loop.run_in_executor(
                    self._thread, self._work, [request for request, _ in batch]
                )
            except Exception as error:
                answers = [error] * len(batch)
            for (_, future), answer in zip(batch, answers, strict=True):
                if future.done():  # who asked has gone
                    continue
                if isinstance(answer, BaseException):
                    future.set_exception(answer)
                else:
                    future.set_result(answer)

    def close(self) -> None:
        """End the thread when its batch is done."""
        self._thread.shutdown(wait=True)
