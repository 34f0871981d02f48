"""The rules of `ss4rec doctor --cluster`: what follows from what the nodes told. No Ray."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from ss4rec.doctor.machine import Check, Status

SKEW_WARN_S, SKEW_FAIL_S = 1.0, 30.0
NOT_ANSWERED = -1
"""Status of an address that refuses connections or does not answer."""


@dataclass(frozen=True)
class NodeFacts:
    """What one node tells about itself."""

    address: str
    python: str
    versions: Mapping[str, str]
    ray_gpus: float
    """GPUs that Ray counts there."""
    driver: tuple[str, ...]
    """`name, driver version` for each GPU that the driver shows."""
    cuda: int
    """GPUs that torch can use."""
    kernels: tuple[Check, ...]
    memory_bytes: int
    shm_free_bytes: int | None
    """None where there is no /dev/shm."""
    store_bytes: float
    """Object store, as Ray set it up."""


def same_versions(facts: Sequence[NodeFacts]) -> Iterator[Check]:
    """Compare Python and packages with what most nodes have."""
    tables = [{"python": one.python, **one.versions} for one in facts]
    names = sorted(set().union(*tables))
    common = {
        name: Counter(table.get(name, "none") for table in tables).most_common(1)[0][0] for name in names
    }
    for one, table in zip(facts, tables, strict=True):
        off = [f"{name} {table.get(name, 'none')}, elsewhere {common[name]}" for name in names]
        off = [text for name, text in zip(names, off, strict=True) if table.get(name, "none") != common[name]]
        if off:
            fix = "start every node from the same image, or run tools/install.sh there"
            yield Check("versions", one.address, "fail", "; ".join(off), fix)
        else:
            found = (
                f"python {one.python}, torch {table.get('torch')}, ray {table.get('ray')}, as on the others"
            )
            yield Check("versions", one.address, "ok", found)


def gpus(facts: Sequence[NodeFacts]) -> Iterator[Check]:
    """Compare the GPUs that Ray counts with those of the driver and of torch, and the drivers with one another."""
    drivers = {line.rpartition(",")[2].strip() for one in facts for line in one.driver}
    for one in facts:
        seen = ", ".join(f"{count} x {name}" for name, count in Counter(one.driver).items()) or "none"
        found = f"Ray counts {one.ray_gpus:g}; driver: {seen}; torch uses {one.cuda}"
        if one.ray_gpus == 0 and not one.driver:
            yield Check("GPU", one.address, "ok", "none")
        elif one.ray_gpus != len(one.driver):
            fix = (
                "start Ray there with --num-gpus as the driver shows; in a container check the NVIDIA toolkit"
            )
            yield Check("GPU", one.address, "fail", found, fix)
        elif one.cuda != len(one.driver):
            fix = "install a CUDA build of torch that fits the driver: SS4REC_DEVICE=cuda tools/install.sh"
            yield Check("GPU", one.address, "fail", found, fix)
        elif len(drivers) > 1:
            yield Check(
                "GPU", one.address, "warn", found, f"the nodes' drivers differ: {', '.join(sorted(drivers))}"
            )
        else:
            yield Check("GPU", one.address, "ok", found)


def kernels(facts: Sequence[NodeFacts]) -> Iterator[Check]:
    """Tell which scans work on each node; all nodes of a run must use the same."""
    for one in facts:
        usable = [check.name for check in one.kernels if check.found.startswith("runs on")]
        broken = [f"{check.name}: {check.found}" for check in one.kernels if check.status == "fail"]
        if broken:
            yield Check(
                "kernels",
                one.address,
                "fail",
                "; ".join(broken),
                "model.time_backend=reference, or reinstall",
            )
        else:
            yield Check("kernels", one.address, "ok", ", ".join(usable))


def memory(facts: Sequence[NodeFacts]) -> Iterator[Check]:
    """Check that the object store fits into /dev/shm."""
    for one in facts:
        found = f"object store {one.store_bytes / 2**30:.2f} GiB of {one.memory_bytes / 2**30:.1f} GiB memory"
        if one.shm_free_bytes is None:
            yield Check("memory", one.address, "ok", found)
            continue
        found += f", /dev/shm {one.shm_free_bytes / 2**30:.2f} GiB free"
        if one.shm_free_bytes < one.store_bytes:
            size = round(one.store_bytes / 2**30) + 1
            fix = f"start the container with --shm-size={size}g, or Ray uses the disk"
            yield Check("memory", one.address, "warn", found, fix)
        else:
            yield Check("memory", one.address, "ok", found)


def clocks(offsets: Mapping[str, tuple[float, float]]) -> Iterator[Check]:
    """Judge clocks: leases of run folders and time stamps of logs are compared between nodes."""
    for address, (offset, doubt) in offsets.items():
        found = f"{offset:+.3f} s from this process's clock, known to {doubt:.3f} s"
        certain = max(0.0, abs(offset) - doubt)
        status: Status = "fail" if certain > SKEW_FAIL_S else "warn" if certain > SKEW_WARN_S else "ok"
        fix = "" if status == "ok" else "run an NTP client there (chrony, systemd-timesyncd)"
        yield Check("clock", address, status, found, fix)


def shared(
    addresses: Sequence[str], storage: str, written: Sequence[str], missing: Sequence[Sequence[int]]
) -> Iterator[Check]:
    """Judge storage.

    Args:
        addresses: of the nodes.
        storage: the folder.
        written: for each node what went wrong when it wrote.
        missing: for each node the numbers of the nodes whose file it cannot read.
    """
    fix = "mount one folder (NFS, network volume, PVC) at this path on every node"
    for address, problem, unread in zip(addresses, written, missing, strict=True):
        others = [addresses[number] for number in unread if not written[number]]
        if problem:
            yield Check("storage", address, "fail", f"{storage} cannot be written: {problem}", fix)
        elif others:
            found = f"{storage} is another folder: what {', '.join(others)} wrote is not there"
            yield Check("storage", address, "fail", found, fix)
        else:
            yield Check(
                "storage", address, "ok", f"{storage}: written, and read what all {len(addresses)} wrote"
            )


def stranger(url: str, statuses: Mapping[str, int], head: str) -> Check:
    """Judge what the Jobs API said to callers without a token.

    Args:
        url: where it was asked.
        statuses: HTTP status by the address of the node that asked.
        head: the head's address; it asks itself.
    """
    open_to = [address for address, status in statuses.items() if status == 200]
    if open_to:
        who = ", ".join(open_to)
        fix = (
            "anyone who reaches this address can run code on the cluster: set RAY_AUTH_MODE=token and one token on all "
            "nodes and restart Ray (docs/clusters.md); until then close the port"
        )
        only_itself = open_to == [head] and "127.0.0.1" in url
        return Check(
            "Jobs API", url, "warn" if only_itself else "fail", f"open without a token, from {who}", fix
        )
    if all(status == NOT_ANSWERED for status in statuses.values()):
        return Check("Jobs API", url, "ok", "not reachable from any node")
    return Check("Jobs API", url, "ok", "asks for a token")
