"""What every pool of Ray Data's actors needs: room on the cluster, and a name that Ray's pages show.

Imports nothing heavy: an actor loads this before it does anything else.
"""

from __future__ import annotations

import re

from ss4rec.errors import ResourceError


def require_room(workers: int, gpu: bool, what: str) -> None:
    """Refuse a pool that the cluster cannot hold: Ray Data would wait for ever without a word.

    Raises:
        ResourceError: with the numbers; `what` names the workers in it.
    """
    import ray

    kind = "GPU" if gpu else "CPU"
    have = ray.cluster_resources().get(kind, 0)
    if have < workers:
        raise ResourceError(
            f"{workers} {what} need a {kind} each, the cluster has {have:g}; ask for fewer workers"
        )


def free_cpus() -> int:
    """Return how many CPUs of the cluster nobody has asked for, but 1 if there are none."""
    import ray

    return max(1, int(ray.available_resources().get("CPU", 0)))


def dataset_name(*words: str) -> str:
    """Return a name that Ray takes for a data set: its dashboard and metrics show it."""
    return "-".join(re.sub(r"[^A-Za-z0-9_]+", "_", word) for word in words)
