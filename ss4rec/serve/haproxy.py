"""HAProxy in front of Ray Serve's replicas: the variables that Ray's processes must start with.

Ray's own proxy is one process of Python and takes 5 ms of a core for a request. HAProxy comes with `ray[serve]`, takes
next to nothing, and sends what met the end of a replica to another one.
"""

from __future__ import annotations

import socket
import tempfile
from pathlib import Path

ENABLE = "RAY_SERVE_ENABLE_HA_PROXY"
"""1 in the environment of all of Ray's processes puts HAProxy in front."""
SESSION_HEADER = "x-session-id"
WEIGHT = 64


def haproxy_environment(folder: Path | None = None) -> dict[str, str]:
    """Return the variables for a Ray that is about to be started.

    Requests with the same `x-session-id` go to the same replica. A request that was sent and got no answer is sent
    again: events are written once however often they come. HAProxy opens two more ports for its own figures, on all
    addresses of the machine.

    Args:
        folder: for its files, which only this user may read; None: a new one.
    """
    # A socket's path has 97 characters at most, of which Ray takes 68 for the node: $TMPDIR is often too long.
    folder = folder or Path(tempfile.mkdtemp(prefix="ss4rec-", dir="/tmp"))  # nosec B108 - of this user alone
    metrics, stats = _free_ports(2)
    return {
        ENABLE: "1",
        # Ray writes this behind `balance`.
        # With a weight of 1 a server has 16 places among the hashes, and one of two may get two thirds of all users.
        "RAY_SERVE_HAPROXY_BALANCE_ALGORITHM": (
            f"hdr({SESSION_HEADER})\n    hash-type consistent sdbm avalanche\n    default-server weight {WEIGHT}"
        ),
        "RAY_SERVE_HAPROXY_RETRY_ON": "conn-failure empty-response response-timeout",
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(folder / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(folder / "admin.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(folder / "server-state"),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(metrics),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(stats),
        "RAY_SERVE_HAPROXY_NBTHREAD": "1",
        # Ray's own 15 leaves replicas behind everything else, and none of them any way to do something gently.
        "RAY_worker_niceness": "0",
        # A request needs no second event loop where the work has threads of its own.
        "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
        # Ray looks after replicas ten times a second and counts as often, which takes an eighth of a core.
        "RAY_SERVE_CONTROL_LOOP_INTERVAL_S": "0.5",
        "RAY_SERVE_METRICS_EXPORT_INTERVAL_MS": "2000",
        # Ray gives HAProxy 5 s to start before it kills it and the server with it; a busy machine takes longer.
        "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "30",
    }


def _free_ports(count: int) -> list[int]:
    """Return ports that nobody listens at now."""
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [int(probe.getsockname()[1]) for probe in probes]
    for probe in probes:
        probe.close()
    return ports
