"""A worker's figures as Prometheus gauges of its Ray node (`ray_ss4rec_...` at the node's metrics port).

cluster/grafana/ss4rec.json draws them; a test compares its expressions with `GAUGES`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ray.util.metrics import Gauge

PREFIX = "ss4rec_"
TAGS = ("run", "worker")


class Figure(NamedTuple):
    """Where a gauge takes its value from."""

    field: str
    """Of the figures that `TrainLoop` gives at a status line and at the end of an epoch."""
    factor: float
    """To base units."""
    meaning: str


GAUGES = {
    "loss": Figure("loss", 1.0, "Training loss of the last step that was looked at, nats per target."),
    "gradient_norm": Figure("grad_norm", 1.0, "Global gradient norm before clipping."),
    "learning_rate": Figure("lr", 1.0, "Learning rate."),
    "events_per_second": Figure("targets_per_s", 1.0, "Targets trained on per second, all workers together."),
    "step_seconds": Figure("step_ms", 1e-3, "Duration of a step."),
    "data_wait_ratio": Figure("data_wait_share", 1.0, "Share of the time that this worker waited for data."),
    "memory_bytes": Figure(
        "memory_gib", float(2**30), "Peak memory: of the GPU's allocator, or of the process on a CPU."
    ),
    "epoch": Figure("epoch", 1.0, "Epochs that are done."),
    "valid_ndcg_at_10": Figure("valid_ndcg@10", 1.0, "Validation NDCG@10 of the last epoch."),
    "bad_steps": Figure(
        "bad_steps", 1.0, "Steps left out because of a loss or gradient that was not finite."
    ),
}


def gauges(run: str, worker: int) -> Callable[[Mapping[str, Any]], None]:
    """Return a function that sets the gauges of one worker from whatever figures it is given.

    Args:
        run: name of the run.
        worker: rank.
    """
    # Ray's metrics take ASCII alone.
    tags = {"run": run.encode("ascii", "backslashreplace").decode(), "worker": str(worker)}
    made = {name: Gauge(PREFIX + name, figure.meaning, tag_keys=TAGS) for name, figure in GAUGES.items()}

    def watch(figures: Mapping[str, Any]) -> None:
        for name, figure in GAUGES.items():
            if (value := figures.get(figure.field)) is not None:
                made[name].set(float(value) * figure.factor, tags=tags)

    return watch
