"""Runs the tasks of `ss4rec.data.prepare` on Ray: many at a time, on any node, results in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from typing import Any

import ray

from ss4rec.io.kept_memory import keep_freed_memory

AHEAD = 2
"""Tasks that wait for each CPU, so that none is idle between two."""
CANCEL_S = 10.0
"""How long tasks may take to end when the user stops the job."""


@ray.remote(num_cpus=1, scheduling_strategy="SPREAD", max_retries=3)
def _call(function: list[ray.ObjectRef[Any]], item: Any) -> Any:
    keep_freed_memory()
    return _fetched(function[0])(item)


@lru_cache(maxsize=1)
def _fetched(function: ray.ObjectRef[Any]) -> Callable[[Any], Any]:
    """Return a function from the object store; a worker unpacks it once, not for every task."""
    fetched: Callable[[Any], Any] = ray.get(function)
    return fetched


def ray_map(function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
    """Yield `function(item)` of every item in order; items are taken as tasks end, so a long stream stays short.

    A task whose worker or node dies runs again, three times at most. An exception in a task is raised here.

    Args:
        function: is put into the object store once.
        items: what each task gets.
    """
    limit = max(2, int(ray.cluster_resources().get("CPU", 1)) * (1 + AHEAD))
    shared = [ray.put(function)]  # in a list, so that Ray hands over the reference and not the function
    ordered: deque[ray.ObjectRef[Any]] = deque()
    unfinished: list[ray.ObjectRef[Any]] = []
    try:
        for item in items:
            # Any task that ends makes room, so a long one at the head of the order keeps no CPU waiting.
            while len(unfinished) >= limit:
                _, unfinished = ray.wait(unfinished, num_returns=1, fetch_local=False)
            reference = _call.remote(shared, item)
            ordered.append(reference)
            unfinished.append(reference)
            while ordered[0] not in unfinished:
                yield _result(ordered.popleft())
        while ordered:
            yield _result(ordered.popleft())
    except KeyboardInterrupt:
        _cancel(ordered)
        # Whoever cleans up now must not be followed by a task that still writes.
        ray.wait(list(ordered), num_returns=len(ordered), timeout=CANCEL_S, fetch_local=False)
        raise
    finally:
        _cancel(ordered)


def _cancel(references: Iterable[ray.ObjectRef[Any]]) -> None:
    for reference in references:
        ray.cancel(reference)


def _result(reference: ray.ObjectRef[Any]) -> Any:
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None
