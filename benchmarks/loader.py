"""Loader: events a second from shard files to packed batches, through both sources.

    OMP_NUM_THREADS=1 python -m benchmarks.loader [PREPARED_FOLDER ...]

Without folders it makes a synthetic one of 1 M ratings. Rows `local, kept` (windows stay in memory) and `local, read`
(every epoch reads the shards again) count CPU seconds of this process. Row `ray, wall` counts wall seconds over
the epochs after the first 15, which leaves the start and the look-ahead out, and takes two cores as used: one for data
tasks and one for this process. So its figure falls on a busy machine.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import ray

from benchmarks.record import headline, write_record
from ss4rec.config import DataConfig
from ss4rec.data.batches import source as source_module
from ss4rec.data.batches.ray_source import RaySource
from ss4rec.data.batches.source import LocalSource
from ss4rec.data.prepared.manifest import Manifest
from ss4rec.data.synth.generate import synth

SIZES = {"batch_size": 64, "seed": 0}
WARM_EPOCHS, RAY_EPOCHS, LOCAL_EPOCHS = 15, 40, 5


def measure_local(folder: Path, kept_bytes: int) -> float:
    """Return events a CPU second of the best epoch after the first."""
    source_module.KEPT_BYTES = kept_bytes
    source = LocalSource(folder, DataConfig(), **SIZES)
    rates = []
    for epoch in range(LOCAL_EPOCHS):
        began = time.process_time()
        events = sum(batch.num_tokens for *_, batch in source.train_batches(epoch, 0, epoch + 1))
        rates.append(events / (time.process_time() - began))
    return max(rates[1:])


def measure_ray(folder: Path) -> float:
    """Return events a wall second and core, after the warm epochs."""
    source = RaySource(folder, DataConfig(), **SIZES, cpu_limit=1.0)
    events, began = 0, 0.0
    with closing(source.train_batches(0, 0, WARM_EPOCHS + RAY_EPOCHS)) as batches:
        for epoch, step, batch in batches:
            if (epoch, step) == (WARM_EPOCHS, 0):
                began = time.perf_counter()
            if epoch >= WARM_EPOCHS:
                events += batch.num_tokens
    return events / (time.perf_counter() - began) / 2


def padding_share(folder: Path) -> float:
    """Return the share of tensor entries that are no event, over one epoch."""
    batches = [batch for *_, batch in LocalSource(folder, DataConfig(), **SIZES).train_batches(0, 0, 1)]
    entries = sum(batch.items_T.numel() for batch in batches)
    return 1 - sum(int((batch.items_T > 0).sum()) for batch in batches) / entries


def main() -> None:
    """Measure every folder, print a table and write the record."""
    folders = [Path(name) for name in sys.argv[1:]]
    with tempfile.TemporaryDirectory() as temporary:
        if not folders:
            folders = [Path(temporary) / "synthetic"]
            synth(folders[0], users=6000, items=3000, mean_len=165, seed=1)
        ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
        rows: list[dict[str, Any]] = []
        for folder in folders:
            kept, read = measure_local(folder, 1 << 30), measure_local(folder, 0)
            for name, rate in (
                ("local, kept", kept),
                ("local, read", read),
                ("ray, wall", measure_ray(folder)),
            ):
                place = {"data": Manifest.load(folder).name, "source": name}
                rows.append(place | {"events_per_s_core": round(rate), "load": round(os.getloadavg()[0], 1)})
                print(f"{place['data']:<12}{name:<14}{rate / 1e6:8.2f} M events/s/core", flush=True)
        share = padding_share(folders[0])
        ray.shutdown()
    read_rate = next(row["events_per_s_core"] for row in rows if row["source"] == "local, read")
    headlines = [
        headline("loader.events_per_s_core", read_rate, "events/s", 5e6),
        headline("loader.padding_share", share, "share", 0.05),
    ]
    print(f"record: {write_record('loader', rows, headlines, Path('benchmarks/results'))}")


if __name__ == "__main__":
    main()
