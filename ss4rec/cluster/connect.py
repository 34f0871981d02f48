"""Joins a Ray cluster, or starts a local one for the length of a command."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import ray
import ray.data

from ss4rec.cluster import ray_private
from ss4rec.errors import ResourceError

_ANSWER_S = 5.0


@contextmanager
def cluster(address: str | None = None, *, dashboard: bool = True) -> Iterator[None]:
    """Connect to Ray for the length of the block.

    Args:
        address: a cluster's address. None takes RAY_ADDRESS (as set inside a Ray job), else a cluster that `ray start`
            runs on this machine, else starts a local one that ends with the block.
        dashboard: whether a cluster that is started here gets a dashboard. Without one Ray Train cannot free the
            resources of a run that was killed.

    Raises:
        ResourceError: if no cluster answers at the address that was given or found.
    """
    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Idle workers above the CPU count die after a second by default; each costs 2-3 s to start again.
    os.environ.setdefault("RAY_num_workers_soft_limit", "8")
    _require_answer(address)
    try:
        ray.init(
            address=address, namespace="ss4rec", logging_level=logging.WARNING, include_dashboard=dashboard
        )
    except ConnectionError as error:
        asked = address or os.environ.get("RAY_ADDRESS", "the address that `ray start` left on this machine")
        raise ResourceError(
            f"no Ray cluster answers at {asked}: {error}. Start one with `ray start --head`, or pass --address local "
            "to start one for this command"
        ) from None
    quiet_ray()
    try:
        yield
    finally:
        ray.shutdown()


def _require_answer(address: str | None) -> None:
    """Refuse at once an address that nobody listens at.

    `ray start` leaves its address in a file that a killed head does not remove, and Ray waits for minutes there.

    Raises:
        ResourceError: naming the address and where it comes from.
    """
    if address is not None and "://" in address:  # Ray Client has a protocol and a time-out of its own
        return
    found = ray_private.canonical_address(address)
    if found is None:
        return
    host, port = ray_private.split_address(found) or (found, "0")
    try:
        socket.create_connection((host, int(port)), timeout=_ANSWER_S).close()
    except OSError as error:
        source = "--address" if address else "RAY_ADDRESS, or left by a `ray start` that has ended"
        raise ResourceError(
            f"no Ray cluster answers at {found} ({source}): {error}. Pass --address local to start one here, "
            "or the address of one that runs"
        ) from None


def quiet_ray() -> None:
    """Keep Ray's running commentary out of this process's console (its log files stay whole); warnings pass."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    names, handlers = ray_private.commentary()
    for name in names:
        logging.getLogger(name).setLevel(logging.WARNING)
    for handler in handlers:
        handler.setLevel(logging.WARNING)
        handler.addFilter(lambda record: not record.getMessage().startswith("Progress bars disabled"))
