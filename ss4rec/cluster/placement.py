"""Decides what a run takes from the cluster, or refuses it before anything starts.

If training workers reserve every CPU, Ray Data's tasks get none and `fit()` waits for ever in silence. `place` is the
rule and needs no Ray; `preflight` asks Ray, which is imported late so that the command line's help need not wait.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ss4rec.cluster.ray_private import autoscaler_groups
from ss4rec.config import ResourceConfig
from ss4rec.errors import ResourceError

Resources = Mapping[str, float]
"""Amounts by Ray's resource names: `CPU`, `GPU`, ..."""


@dataclass(frozen=True)
class Cluster:
    """What a cluster has, node by node (for one that grows: at its largest)."""

    nodes: tuple[Resources, ...]
    busy: Resources = field(default_factory=dict)
    """What others hold at the moment."""

    def total(self, resource: str) -> float:
        """Return the sum of `resource` over all nodes."""
        return sum(node.get(resource, 0.0) for node in self.nodes)


@dataclass(frozen=True)
class Placement:
    """What a run takes from the cluster, as chosen by `place`."""

    workers: int
    """Workers; of an elastic run the fewest."""
    use_gpu: bool
    cpus_per_worker: float
    data_cpus: float
    """CPUs that Ray Data's tasks may use together."""
    cluster_cpus: float
    cluster_gpus: float
    notes: tuple[str, ...] = ()
    """Sentences a user should read: what `auto` chose, what must become free first."""
    max_workers: int | None = None
    """Maximum workers of an elastic run; None: `workers` exactly."""
    data_with_workers: bool = False
    """Whether each worker reserves its share of `data_cpus` with its own CPUs. They come together or not at all, so two
    jobs cannot each hold workers and wait for the CPU that the other one's data need."""

    @property
    def worker_resources(self) -> dict[str, float]:
        """Resources of one worker, as `ScalingConfig(resources_per_worker=...)` takes them."""
        data = self.data_cpus / self.workers if self.data_with_workers else 0.0
        # Ray counts in ten-thousandths.
        cpus = math.floor((self.cpus_per_worker + data) * 10_000) / 10_000
        return {"CPU": cpus} | ({"GPU": 1.0} if self.use_gpu else {})

    def __str__(self) -> str:
        device = "a GPU" if self.use_gpu else "no GPU"
        each = f"with {device} and {self.cpus_per_worker:g} CPU each"
        if self.max_workers:
            return (
                f"{self.workers} to {self.max_workers} worker(s) {each}, as nodes come and go; data tasks worth "
                f"{self.data_cpus:g} CPU(s) beside them"
            )
        kept = "reserved with them" if self.data_with_workers else "left"
        return f"{self.workers} worker(s) {each}; {self.data_cpus:g} of {self.cluster_cpus:g} CPUs {kept} for Ray Data"


def place(resources: ResourceConfig, cluster: Cluster, *, ray_data: bool = True) -> Placement:
    """Decide what each worker takes, or refuse with the numbers.

    `resources.gpu`: `yes` wants a GPU for every worker; `no` takes none; `auto` takes GPUs if the cluster has
    any, and refuses when they are fewer than the workers (falling back to CPUs would look like a slow run).

    Args:
        resources: what the run asks for.
        cluster: what there is.
        ray_data: whether Ray Data feeds the workers (`data.source=ray`) and so needs CPUs of its own.

    Raises:
        ResourceError: too few GPUs or CPUs, workers that fit no node, or no CPU left for Ray Data.
    """
    use_gpu, notes = _choose_gpu(resources, cluster)
    need = {"CPU": resources.cpus_per_worker} | ({"GPU": 1.0} if use_gpu else {})
    _require_slots(resources.workers, need, cluster)
    left = cluster.total("CPU") - resources.workers * resources.cpus_per_worker
    # Beside an elastic group, data tasks reserve nothing (`RaySource`): it would leave them nothing.
    if ray_data and not resources.elastic and left + 1e-9 < resources.data_cpus:
        raise ResourceError(_no_cpu_for_data(resources, cluster.total("CPU"), left))
    data_each = _data_share(resources, need, left, cluster) if ray_data and not resources.elastic else None
    if data_each is not None:
        data_cpus = data_each * resources.workers
        need = need | {"CPU": need["CPU"] + data_each}
    else:
        data_cpus = resources.data_cpus if resources.elastic else left
    return Placement(
        workers=resources.workers,
        max_workers=resources.max_workers if resources.elastic else None,
        use_gpu=use_gpu,
        cpus_per_worker=resources.cpus_per_worker,
        data_cpus=data_cpus,
        data_with_workers=data_each is not None,
        cluster_cpus=cluster.total("CPU"),
        cluster_gpus=cluster.total("GPU"),
        notes=(*notes, *_busy_notes(resources, need, cluster, ray_data and data_each is None)),
    )


def preflight(
    resources: ResourceConfig, *, cluster_resources: Resources | None = None, ray_data: bool = True
) -> Placement:
    """Return the placement of a run on the connected Ray cluster; call it before every `fit()`.

    Args:
        resources: what the run asks for.
        cluster_resources: totals to use instead of asking Ray, as of a cluster of one node.
        ray_data: whether Ray Data feeds the workers.

    Raises:
        ResourceError: as `place`.
    """
    cluster = read_cluster() if cluster_resources is None else Cluster((cluster_resources,))
    return place(resources, cluster, ray_data=ray_data)


def read_cluster() -> Cluster:
    """Return the connected Ray cluster; one with an autoscaler counts at the size it may grow to."""
    import ray

    total, free = ray.cluster_resources(), ray.available_resources()
    busy = {name: total.get(name, 0.0) - free.get(name, 0.0) for name in ("CPU", "GPU")}
    if groups := autoscaler_groups():
        return Cluster(_grown(groups), busy)
    return Cluster(tuple(node["Resources"] for node in ray.nodes() if node["Alive"]), busy)


def has_gpu(wanted: str = "auto") -> bool:
    """Return whether a run would take GPUs: as `resources.gpu` says, or if the connected cluster has any."""
    return wanted == "yes" or (wanted == "auto" and read_cluster().total("GPU") >= 1)


def _grown(groups: Sequence[tuple[Resources, int]], unlimited: int = 1024) -> tuple[Resources, ...]:
    """Return the nodes of an autoscaler's node groups `(resources of a node, most nodes; -1: no limit)`."""
    return tuple(node for node, most in groups for _ in range(unlimited if most < 0 else most))


def _choose_gpu(resources: ResourceConfig, cluster: Cluster) -> tuple[bool, tuple[str, ...]]:
    """Return whether each worker takes a GPU, and what to tell about it."""
    gpus, workers = cluster.total("GPU"), resources.workers
    if resources.gpu == "no":
        return False, ()
    if resources.gpu == "auto" and gpus == 0:
        return False, ("the cluster has no GPU: training on CPUs",)
    if gpus < workers:
        fix = f"use --workers {int(gpus)}" if gpus >= 1 else "start Ray on a machine with a GPU"
        raise ResourceError(
            f"{workers} worker(s) with resources.gpu={resources.gpu} want {workers} GPU(s) and the cluster "
            f"has {gpus:g}: {fix}, or train on CPUs with resources.gpu=no"
        )
    return True, ()


def _require_slots(workers: int, need: Resources, cluster: Cluster) -> None:
    """Refuse if the nodes, each by itself, do not hold `workers` times `need`."""
    slots = _slots(need, cluster)
    if slots >= workers:
        return
    each = " and ".join(f"{amount:g} {name}" for name, amount in need.items())
    largest = max((node.get("CPU", 0.0) for node in cluster.nodes), default=0.0)
    raise ResourceError(
        f"{workers} worker(s) of {each} do not fit: {len(cluster.nodes)} node(s) with "
        f"{cluster.total('CPU'):g} CPUs (the largest {largest:g}) and {cluster.total('GPU'):g} GPUs hold {slots}. "
        "Lower --workers or resources.cpus_per_worker, or add nodes"
    )


def _data_share(resources: ResourceConfig, need: Resources, left: float, cluster: Cluster) -> float | None:
    """Return the CPUs for data that each worker reserves with its own: one where that many are free, else a fair share.

    None if no node would hold a worker with its share; data tasks then take what is left anywhere, as they come.
    """
    workers, fair = resources.workers, resources.data_cpus / resources.workers
    free = left - cluster.busy.get("CPU", 0.0)
    for share, room in ((max(1.0, fair), free), (fair, left)):
        wanted = {**need, "CPU": need["CPU"] + share}
        if share * workers <= room + 1e-9 and _slots(wanted, cluster) >= workers:
            return share
    return None


def _slots(need: Resources, cluster: Cluster) -> int:
    """Return how many times the nodes, each by itself, hold `need`."""
    return sum(
        min(_fits(node.get(name, 0.0), amount) for name, amount in need.items()) for node in cluster.nodes
    )


def _fits(available: float, amount: float) -> int:
    """Return how often `amount` fits into `available`, forgiving rounding."""
    return math.floor(available / amount + 1e-9)


def _no_cpu_for_data(resources: ResourceConfig, cpus: float, left: float) -> str:
    """Say why the run would hang and what to change."""
    workers, each, wanted = resources.workers, resources.cpus_per_worker, resources.data_cpus
    fixes = []
    if (fewer := _fits(cpus - wanted, each)) >= 1:
        fixes.append(f"--workers {fewer}")
    if (smaller := math.floor((cpus - wanted) / workers * 100) / 100) > 0:
        fixes.append(f"resources.cpus_per_worker={smaller:g}")
    fixes.append("data.source=local (each worker reads for itself)")
    return (
        f"the run would wait for ever: {workers} worker(s) x {each:g} CPU take {workers * each:g} "
        f"of the cluster's {cpus:g} CPUs and leave {left:g} for Ray Data, which needs {wanted:g}. Use "
        + " or ".join(fixes)
    )


def _busy_notes(
    resources: ResourceConfig, need: Resources, cluster: Cluster, ray_data: bool
) -> tuple[str, ...]:
    """Name what others hold if the run must wait for it."""
    notes = []
    for name, amount in need.items():
        wanted = resources.workers * amount + (resources.data_cpus if ray_data and name == "CPU" else 0.0)
        total, busy = cluster.total(name), cluster.busy.get(name, 0.0)
        if total - busy + 1e-9 < wanted:
            notes.append(
                f"{busy:g} of {total:g} {name}s are in use: the run wants {wanted:g} and waits for them"
            )
    return tuple(notes)
