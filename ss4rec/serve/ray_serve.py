"""The application as replicas of Ray Serve. A RayService names `ss4rec.serve.ray_serve:build`."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import ray
from ray import serve
from ray.serve.config import RequestRouterConfig
from ray.serve.exceptions import RayServeException

from ss4rec.config import parse_section
from ss4rec.errors import ResourceError
from ss4rec.serve import haproxy
from ss4rec.serve.gentle import gently
from ss4rec.serve.settings import ServeSettings

APP_NAME = "ss4rec"
ROUTER = "ray.serve.experimental.consistent_hash_router.ConsistentHashRouter"
"""Sends requests with the same `x-session-id` to the same replica."""
LOGGING = {"log_level": "WARNING", "enable_access_log": False}
"""A line for each request would cost more than the request."""
ONGOING, QUEUED = 256, 4096
"""Requests in a replica, and waiting for one in a proxy; more are refused with 503."""


@serve.ingress()
class Replica:
    """One process that answers; Ray makes it anew if it ends.

    Args:
        settings: fields of `ServeSettings`.
    """

    def __init__(self, settings: dict[str, Any]) -> None:
        # torch takes seconds, the web framework half of one
        gently(lambda: [import_module(f"ss4rec.serve.{name}") for name in ("sources", "app")])
        from ss4rec.serve.sources import open_service

        self.settings = ServeSettings(**settings)
        self.limits = self.settings.limits()
        self.service, self.follower = open_service(self.settings)

    def __serve_build_asgi_app__(self) -> Any:
        from ss4rec.serve.app import make_app

        return gently(lambda: make_app(self.service, self.limits))


def build(args: Mapping[str, Any]) -> serve.Application:
    """Return the application.

    Args:
        args: fields of `ServeSettings`.

    Raises:
        ConfigError: with every problem of `args` on a line of its own.
    """
    settings = parse_section(ServeSettings, dict(args), "serve settings")
    # HAProxy chooses by the header itself (`haproxy_environment`), and Ray refuses a router beside it.
    behind_haproxy = os.environ.get(haproxy.ENABLE) == "1"
    router = {} if behind_haproxy else {"request_router_class": ROUTER}
    deployment = serve.deployment(
        Replica,
        name="ss4rec",
        num_replicas=settings.replicas,
        max_ongoing_requests=ONGOING,
        max_queued_requests=QUEUED,
        ray_actor_options={"num_cpus": settings.cpus_per_replica},
        request_router_config=RequestRouterConfig(**router),  # type: ignore[arg-type]  # a name will do
        logging_config=LOGGING,
        health_check_period_s=5.0,
        graceful_shutdown_timeout_s=10.0,
    )
    application: serve.Application = deployment.bind(settings.model_dump())  # type: ignore[attr-defined]
    return application


@contextmanager
def deployed(settings: ServeSettings, host: str, port: int) -> Iterator[None]:
    """Serve on the Ray that this process has joined, for the length of the block.

    Raises:
        ResourceError: if the cluster has too few CPUs, or the replicas do not start.
    """
    wanted, there = settings.replicas * settings.cpus_per_replica, ray.cluster_resources().get("CPU", 0.0)
    if wanted > there:
        raise ResourceError(
            f"{settings.replicas} replicas with {settings.cpus_per_replica:g} CPUs each want {wanted:g}, the cluster "
            f"has {there:g}; give fewer --replicas or less --cpus-per-replica"
        )
    serve.start(http_options={"host": host, "port": port}, logging_config=LOGGING)
    try:
        serve.run(build(settings.model_dump()), name=APP_NAME, route_prefix="/")
    except (RayServeException, RuntimeError) as error:
        serve.shutdown()
        raise ResourceError(f"the replicas did not start: {error}") from None
    try:
        yield
    finally:
        serve.shutdown()


def serve_on_ray(settings: ServeSettings, host: str, port: int, ready: threading.Event | None = None) -> None:
    """Serve until the process is asked to end; `ready` is set when requests are answered."""
    with deployed(settings, host, port):
        if ready is not None:
            ready.set()
        threading.Event().wait()
