"""How many trials run at a time and what each takes, from the cluster's CPUs and GPUs. No Ray."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from ss4rec.cluster.placement import Cluster, place
from ss4rec.config import ResourceConfig
from ss4rec.errors import ResourceError

NEXT_TO_NOTHING = {"memory": 1.0}
"""What the Tune process of a trial with several workers takes: a byte, since Tune refuses nothing at all. With a
hundredth of a CPU two workers would wait for ever for the last one of two CPUs."""


@dataclass(frozen=True)
class TrialPlan:
    """What a trial takes and how many of them fit."""

    workers: int
    resources: Mapping[str, float]
    """Of the Tune process of a trial."""
    use_gpu: bool
    threads: int
    """Torch threads of a one-worker trial on a CPU: part of its configuration, since they change rounding."""
    concurrent: int
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        share = self.resources.get("GPU", 0.0)
        device = (
            f"{share:g} GPU" if self.workers == 1 and share else "a GPU each" if self.use_gpu else "no GPU"
        )
        return f"{self.concurrent} trial(s) at a time, each of {self.workers} worker(s) with {device}"


def plan_trials(
    resources: ResourceConfig,
    cluster: Cluster,
    *,
    trials_per_gpu: int = 1,
    most: int | None = None,
    ray_data: bool = True,
) -> TrialPlan:
    """Plan the trials of a sweep.

    A one-worker trial trains in its Tune process and reads its own data. A trial with several workers takes no CPU
    for its Tune process, `resources.cpus_per_worker` for each worker, and leaves `resources.data_cpus` for Ray
    Data.

    Args:
        resources: of one trial.
        cluster: what there is.
        trials_per_gpu: one-worker trials that share a GPU.
        most: upper limit of trials at a time.
        ray_data: whether Ray Data feeds trials of several workers.

    Raises:
        ResourceError: if not one trial fits.
    """
    if resources.elastic:
        raise ResourceError(
            f"--workers {resources.workers}:{resources.max_workers}: a trial has a fixed number of workers, so that "
            f"trials can be compared and packed; write --workers {resources.workers}"
        )
    alone = resources.workers == 1
    placement = place(resources, cluster, ray_data=ray_data and not alone)
    if trials_per_gpu > 1 and not (alone and placement.use_gpu):
        raise ResourceError(
            f"--trials-per-gpu {trials_per_gpu} needs one-worker trials on GPUs; here a trial has "
            f"{resources.workers} worker(s) and {'GPUs' if placement.use_gpu else 'no GPU'}"
        )
    worker = {"CPU": placement.cpus_per_worker} | ({"GPU": 1 / trials_per_gpu} if placement.use_gpu else {})
    if alone:
        fits = sum(
            min(_fits(node, name, amount) for name, amount in worker.items()) for node in cluster.nodes
        )
    else:
        trial = {name: amount * resources.workers for name, amount in worker.items()}
        trial["CPU"] += resources.data_cpus if ray_data else 0.0
        total = {name: cluster.total(name) for name in trial}
        fits = min(_fits(total, name, amount) for name, amount in trial.items())
    return TrialPlan(
        workers=resources.workers,
        resources=worker if alone else NEXT_TO_NOTHING,
        use_gpu=placement.use_gpu,
        threads=max(1, int(placement.cpus_per_worker)),
        concurrent=fits if most is None else min(fits, most),
        notes=placement.notes,
    )


def _fits(available: Mapping[str, float], name: str, amount: float) -> int:
    return math.floor(available.get(name, 0.0) / amount + 1e-9)
