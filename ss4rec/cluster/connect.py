"""Joins the Ray that `join.choose` names, or starts a local one for the length of a command."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

import ray
import ray.data

from ss4rec.cluster import ray_private
from ss4rec.cluster.join import Target, choose
from ss4rec.cluster.worker_lines import show_worker_lines
from ss4rec.errors import ResourceError, UsageError
from ss4rec.interrupt import claim_signals
from ss4rec.train.status import announce, on_display

_TOO_SLOW = "timed out during startup"
"""Words of the exception, of no class of its own, with which a node of Ray gives up its own start."""
_VERSIONS = re.compile(r"Ray: (?P<ray>\S+)\s+Python: (?P<python>\S+)")


@contextmanager
def cluster(address: str | None = None, *, dashboard: bool = True) -> Iterator[None]:
    """Connect to Ray for the length of the block.

    Args:
        address: see `ss4rec.cluster.join.choose`.
        dashboard: whether a cluster that is started here gets a dashboard. Without one Ray Train cannot free the
            resources of a run that was killed.

    Raises:
        ResourceError: if no cluster answers at the address that was given, or it does not take this process.
        UsageError: if the address is of a form that cannot be joined.
    """
    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Idle workers above the CPU count die after a second by default; each costs 2-3 s to start again.
    os.environ.setdefault("RAY_num_workers_soft_limit", "8")
    # Ray Data would say after each operator that its progress bar is off.
    os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
    with on_display():
        yield from _joined(choose(address), dashboard)


def _joined(target: Target, dashboard: bool) -> Iterator[None]:
    """Be connected to `target` until the caller goes on."""
    for warning in target.warnings:
        announce(f"warning: {warning}")
    announce("starting a local Ray ..." if target.starts_local else f"joining the Ray at {target} ...")
    with ray_private.on_loopback(target.loopback):
        try:
            _join(target, dashboard)
            quiet_ray()
            if not target.starts_local:  # its dashboard has a page for this, which costs an actor
                os.environ.setdefault("RAY_TRAIN_ENABLE_STATE_TRACKING", "1")
            with ray_private.addresses_in_actors(ray.get_runtime_context().gcs_address):
                yield
        finally:
            ray.shutdown()


def _join(target: Target, dashboard: bool) -> None:
    """Call `ray.init` and turn what it may say into one sentence."""
    if target.starts_local:
        ray_private.send_token(new_cluster=True)
    refusal = None if target.starts_local else ray_private.knock(target.address)
    if (
        refusal == "token"
    ):  # a cluster that asks for none must not be met with one: its calls to us would be refused
        ray_private.send_token(new_cluster=False)
        refusal = ray_private.knock(target.address)
    if refusal == "token":
        raise ResourceError(
            f"the Ray cluster at {target} wants another token: copy ~/.ray/auth_token of its head here, or set "
            "RAY_AUTH_TOKEN; --address local starts a Ray for this command alone"
        )
    if refusal is not None:
        raise ResourceError(f"what listens at {target} is no Ray cluster, or one in trouble: {refusal}")
    try:
        _init(target, dashboard)
    except RuntimeError as error:
        if "Version mismatch" not in str(error):
            raise
        raise UsageError(_other_version(str(error), target)) from None
    except (ConnectionError, TimeoutError, ValueError) as error:
        raise ResourceError(
            f"the Ray cluster at {target} could not be joined: {_first_line(error)}"
        ) from None
    claim_signals()  # `ray.init` has its own answer to SIGTERM
    show_worker_lines()


def _init(target: Target, dashboard: bool) -> None:
    """Call `ray.init`; a local Ray that does not come up in Ray's own time is started again.

    Ray ends its node if the node's agent, a Python process, does not answer 15 s after it began.

    Raises:
        ResourceError: if it did not come up in three tries.
    """
    for tries_left in (2, 1, 0):
        try:
            ray.init(
                address=target.address,
                namespace="ss4rec",
                logging_level=logging.WARNING,
                include_dashboard=dashboard if target.starts_local else None,
            )
        except Exception as error:
            if not target.starts_local or _TOO_SLOW not in str(error):
                raise
            ray.shutdown()
            if not tries_left:
                raise ResourceError(
                    "a local Ray did not start in three tries of 30 s: this machine is too busy, or Ray is broken "
                    "here; session_latest/logs in Ray's folder (/tmp/ray) says why"
                ) from None
            announce("warning: Ray did not start in its 30 s; this machine is busy, trying again ...")
        else:
            return


def _other_version(told: str, target: Target) -> str:
    """Return a sentence from Ray's message about versions, which has one line each for cluster and process."""
    found = [match.groupdict() for match in _VERSIONS.finditer(told)]
    if len(found) < 2:
        return f"the Ray cluster at {target} runs another version: {' '.join(told.split())}"
    there, here = found[:2]
    return (
        f"the Ray cluster at {target} runs Ray {there['ray']} on Python {there['python']}, this environment Ray "
        f"{here['ray']} on Python {here['python']}; both must be the same: start the cluster from this environment, or "
        "install its versions here"
    )


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def quiet_ray() -> None:
    """Keep Ray's running commentary out of this process's console (its log files stay whole); warnings pass."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    ray_private.seal_constructors()
    names, handlers = ray_private.commentary()
    for name in names:
        logging.getLogger(name).setLevel(logging.WARNING)
    for handler in handlers:
        handler.setLevel(logging.WARNING)
        handler.addFilter(lambda record: not record.getMessage().startswith("Progress bars disabled"))
