"""Decides which Ray a command uses: one that was named, one that runs on this machine, or a local one of its own.

`choose` decides before anything is joined. `ss4rec doctor` shows its answer and reason, and `connect.cluster` acts on
it: what doctor says is what a command does.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass

from ss4rec.cluster import ray_private
from ss4rec.errors import ResourceError, UsageError

LOCAL = "local"
_ANSWER_S = 5.0
_LOOPBACK = ("127.0.0.1", "localhost", "::1", "[::1]")
_FORMS = "a cluster's HOST:PORT as `ray start` prints it (port 6379), auto, or local"


@dataclass(frozen=True)
class Target:
    """The Ray that a command will use."""

    address: str
    """`host:port`, or `local` for one that is started for the command."""
    reason: str
    """Where the address comes from, in words."""
    loopback: bool = False
    """Whether its head listens at 127.0.0.1 alone, so that this process must call itself so too."""
    warnings: tuple[str, ...] = ()

    @property
    def starts_local(self) -> bool:
        """Whether a Ray is started for the command."""
        return self.address == LOCAL

    def __str__(self) -> str:
        what = "a local Ray, started for each command" if self.starts_local else self.address
        return f"{what} ({self.reason})"


def choose(address: str | None, environment: Mapping[str, str] = os.environ) -> Target:
    """Return the Ray to use, and see to it that it answers.

    Args:
        address: `--address`; None or empty takes RAY_ADDRESS, else the cluster of the last `ray start` on this machine,
            else a local one.
        environment: of the process.

    Raises:
        UsageError: the address is of a form that cannot be joined; says which form is meant.
        ResourceError: no cluster answers at an address that was given.
    """
    asked, source = (address, "--address") if address else (environment.get("RAY_ADDRESS"), "RAY_ADDRESS")
    if not asked:
        return _found_here()
    if asked == LOCAL:
        return Target(LOCAL, f"{source} is local")
    if asked == "auto":
        return _newest(source)
    host, port = _split(asked, source)
    target = _at(host, port, source)
    if (problem := _silence(target.address)) is not None:
        raise ResourceError(
            f"no Ray cluster answers at {asked} ({source}): {problem}. Start one with `ray start --head`, give the "
            "address of one that runs, or --address local to start one for this command"
        )
    return target


def _found_here() -> Target:
    """Return the cluster that `ray start` left on this machine if it lives, else a local one."""
    left = ray_private.last_started()
    if not left:
        return Target(LOCAL, "no address is given and none was started on this machine")
    target = _at(*_split(left, "the last `ray start`"), "the last `ray start` on this machine")
    if (problem := _silence(target.address)) is None:
        return Target(target.address, target.reason, target.loopback, _others(target.address))
    warning = f"a cluster that was started at {left} is gone ({problem}); a local Ray is started instead"
    return Target(LOCAL, f"the cluster of the last `ray start` ({left}) is gone", warnings=(warning,))


def _newest(source: str) -> Target:
    """Return the cluster that `auto` means: that of the last `ray start`, or the only one that runs here."""
    target = _found_here()
    if not target.starts_local:
        return Target(target.address, f"{source} is auto: {target.reason}", target.loopback, target.warnings)
    heads = sorted(head for head in ray_private.running_heads() if _silence(head) is None)
    if len(heads) == 1:
        found = _at(*_split(heads[0], source), source)
        return Target(found.address, f"{source} is auto: the only cluster that runs here", found.loopback)
    if heads:
        raise ResourceError(
            f"{source} is auto and {len(heads)} clusters run on this machine: {', '.join(heads)}. Give one of them"
        )
    raise ResourceError(
        f"{source} is auto and no Ray runs on this machine; start one with `ray start --head`, or leave the address "
        "out to start one for this command"
    )


def _others(chosen: str) -> tuple[str, ...]:
    """Say which other clusters run on this machine, if there are any."""
    port = chosen.rpartition(":")[2]
    others = sorted(head for head in ray_private.running_heads() if head.rpartition(":")[2] != port)
    if not others:
        return ()
    return (
        f"{len(others)} more Ray on this machine ({', '.join(others)}); --address HOST:PORT chooses another",
    )


def _split(address: str, source: str) -> tuple[str, int]:
    """Return host and port.

    Raises:
        UsageError: naming the form that is meant.
    """
    scheme, mark, rest = address.partition("://")
    host, _, port = (rest if mark else address).rstrip("/").rpartition(":")
    if mark and scheme in ("http", "https"):
        raise UsageError(
            f"{source} {address} is the dashboard, which takes jobs: `ss4rec submit VERB --address {address} -- ...`. "
            f"To join a cluster from one of its machines give {_FORMS}"
        )
    if mark and scheme == "ray":
        raise UsageError(
            f"{source} {address} is Ray Client, through which training cannot run. From outside submit a job (`ss4rec "
            f"submit VERB --address http://HEAD:8265 -- ...`); on a machine of the cluster give {_FORMS}"
        )
    if mark or not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise UsageError(f"{source} {address} is no address of a Ray cluster; give {_FORMS}")
    return host, int(port)


def _at(host: str, port: int, source: str) -> Target:
    """Return the cluster at `host:port`, and whether it is to be joined through loopback.

    A name for this machine says nothing about where the head listens: the process list does, else a knock.
    """
    if host not in _LOOPBACK:
        return Target(f"{host}:{port}", source)
    known = {head.rpartition(":")[2]: head.rpartition(":")[0] for head in ray_private.running_heads()}
    listens = known.get(str(port))
    if listens is None:
        outer = ray_private.outer_address()
        listens = outer if _silence(f"{outer}:{port}") is None else host
    loopback = listens in _LOOPBACK
    return Target(f"{'127.0.0.1' if loopback else listens}:{port}", source, loopback)


def _silence(address: str) -> str | None:
    """Return why nobody answers at `host:port`; None if somebody does."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWER_S).close()
    except OSError as error:
        return error.strerror or str(error)
    return None
