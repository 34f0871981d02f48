"""Checks a run's storage before anything starts: storage that other nodes cannot see fails at the first checkpoint.

Ray is imported late, so that `ss4rec doctor` can look at a folder without it.
"""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ss4rec.errors import ResourceError

STORAGE_BYTES = 1 << 30
"""Free space that a run's folder must have by default: some checkpoints of a large catalogue and the logs."""


def check_storage(path: str, need_bytes: int = STORAGE_BYTES) -> None:
    """Write, read and delete a marker in the folder `path` (made if it is missing), and look at its free space.

    Raises:
        ResourceError: if any of it fails, with the path and the reason.
    """
    with _marker(path):
        free = shutil.disk_usage(path).free
    if free < need_bytes:
        raise ResourceError(
            f"storage {path}: {free / 2**20:,.0f} MiB free, at least {need_bytes / 2**20:,.0f} MiB "
            "wanted; free some space or choose another with --storage"
        )


def storage_preflight(path: str, *, need_bytes: int = STORAGE_BYTES) -> None:
    """Check `path` from here and from every node of the connected Ray cluster.

    With several nodes it must be the same folder on all of them (NFS, network volume, PVC): each node must read
    the marker that this process wrote, and write one of its own.

    Raises:
        ResourceError: with every node that failed and why.
    """
    check_storage(path, need_bytes)
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    nodes = [node for node in ray.nodes() if node["Alive"]]
    if len(nodes) == 1:
        return
    pinned = [NodeAffinitySchedulingStrategy(node["NodeID"], soft=False) for node in nodes]
    probe = ray.remote(num_cpus=0)(_probe)
    with _marker(path) as marker:
        problems = ray.get(
            [probe.options(scheduling_strategy=strategy).remote(marker) for strategy in pinned]
        )
    answers = zip(nodes, problems, strict=True)
    failed = [f"  {node['NodeManagerAddress']}: {problem}" for node, problem in answers if problem]
    if failed:
        raise ResourceError(
            f"storage {path} is not the same folder on every node ({len(failed)} of {len(nodes)} failed):\n"
            + "\n".join(failed)
            + "\nUse a folder that all nodes mount at the same path (NFS, a network volume, a PVC)"
        )


@contextmanager
def _marker(path: str) -> Iterator[Path]:
    """Hold a marker file in `path` for the length of the block."""
    if "://" in path:
        raise ResourceError(f"storage {path} is no folder; mount the bucket and name its mount point")
    marker = Path(path) / f".ss4rec-preflight-{uuid.uuid4().hex}"
    try:
        marker.parent.mkdir(parents=True, exist_ok=True)
        marker.write_text(marker.name)
    except OSError as error:
        raise ResourceError(
            f"storage {path} cannot be written: {error}; choose another with --storage"
        ) from None
    try:
        yield marker
    finally:
        marker.unlink()


def _probe(marker: Path) -> str | None:
    """Read the driver's marker and write one of our own beside it; return what went wrong, if anything did."""
    try:
        if marker.read_text() != marker.name:
            return "the driver's marker file came back changed"
        own = marker.with_name(f"{marker.name}-{uuid.uuid4().hex}")
        own.write_text(own.name)
        own.unlink()
    except FileNotFoundError:
        return "the driver's marker file is not there"
    except OSError as error:
        return str(error)
    return None


def nearest_existing(path: str) -> Path:
    """Return `path` or its nearest parent that exists, so that looking does not create folders."""
    here = Path(path).absolute()
    return next(folder for folder in (here, *here.parents) if folder.exists())
