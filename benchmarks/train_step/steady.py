"""Trains through the real loop until its status lines are steady, and reads speed and memory from them."""

from __future__ import annotations

import json
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from ss4rec.config import RunConfig, override
from ss4rec.data.prepare.engine import prepare
from ss4rec.runs.folder import METRICS_FILE
from ss4rec.train.worker import loop_alone

ENDLESS = {
    "train.epochs": 2000,
    "train.validate_every": 2000,
    "train.patience": 0,
    "train.checkpoint_every_s": 1e9,
    "train.report_every_s": 1e9,
    "train.status_every_s": 1.0,
    "evaluation.at_end": False,
    "tracking.wandb": "disabled",
    "data.source": "local",
}
"""Nothing but training steps: no validation, no checkpoint; the caller ends it long before the last epoch (sources
list all steps when they start, so there are no millions of them)."""
STEADY_LINES = 5
"""Last status lines of which the median is taken."""
STEADY_SPREAD = 0.1
"""Largest (fastest - slowest) / median of these lines for speed to count as steady."""


def train_steady(
    config: RunConfig, data: Path, run: Path, device: torch.device, seconds: float
) -> dict[str, Any]:
    """Train an epoch, then for at least `seconds`, at most three times as long while speed still changes.

    Returns:
        What `steady_figures` says, with the configuration's decisive sizes.
    """
    config = override(config, ENDLESS)
    with loop_alone(config, data, run, device) as loop:
        epochs = loop.epochs()
        next(epochs)  # the first epoch compiles kernels and captures graphs
        began = time.monotonic()
        for _ in epochs:
            passed = time.monotonic() - began
            if passed > 3 * seconds or (passed > seconds and steady_figures(run).get("steady")):
                break
        epochs.close()
        parameters = sum(p.numel() for p in loop.model.parameters())
    return steady_figures(run) | {
        "parameters": parameters, "items": loop.model.num_items, "batch": f"{config.train.batch_size} windows",
        "precision": config.train.precision, "dim": config.model.dim, "blocks": config.model.blocks,
    }  # fmt: skip


def steady_figures(run: Path) -> dict[str, Any]:
    """Return medians of the last status lines of a run: targets a second, step time, data wait, peak memory.

    Raises:
        RuntimeError: if the run has no status line but its first.
    """
    lines = [json.loads(line) for line in (run / METRICS_FILE).read_text().splitlines()]
    rates = [line for line in lines if line["kind"] == "status"][1:]  # the first has the start in it
    last = rates[-STEADY_LINES:]
    if not last:
        return {"status_lines": 0, "steady": False}
    rate = statistics.median(line["targets_per_s"] for line in last)
    spread = (
        max(line["targets_per_s"] for line in last) - min(line["targets_per_s"] for line in last)
    ) / rate
    return {
        "targets_per_s": rate,
        "step_ms": statistics.median(line["step_ms"] for line in last),
        "data_wait_share": statistics.median(line["data_wait_share"] for line in last),
        "memory_gib": max(line["memory_gib"] for line in last),
        "spread": spread,
        "status_lines": len(rates),
        "steady": len(last) == STEADY_LINES and spread < STEADY_SPREAD,
    }


def make_catalogue(out: Path, items: int, users: int = 3000, length: int = 160, seed: int = 0) -> Path:
    """Prepare a folder with exactly `items` items: random histories without repeats, gaps from seconds to days.

    Every item occurs, so nothing is left out. Speed does not depend on what is in the histories, and
    nothing can be learned from them.
    """
    rng = np.random.default_rng(seed)
    events = max(users * length, items)
    users = -(-events // length)
    rounds = -(-users * length // items)
    order = np.concatenate([rng.permutation(items) for _ in range(rounds)])[: users * length]
    gaps = np.exp(rng.random((users, length)) * np.log(5 * 86_400)).astype(np.int64)
    out.parent.mkdir(parents=True, exist_ok=True)
    source = out.with_suffix(".parquet")
    columns = {
        "user": np.repeat(np.arange(users), length),
        "item": order,
        "time": (1_500_000_000 + np.cumsum(gaps, axis=1)).ravel(),
        "rating": np.full(users * length, 4.0, np.float32),
    }
    pq.write_table(pa.table(columns), source)
    prepare(source, out, k_core=0, columns={name: name for name in columns})
    return out
