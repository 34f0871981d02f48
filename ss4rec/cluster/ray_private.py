"""All that this project takes from Ray's internals; no other module imports them (`tools/imports.py` checks).

Ray gives no promise about these, so this file is what a new version of Ray may break. Each function says which public
interface is missing. Ray is imported late, so that the command line's help does not wait for it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any


def canonical_address(address: str | None) -> str | None:
    """Return `host:port` of the cluster that `ray.init(address)` would join; None if it would start a local one.

    No public call answers this without joining.

    Args:
        address: as for `ray.init`; None looks at RAY_ADDRESS and at the file that `ray start` leaves.
    """
    from ray._private.services import canonicalize_bootstrap_address

    return canonicalize_bootstrap_address(address)  # type: ignore[arg-type]  # None is in its docstring, not its type


def split_address(address: str) -> tuple[str, str] | None:
    """Split `host:port`, IPv6 included; None if there is no port."""
    from ray._common.network_utils import parse_address

    return parse_address(address)  # type: ignore[return-value]


def commentary() -> tuple[list[str], list[logging.Handler]]:
    """Return Ray's loggers and console handlers that comment on every good run: names, and handlers of Ray Data.

    They are set up by Ray's own logging configuration; no option of Ray quiets them one by one.
    """
    from ray._private.log import PlainRayHandler
    from ray.train.v2._internal.execution import context

    names = ["ray.train", context.__file__]  # Ray names this one logger by its file
    handlers = logging.getLogger("ray.data").handlers
    return names, [handler for handler in handlers if isinstance(handler, PlainRayHandler)]


def autoscaler_groups() -> list[tuple[dict[str, float], int]]:
    """Return an autoscaler's node groups as (resources of a node, maximum of nodes; -1: no limit); empty without one.

    Public calls know the nodes that are there, not those that may come.
    """
    from ray._private.state import state

    config = state.get_cluster_config()
    if config is None:
        return []
    return [(dict(group.resources), group.max_count) for group in config.node_group_configs]


def job_metadata() -> Iterator[Mapping[str, str]]:
    """Yield the metadata of each job of the connected cluster.

    The public Jobs API needs the dashboard's address and a token; a worker's set-up hook has neither.
    """
    from ray._private.state import state
    from ray.core.generated.gcs_pb2 import JobTableData  # type: ignore[attr-defined]  # made at run time

    table = state._connect_and_get_accessor().get_job_table(
        skip_submission_job_info_field=True, skip_is_running_tasks_field=True
    )
    for raw in table:
        yield JobTableData.FromString(raw).config.metadata


def remove_placement_groups_of(actor_id: str | None) -> None:
    """Remove the placement groups that an actor has made; the public table does not say who made a group."""
    import ray
    from ray._private.state import state
    from ray.core.generated.gcs_pb2 import PlacementGroupTableData  # type: ignore[attr-defined]
    from ray.util.placement_group import PlacementGroup, remove_placement_group

    for raw in state._connect_and_get_accessor().get_placement_group_table():
        row = PlacementGroupTableData.FromString(raw)
        if row.creator_actor_id.hex() == actor_id and row.state != PlacementGroupTableData.REMOVED:
            remove_placement_group(PlacementGroup(ray.PlacementGroupID(row.placement_group_id)))


def preemption() -> Any:
    """Return what Ray Train's watcher told this worker about a node that is being taken back, or None.

    The public `ray.train.get_preemption_info` waits for all workers.
    """
    from ray.train.v2._internal.execution.context import get_train_context

    return get_train_context().preemption_context.preemption_info


def dashboard_url() -> str | None:
    """Return `host:port` of the connected cluster's dashboard, or None if it has none."""
    from ray._private import worker

    return worker.get_dashboard_url()


def pack_folder(folder: Path, target: Path) -> None:
    """Zip `folder` into `target` exactly as Ray would for an upload: .gitignore and .rayignore hold.

    The public way packs and uploads at once, so the size would be known too late.
    """
    from ray._private.ray_constants import get_runtime_env_default_excludes
    from ray._private.runtime_env.packaging import create_package

    quiet = logging.getLogger(f"{__name__}.packer")
    quiet.setLevel(logging.CRITICAL)
    create_package(
        str(folder),
        target,
        include_gitignore=True,
        excludes=get_runtime_env_default_excludes(),
        logger=quiet,
    )


def cpus() -> float:
    """Return the CPUs of this machine, or of its container, as a Ray that starts here would count them."""
    from ray._private.utils import get_num_cpus

    return get_num_cpus()


def memory_bytes() -> int:
    """Return the memory of this machine, or of its container, as a Ray that starts here would count it."""
    from ray._common.utils import get_system_memory

    return get_system_memory()


def free_port() -> int:
    """Return a TCP port of this machine that nobody listens at."""
    from ray._common.network_utils import find_free_port

    return find_free_port()


def has_token() -> bool:
    """Return whether a client of Ray would find an authentication token here (RAY_AUTH_TOKEN, its file)."""
    from ray._raylet import AuthenticationTokenLoader  # type: ignore[attr-defined]

    return AuthenticationTokenLoader.instance().has_token(ignore_auth_mode=True)
