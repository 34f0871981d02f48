"""What `ss4rec doctor` looks at: each check says what it found and, if that is trouble, what to do.

A check that raises is itself a finding (`fail`), so one broken package never hides the others' state.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from packaging.requirements import Requirement

from ss4rec.auto.cost import most_tokens
from ss4rec.cluster import ray_private
from ss4rec.cluster.join import Target, choose
from ss4rec.cluster.placement import Cluster, place
from ss4rec.cluster.storage_check import check_storage, nearest_existing
from ss4rec.config import ModelConfig, ResourceConfig
from ss4rec.errors import BackendError, ResourceError, SS4RecError
from ss4rec.presets import preset

if TYPE_CHECKING:
    from torch import Tensor

Status = Literal["ok", "warn", "fail"]

OPTIONAL = ("triton", "mamba-ssm", "causal-conv1d")
"""Packages that only make things faster; all others shown are needed."""

NODES_WAIT_S = 10.0
"""How long a cluster without a node may take to show one."""
SHM_SHARE = 0.3
"""Ray puts its object store, this share of the memory, into /dev/shm, or onto the disk if it does not fit."""
ML_20M_ITEMS = 26_744


@dataclass(frozen=True)
class Check:
    """One line of the doctor's report."""

    group: str
    name: str
    status: Status
    found: str
    advice: str = ""


def diagnose(*, storage: str, workers: int, address: str | None) -> list[Check]:
    """Run every check.

    Args:
        storage: folder for runs.
        workers: training workers that a run would ask for.
        address: Ray cluster to look at; None looks at this machine, where a local Ray would be started.
    """
    checks = [*_guard("software", check_versions), *_guard("machine", check_machine)]
    checks += _guard("machine", check_gpu)
    cluster: list[Cluster] = []
    checks += _guard("ray", lambda: check_ray(address, cluster))
    checks += _guard("ray", check_auth)
    checks += _guard("ray", lambda: check_room(workers, cluster))
    checks += _guard("kernels", check_kernels)
    checks += _guard("storage", lambda: check_access(storage))
    return checks


def _guard(group: str, check: Callable[[], Iterator[Check]]) -> list[Check]:
    """Run one check to its end; an exception becomes a failed line after those that came before it."""
    done: list[Check] = []
    try:
        for line in check():
            done.append(line)
    except Exception as error:
        name = getattr(check, "__name__", group).removeprefix("check_")
        found = f"{type(error).__name__}: {error}"
        done.append(Check(group, name, "fail", found, "reinstall with tools/install.sh (docs/install.md)"))
    return done


def check_versions() -> Iterator[Check]:
    """Compare Python and the installed packages with what the project declares."""
    supported = (3, 11) <= sys.version_info[:2] <= (3, 13)
    advice = "" if supported else "use Python 3.11, 3.12 or 3.13"
    yield Check("software", "python", "ok" if supported else "fail", platform.python_version(), advice)
    try:
        declared = requires("ss4rec") or []
    except PackageNotFoundError:
        yield Check("software", "ss4rec", "fail", "not installed", "pip install -c constraints.txt -e .")
        return
    items = [Requirement(text) for text in declared]
    # Extras are for developers; of the extra `gpu` what is installed is compared.
    wanted = [
        item
        for item in items
        if item.name in OPTIONAL or item.marker is None or item.marker.evaluate({"extra": ""})
    ]
    names = {item.name: item for item in wanted}
    for name in (*(name for name in names if name not in OPTIONAL), *OPTIONAL):
        yield _version_check(name, names.get(name))


def _version_check(name: str, wanted: Requirement | None) -> Check:
    """Look one package up and compare it with the declared range (the part before a local `+cpu`)."""
    try:
        found = version(name)
    except PackageNotFoundError:
        if name in OPTIONAL:
            return Check("software", name, "ok", "not installed (optional, for CUDA)")
        fix = f"pip install -c constraints.txt '{wanted}'"
        return Check("software", name, "fail", "not installed", fix)
    if wanted is None or wanted.specifier.contains(found, prereleases=True):
        return Check("software", name, "ok", found)
    return Check("software", name, "warn", f"{found}, declared {wanted.specifier}", "tools/install.sh")


def check_machine() -> Iterator[Check]:
    """Report CPUs and memory as Ray counts them (cgroup limits included), and shared memory."""
    memory = ray_private.memory_bytes()
    yield Check("machine", "CPUs", "ok", f"{ray_private.cpus():g}")
    yield Check("machine", "memory", "ok", f"{memory / 2**30:.1f} GiB")
    folder = "/dev/shm"  # nosec B108
    if not Path(folder).exists():
        return
    shared = shutil.disk_usage(folder).free
    if shared >= SHM_SHARE * memory:
        yield Check("machine", folder, "ok", f"{shared / 2**30:.1f} GiB free")
    else:
        found = f"{shared / 2**30:.2f} GiB free, Ray wants {SHM_SHARE * memory / 2**30:.1f} and falls back to disk"
        fix = f"start the container with --shm-size={max(1, round(SHM_SHARE * memory / 2**30))}g"
        yield Check("machine", folder, "warn", found, fix)


def check_gpu() -> Iterator[Check]:
    """Report GPUs, and a torch that cannot use those that the driver has."""
    import torch

    driver = nvidia_smi()
    if not torch.cuda.is_available():
        if driver:
            found = f"{driver[0]}, but torch {torch.__version__} cannot use it"
            fix = "install a CUDA build that fits the driver: SS4REC_DEVICE=cuda tools/install.sh"
            yield Check("machine", "GPU", "fail", found, fix)
        else:
            yield Check("machine", "GPU", "ok", "none: training runs on CPUs")
        return
    for index in range(torch.cuda.device_count()):
        gpu = torch.cuda.get_device_properties(index)
        free, _ = torch.cuda.mem_get_info(index)
        found = f"{gpu.name}, {free / 2**30:.0f} of {gpu.total_memory / 2**30:.0f} GiB free, sm_{gpu.major}{gpu.minor}"
        room = step_room(gpu.total_memory / 2**30)
        yield Check("machine", f"GPU {index}", "ok", f"{found}, CUDA {torch.version.cuda}; {room}")
    if driver:
        yield Check("machine", "GPU driver", "ok", driver[0].rsplit(",", 1)[-1].strip())


def step_room(card_gib: float) -> str:
    """Return what steps of the largest preset a card of `card_gib` GiB has room for, in words."""
    config = preset("ml_20m_best")
    tokens = most_tokens(config, ML_20M_ITEMS, card_gib)
    windows = tokens // config.data.max_len
    return f"room for steps of {windows:,} windows of ml_20m_best (it takes {config.train.batch_size})"


def nvidia_smi() -> list[str]:
    """Return `name, driver version` for each GPU that the driver has; empty without the driver's tool."""
    if shutil.which("nvidia-smi") is None:
        return []
    query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    return subprocess.run(query, capture_output=True, text=True, timeout=30).stdout.splitlines()


def _nodes(address: str) -> list[Any]:
    """Return the nodes of a cluster; a dashboard that has just started knows none for some seconds."""
    from ray.util.state import list_nodes

    deadline = time.monotonic() + NODES_WAIT_S
    while True:
        nodes = [node for node in list_nodes(address=address, timeout=10) if node.state == "ALIVE"]
        if nodes or time.monotonic() > deadline:
            return nodes
        time.sleep(0.5)


def check_ray(address: str | None, cluster: list[Cluster]) -> Iterator[Check]:
    """Say which Ray a command would use and why, as the command itself decides, and put its nodes into `cluster`.

    The State API is asked for them, which proves the dashboard too.
    """
    asked = address or os.environ.get("RAY_ADDRESS", "")
    if asked.startswith(("http://", "https://")):  # the address of jobs: what one can look at from outside
        joins = Target(asked, "--address" if address else "RAY_ADDRESS")
        found = f"{asked} takes jobs (`ss4rec submit`); a command that is started here cannot join it"
        yield Check("ray", "which Ray", "ok", found)
    else:
        try:
            joins = choose(address)
        except SS4RecError as error:
            yield Check("ray", "which Ray", "fail", str(error), "commands end with this sentence")
            return
        status: Status = "warn" if joins.warnings else "ok"
        yield Check("ray", "which Ray", status, f"commands use {joins}", "; ".join(joins.warnings))
    if joins.starts_local:
        cluster.append(Cluster(({"CPU": ray_private.cpus(), "GPU": float(len(nvidia_smi()))},)))
        return
    yield from _check_cluster(joins, cluster)


def _check_cluster(joins: Target, cluster: list[Cluster]) -> Iterator[Check]:
    """Ask the State API of a cluster that answers for its nodes."""
    ray_private.send_token(new_cluster=False)
    address = joins.address
    try:
        with ray_private.on_loopback(joins.loopback):
            nodes = _nodes(address)
    except Exception as error:  # plain Exception, ValueError, ConnectionError and kinds of Ray's own
        reason = str(error).strip().splitlines()[0]
        fix = (
            "is the head up, and its dashboard (sweeps and jobs need it: --include-dashboard=true)? "
            "With 401: RAY_AUTH_MODE=token and the head's token (docs/clusters.md)"
        )
        yield Check("ray", "cluster", "fail", f"{address}: {reason}", fix)
        return
    cluster.append(Cluster(tuple(node.resources_total for node in nodes)))
    sizes = f"{cluster[0].total('CPU'):g} CPUs, {cluster[0].total('GPU'):g} GPUs"
    yield Check("ray", "cluster", "ok", f"{address}: {len(nodes)} node(s), {sizes}, dashboard answers")


def check_auth() -> Iterator[Check]:
    """Say whether clients of this environment send a token."""
    mode = os.environ.get("RAY_AUTH_MODE")
    has_token = ray_private.has_token()
    token = "a token is there" if has_token else "no token yet"
    if mode == "token" and not has_token:
        fix = "ray get-auth-token --generate, or copy the head's ~/.ray/auth_token"
        yield Check("ray", "authentication", "fail", "RAY_AUTH_MODE=token, but no token", fix)
    elif mode is None:
        found = f"{token}: commands send it" if has_token else f"{token}: a local Ray makes one for itself"
        yield Check("ray", "authentication", "ok", found)
    elif mode == "disabled":
        fix = "fine on loopback; elsewhere anyone who reaches the ports runs code: RAY_AUTH_MODE=token"
        yield Check("ray", "authentication", "warn", "RAY_AUTH_MODE=disabled", fix)
    else:
        yield Check("ray", "authentication", "ok", f"RAY_AUTH_MODE={mode}, {token}")


def check_room(workers: int, cluster: list[Cluster]) -> Iterator[Check]:
    """Apply the preflight rule that every run applies: workers must leave CPUs for Ray Data."""
    if not cluster:
        return
    try:
        yield Check("ray", "room", "ok", str(place(ResourceConfig(workers=workers), cluster[0])))
    except ResourceError as error:
        yield Check("ray", "room", "fail", str(error))


def check_kernels() -> Iterator[Check]:
    """Run each implementation on a tiny input, forward and backward, and compare it with the reference."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    wanted = _tiny_model({}, device)
    yield Check("kernels", "reference", "ok", f"runs on {device}")
    for part, name in (
        ("time", "triton"),
        ("relation", "triton"),
        ("relation", "mamba_ssm"),
        ("layer", "triton"),
    ):
        label = f"{part}: {name}"
        try:
            off = (_tiny_model({part: name}, device) - wanted).abs().max().item()
        except BackendError as error:
            status: Status = "warn" if device == "cuda" else "ok"
            yield Check("kernels", label, status, f"not used: {error}" if status == "warn" else "needs CUDA")
        else:
            status = "ok" if off < 1e-2 else "fail"
            found = f"runs on {device}, differs from the reference by {off:.1e} at most"
            yield Check(
                "kernels", label, status, found, "" if status == "ok" else f"model.{part}_backend=reference"
            )


def _tiny_model(chosen: dict[str, str], device: str) -> Tensor:
    """Return outputs and gradients of a tiny model with seeded weights, as one vector.

    Parts that `chosen` does not name run on the reference.
    """
    import torch

    from ss4rec.model.segments import Segments
    from ss4rec.model.ss4rec import SS4Rec

    with torch.random.fork_rng():
        torch.manual_seed(0)
        shape = {"dim": 16, "time_states": 4, "relation_states": 4, "dropout": 0.0, "feed_forward": 2.0}
        parts = {f"{part}_backend": chosen.get(part, "reference") for part in ("time", "relation", "layer")}
        config = ModelConfig.model_validate(shape | parts)
        model = SS4Rec(config, num_items=8).to(device)
    segments = Segments.from_lengths([5, 2, 1], device)
    items_T = torch.tensor([1, 2, 3, 4, 5, 6, 7, 8], device=device)
    hidden_TD = model.encode(items_T, torch.arange(8.0, device=device), segments)
    (gradient_VD,) = torch.autograd.grad(hidden_TD.square().sum(), model.embedding.weight)
    return torch.cat([hidden_TD.detach().flatten(), gradient_VD.flatten()])


def check_access(storage: str) -> Iterator[Check]:
    """Write to the storage, or to the nearest existing parent of a folder that a run would create."""
    target = str(nearest_existing(storage))
    try:
        check_storage(target)
    except ResourceError as error:
        yield Check("storage", storage, "fail", str(error))
    else:
        free = shutil.disk_usage(target).free
        yield Check("storage", storage, "ok", f"writable, {free / 2**30:.0f} GiB free")
