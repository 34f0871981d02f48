"""`ss4rec doctor --cluster`: an actor on every node looks at its machine; the findings are compared here.

What a node tells is plain data (`NodeFacts`); what follows from it, `ss4rec.doctor.rules` decides.
"""

from __future__ import annotations

import os
import platform
import shutil
import socket
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import ray
import requests
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ss4rec.cluster.ray_private import dashboard_url, free_port, memory_bytes
from ss4rec.doctor.machine import Check, check_kernels, nvidia_smi
from ss4rec.doctor.rules import (
    NOT_ANSWERED,
    NodeFacts,
    clocks,
    gpus,
    kernels,
    memory,
    same_versions,
    shared,
    stranger,
)
from ss4rec.runs.provenance import installed_versions

ANSWER_S = 120.0
"""How long a node may take for one question; the first one starts a process that imports torch."""
PAIR_BYTES = {"gloo": 4 << 20, "nccl": 256 << 20}
"""Bytes that the two ranks add up."""


@dataclass
class Node:
    """One node and its actor."""

    address: str
    resources: Mapping[str, float]
    actor: Any
    """Handle of its `Probe`."""
    facts: NodeFacts | None = None
    error: str = ""


class Probe:
    """Runs on the node it looks at."""

    def facts(self, address: str, resources: Mapping[str, float]) -> NodeFacts:
        """Look at the machine; kernels run forward and backward on its device."""
        import torch

        shm = "/dev/shm"  # nosec B108
        return NodeFacts(
            address=address,
            python=platform.python_version(),
            versions=installed_versions(),
            ray_gpus=resources.get("GPU", 0.0),
            driver=tuple(nvidia_smi()),
            cuda=torch.cuda.device_count(),
            kernels=tuple(check_kernels()),
            memory_bytes=memory_bytes(),
            shm_free_bytes=shutil.disk_usage(shm).free if os.path.exists(shm) else None,
            store_bytes=resources.get("object_store_memory", 0.0),
        )

    def clock(self) -> float:
        """Return this node's time, seconds since the epoch."""
        return time.time()

    def write(self, marker: str) -> str:
        """Write a marker file; return what went wrong."""
        try:
            Path(marker).parent.mkdir(parents=True, exist_ok=True)
            Path(marker).write_text(marker)
        except OSError as error:
            return str(error)
        return ""

    def unreadable(self, markers: Sequence[str]) -> list[int]:
        """Return the numbers of the markers that cannot be read here."""
        return [number for number, marker in enumerate(markers) if not _reads(marker)]

    def remove(self, marker: str) -> None:
        """Remove this node's marker."""
        Path(marker).unlink(missing_ok=True)

    def status_without_token(self, url: str) -> int:
        """Ask a Jobs API as a stranger would; return the HTTP status or `NOT_ANSWERED`."""
        try:
            with requests.Session() as session:
                session.trust_env = False  # no proxy, no .netrc
                return session.get(f"{url}/api/jobs/", timeout=5).status_code
        except requests.RequestException:
            return NOT_ANSWERED


def _reads(marker: str) -> bool:
    try:
        return Path(marker).read_text() == marker
    except OSError:
        return False


class Rank:
    """One of two processes that add a tensor over the network."""

    def meeting_point(self) -> str:
        """Return an address at which the other rank can find this one."""
        return f"tcp://{ray.util.get_node_ip_address()}:{free_port()}"

    def add(self, rank: int, meeting_point: str, backend: str) -> float:
        """Add a tensor over both ranks; return the seconds of the second time.

        Raises:
            RuntimeError: if the ranks do not meet or the sum is wrong.
        """
        import torch
        import torch.distributed as dist

        device = "cuda" if backend == "nccl" else "cpu"
        dist.init_process_group(
            backend,
            init_method=meeting_point,
            rank=rank,
            world_size=2,
            timeout=timedelta(seconds=ANSWER_S / 2),
        )
        try:
            for _ in range(2):
                numbers = torch.ones(PAIR_BYTES[backend] // 4, device=device)
                began = time.perf_counter()
                dist.all_reduce(numbers)
                total = float(numbers.double().sum())  # waits for the device
                took_s = time.perf_counter() - began
            if total != 2.0 * numbers.numel():
                raise RuntimeError(f"the sum is {total}, not {2.0 * numbers.numel()}")
            return took_s
        finally:
            dist.destroy_process_group()


def diagnose_cluster(storage: str) -> list[Check]:
    """Run every check on the connected Ray cluster.

    Args:
        storage: absolute path of the folder that all nodes must share.
    """
    everyone = _start()
    try:
        checks = [
            Check(
                "nodes",
                node.address,
                "fail",
                f"does not answer: {node.error}",
                "look at its raylet.out, ray status",
            )
            for node in everyone
            if node.facts is None
        ]
        nodes = [node for node in everyone if node.facts is not None]
        if not nodes:
            return checks
        facts = [node.facts for node in nodes if node.facts is not None]
        checks += [*same_versions(facts), *gpus(facts), *kernels(facts), *memory(facts)]
        checks += [*clocks(_offsets(nodes)), *_storage(nodes, storage), *_pairs(nodes), *_jobs_api(nodes)]
        return checks
    finally:
        for node in everyone:
            ray.kill(node.actor)


def _start() -> list[Node]:
    """Start an actor on each node and ask for its facts."""
    # An actor without a GPU of its own may look at those of its node.
    environment = {"env_vars": {"RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}}
    look: Any = ray.remote(Probe)
    nodes = []
    # Ray lists them in any order; the report has them by address, the same way every time.
    for entry in sorted(ray.nodes(), key=lambda entry: entry["NodeManagerAddress"]):
        if entry["Alive"]:
            pinned = NodeAffinitySchedulingStrategy(entry["NodeID"], soft=False)
            actor = look.options(num_cpus=0, runtime_env=environment, scheduling_strategy=pinned).remote()
            nodes.append(Node(entry["NodeManagerAddress"], entry["Resources"], actor))
    answers: list[Any] = [node.actor.facts.remote(node.address, dict(node.resources)) for node in nodes]
    for node, answer in zip(nodes, answers, strict=True):
        try:
            node.facts = ray.get(answer, timeout=ANSWER_S)
        except (ray.exceptions.RayError, TimeoutError) as error:
            node.error = str(error).strip().splitlines()[0]
    return nodes


def _offsets(nodes: Sequence[Node], tries: int = 5) -> dict[str, tuple[float, float]]:
    """Return each node's clock minus ours and its uncertainty in seconds, from the fastest of some questions."""
    offsets = {}
    for node in nodes:
        best = (float("inf"), 0.0)
        for _ in range(tries):
            before = time.time()
            there: float = ray.get(node.actor.clock.remote(), timeout=ANSWER_S)
            after = time.time()
            best = min(best, (after - before, there - (before + after) / 2))
        offsets[node.address] = (best[1], best[0] / 2)
    return offsets


def _storage(nodes: Sequence[Node], storage: str) -> Iterator[Check]:
    """Write a file on each node and read it on all; the files are removed."""
    word = uuid.uuid4().hex
    markers = [f"{storage}/.ss4rec-doctor-{word}-{number}" for number in range(len(nodes))]
    try:
        written: list[str] = ray.get(
            [node.actor.write.remote(marker) for node, marker in zip(nodes, markers, strict=True)],
            timeout=ANSWER_S,
        )
        missing: list[list[int]] = ray.get(
            [node.actor.unreadable.remote(markers) for node in nodes], timeout=ANSWER_S
        )
        yield from shared([node.address for node in nodes], storage, written, missing)
    finally:
        ray.get([node.actor.remove.remote(marker) for node, marker in zip(nodes, markers, strict=True)])


def _pairs(nodes: Sequence[Node]) -> Iterator[Check]:
    """Add a tensor between the first node and each other one, or between two ranks of the only node."""
    cuda = [node for node in nodes if node.facts and node.facts.cuda and node.resources.get("GPU", 0) >= 1]
    free = ray.available_resources().get("GPU", 0.0)
    backend = "nccl" if sum(node.resources["GPU"] for node in cuda) >= 2 else "gloo"
    if backend == "nccl" and free < 2:
        yield Check(
            "network", "NCCL", "warn", f"{free:g} GPUs are free and the test needs 2", "try again when idle"
        )
        backend = "gloo"
    chosen = cuda if backend == "nccl" else list(nodes)
    pairs = [(chosen[0], other) for other in chosen[1:]] or [(chosen[0], chosen[0])]
    for pair in pairs:
        yield _add(pair, backend)


def _add(pair: tuple[Node, Node], backend: str) -> Check:
    """Let two ranks add a tensor."""
    name = " and ".join(node.address for node in pair)
    gpus = 1 if backend == "nccl" else 0
    ranks: list[Any] = [
        ray.remote(Rank).options(num_cpus=0, num_gpus=gpus, scheduling_strategy=_on(node)).remote()
        for node in pair
    ]
    try:
        meeting_point = ray.get(ranks[0].meeting_point.remote(), timeout=ANSWER_S)
        work = [rank.add.remote(number, meeting_point, backend) for number, rank in enumerate(ranks)]
        took_s = max(ray.get(work, timeout=ANSWER_S))
    except (ray.exceptions.RayError, TimeoutError) as error:
        fix = (
            "do the nodes reach one another on all ports? Bind the right interface with NCCL_SOCKET_IFNAME and "
            "GLOO_SOCKET_IFNAME before `ray start`; NCCL_DEBUG=INFO says more"
        )
        return Check("network", name, "fail", f"{backend}: {str(error).strip().splitlines()[-1]}", fix)
    finally:
        for rank in ranks:
            ray.kill(rank)
    size = PAIR_BYTES[backend]
    found = f"{backend}: two ranks added {size >> 20} MiB at {size / took_s / 1e9:.2f} GB/s"
    return Check("network", name, "ok", found)


def _on(node: Node) -> NodeAffinitySchedulingStrategy:
    ids = {entry["NodeManagerAddress"]: entry["NodeID"] for entry in ray.nodes() if entry["Alive"]}
    return NodeAffinitySchedulingStrategy(ids[node.address], soft=False)


def _jobs_api(nodes: Sequence[Node]) -> Iterator[Check]:
    """Ask for the Jobs API from every node, as a stranger without a token, at every address the head may have."""
    shown = dashboard_url()
    if not shown:
        yield Check(
            "Jobs API", "dashboard", "warn", "none runs", "jobs and sweeps need --include-dashboard=true"
        )
        return
    host, port = shown.rsplit(":", 1)
    head = next(entry["NodeManagerAddress"] for entry in ray.nodes() if _is_head(entry["Resources"]))
    addresses = sorted({host, head, *own_addresses()} - {"0.0.0.0"})  # nosec B104
    for address in addresses:
        url = f"http://{address}:{port}"
        statuses: list[int] = ray.get(
            [node.actor.status_without_token.remote(url) for node in nodes], timeout=ANSWER_S
        )
        yield stranger(
            url, {node.address: status for node, status in zip(nodes, statuses, strict=True)}, head
        )


def _is_head(resources: Mapping[str, float]) -> bool:
    return "node:__internal_head__" in resources


def own_addresses() -> set[str]:
    """Return this machine's addresses that others may reach; opens no connection."""
    found = set()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # a datagram socket sends nothing here
            found.add(probe.getsockname()[0])
        except OSError:
            pass
    return found
