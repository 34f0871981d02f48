"""All that this project takes from Ray's internals; no other module imports them (`tools/imports.py` checks).

Ray gives no promise about these, so this file is what a new version of Ray may break. Each function says which public
interface is missing. Ray is imported late, so that the command line's help does not wait for it.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def last_started() -> str | None:
    """Return the address that the last `ray start` on this machine left in Ray's file; its cluster may be gone."""
    from ray._private.utils import read_ray_address

    return read_ray_address() or None


def running_heads() -> set[str]:
    """Return the addresses of the clusters that have a process on this machine, from its process list."""
    from ray._private.services import find_gcs_addresses

    find_gcs_addresses.cache_clear()  # type: ignore[attr-defined]
    return set(find_gcs_addresses())


def outer_address() -> str:
    """Return the address of this machine that Ray gives a node which is started without one."""
    from ray._private.services import node_ip_address_from_perspective  # type: ignore[attr-defined]

    return str(node_ip_address_from_perspective())


@contextmanager
def on_loopback(wanted: bool) -> Iterator[None]:
    """Let Ray in this process use 127.0.0.1 where it would replace it by the machine's outer address.

    Ray has a variable for this, meant for macOS and Windows, and reads it at import; a head that was started with
    `--node-ip-address=127.0.0.1` cannot be joined without it.
    """
    from ray._private import ray_constants

    name = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
    before, variable = ray_constants.ENABLE_RAY_CLUSTER, os.environ.get(name)
    if wanted:
        ray_constants.ENABLE_RAY_CLUSTER = False
        os.environ[name] = "0"  # for processes that are started here
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before
        if wanted and variable is None:
            os.environ.pop(name, None)


def send_token(*, new_cluster: bool) -> None:
    """Use token authentication if nothing else is said: for a cluster that is started here, or if there is a token.

    `ray.init` does so from 2.59 on and only where it finds the cluster itself, not for an address, and says so in a
    warning each time; the Jobs API's client never does.
    """
    from ray._raylet import Config  # type: ignore[attr-defined]

    if os.environ.get("RAY_AUTH_MODE") is None and (new_cluster or has_token()):
        os.environ["RAY_AUTH_MODE"] = "token"
        Config.initialize("")  # the variable was read at import


def knock(address: str, timeout_s: float = 20.0) -> str | None:
    """Ask a cluster at `host:port` for its id; return why it does not tell, None if it does.

    `ray.init` asks the same, and where the token is wrong it asks once a second for 20 s, with a line each.
    """
    import grpc
    from ray._private.grpc_utils import init_grpc_channel
    from ray.core.generated import gcs_service_pb2, gcs_service_pb2_grpc

    channel = init_grpc_channel(address)
    stub = gcs_service_pb2_grpc.NodeInfoGcsServiceStub(channel)
    try:
        stub.GetClusterId(gcs_service_pb2.GetClusterIdRequest(), timeout=timeout_s)  # type: ignore[attr-defined]
    except grpc.RpcError as error:
        if error.code() is grpc.StatusCode.UNAUTHENTICATED:
            return "token"
        return str(error.details() or error.code().name)
    finally:
        channel.close()
    return None


@contextmanager
def addresses_in_actors(address: str) -> Iterator[None]:
    """Tell the actors of Ray Train which cluster they are in.

    Its cleaner of placement groups looks for the State API by itself: without this it asks the wrong cluster where two
    run on a machine, logs a warning a second, and groups of a run that was killed stay.
    """
    from ray.train.v2._internal import constants

    before = os.environ.get("RAY_ADDRESS")
    os.environ["RAY_ADDRESS"] = address
    constants.ENV_VARS_TO_PROPAGATE.add("RAY_ADDRESS")
    try:
        yield
    finally:
        constants.ENV_VARS_TO_PROPAGATE.discard("RAY_ADDRESS")
        if before is None:
            del os.environ["RAY_ADDRESS"]
        else:
            os.environ["RAY_ADDRESS"] = before


def route_worker_lines(take: Callable[[dict[str, Any]], dict[str, Any] | None]) -> None:
    """Pass what workers print through `take` before Ray prints it with its prefix.

    Args:
        take: gets `{"lines", "is_err", "pid", "ip", "actor_name", "task_name", ...}`; returns what Ray shall print of
            it, or None.
    """
    from ray._private.ray_logging import global_worker_stdstream_dispatcher as dispatcher

    for name, show in list(dispatcher.handlers):
        if name == "ray_print_logs":
            dispatcher.remove_handler(name)

            def handle(data: dict[str, Any], show: Callable[..., None] = show) -> None:
                if (left := take(data)) is not None:
                    show(left)

            dispatcher.add_handler(name, handle)


class _SealingActor:
    """Ray Data's class of an actor, whose constructor gets its arguments as bytes."""

    def __init__(self, actor: Any) -> None:
        self._actor = actor

    def options(self, **options: Any) -> _SealingActor:
        """Return the same with other options."""
        return _SealingActor(self._actor.options(**options))

    def remote(self, *arguments: Any, **named: Any) -> Any:
        """Start an actor."""
        return self._actor.remote(_sealed((arguments, named)))


def _sealed(value: Any) -> bytes:
    """Return a value as bytes in which Ray finds no references: whoever holds those must outlive the reader."""
    import ray

    context = ray._private.worker.global_worker.get_serialization_context()
    context.set_in_band_serialization()  # else references would be held for the rest of this process
    try:
        return bytes(ray.cloudpickle.dumps(value))
    finally:
        context.get_and_clear_contained_object_refs()
        context.set_out_of_band_serialization()


def _opening(worker: type) -> type:
    """Return Ray Data's class of a worker with a constructor that takes what `_sealed` made."""

    def opened(self: Any, sealed: bytes) -> None:
        import ray

        def fetched(value: Any) -> Any:
            return ray.get(value) if isinstance(value, ray.ObjectRef) else value

        arguments, named = ray.cloudpickle.loads(sealed)
        worker.__init__(  # type: ignore[misc]
            self, *map(fetched, arguments), **{name: fetched(value) for name, value in named.items()}
        )

    return type(worker.__name__, (worker,), {"__init__": opened})


def seal_constructors() -> None:
    """Let Ray Data start its actors without a line of error in the terminal.

    It makes actors that may restart and gives them references to two objects and to an actor. For such an actor Ray's
    core writes "has constructor arguments in the object store" to the terminal, past Python, where nothing can filter
    it. Ray Data holds both objects while its actors live, so no restart can fail for this.
    """
    from ray.data._internal.execution.operators.actor_pool_map_operator import ActorPoolMapOperator

    def attribute(name: str, change: Callable[[Any], Any]) -> property:
        def put(self: Any, value: Any) -> None:
            self.__dict__[name] = None if value is None else change(value)

        return property(lambda self: self.__dict__[name], put)

    for name, change in (("_map_worker_cls", _opening), ("_actor_cls", _SealingActor)):
        setattr(ActorPoolMapOperator, name, attribute(name, change))


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

    The public `ray.train.get_preemption_info` waits for all workers. Ray 2.56 has no watcher: None.
    """
    from ray.train.v2._internal.execution.context import get_train_context

    context = getattr(get_train_context(), "preemption_context", None)
    if context is None:
        return None
    if hasattr(context, "preemption_info"):
        return context.preemption_info
    return context.get()  # Ray 2.57


def leave_signals_alone(trainer: Any) -> None:
    """Keep a trainer of Ray Train from answering Ctrl-C: it would abort the run, without a checkpoint and with exit 1.

    There is no option for it.
    """
    assert callable(trainer._register_sigint_handler)
    trainer._register_sigint_handler = lambda controller: None


def dashboard_url() -> str | None:
    """Return `host:port` of the connected cluster's dashboard, or None if it has none."""
    from ray._private import worker

    url: str | None = worker.get_dashboard_url()
    return url


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

    return int(get_system_memory())


def free_port() -> int:
    """Return a TCP port of this machine that nobody listens at."""
    from ray._common.network_utils import find_free_port

    return find_free_port()


def has_token() -> bool:
    """Return whether a client of Ray would find an authentication token here (RAY_AUTH_TOKEN, its file)."""
    from ray._raylet import AuthenticationTokenLoader  # type: ignore[attr-defined]

    return bool(AuthenticationTokenLoader.instance().has_token(ignore_auth_mode=True))
