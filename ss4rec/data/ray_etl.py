"""Runs the tasks of `ss4rec.data.etl` on Ray: many at a time, on any node, results in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import ray

AHEAD = 2
"""Tasks that wait for each CPU, so that none is idle between two."""


@ray.remote(num_cpus=1, scheduling_strategy="SPREAD", max_retries=3)
def _call(function: Callable[[Any], Any], item: Any) -> Any:
    return function(item)


def ray_map(function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
    """Yield `function(item)` of every item in order; items are taken as tasks end, so a long stream stays short.

    A task whose worker or node dies runs again, three times at most. An exception in a task is raised here.

    Args:
        function: is put into the object store once.
        items: what each task gets.
    """
    limit = max(2, int(ray.cluster_resources().get("CPU", 1)) * (1 + AHEAD))
    shared = ray.put(function)
    running: deque[ray.ObjectRef] = deque()
    try:
        for item in items:
            if len(running) >= limit:
                yield _result(running.popleft())
            running.append(_call.remote(shared, item))
        while running:
            yield _result(running.popleft())
    finally:
        for reference in running:
            ray.cancel(reference)


def _result(reference: ray.ObjectRef) -> Any:
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None
