"""What the data pipeline is compared with, each in a process of its own: prints one JSON object.

python -m benchmarks.data.peers group CSV             Polars: read, sort by (user, time), group into lists
python -m benchmarks.data.peers job CSV OUT           the same, then 5-core, renumbering and zstd Parquet files
python -m benchmarks.data.peers shuffle CSV OUT       writes the rows in random order (no measurement)
python -m benchmarks.data.peers widen CSV OUT         writes the rows with three columns more (no measurement)

With --watch as the last argument memory is sampled too, which takes time from what is measured.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.memory import watched


def group(csv: str) -> dict[str, Any]:
    """Read, sort and group, all columns; the reference of the issue."""
    import polars as pl

    frame = pl.read_csv(csv, schema_overrides={"rating": pl.Float32})
    frame = frame.sort(["userId", "timestamp"], maintain_order=True)
    lists = frame.group_by("userId", maintain_order=True).agg(pl.all())
    return {"users": lists.height, "events": frame.height}


def job(csv: str, out: str, k_core: int = 5) -> dict[str, Any]:
    """Do all that `data prepare` does to the ratings, in one process and all in memory."""
    import polars as pl

    frame = pl.read_csv(csv, schema_overrides={"rating": pl.Float32})
    while True:
        before = frame.height
        frame = frame.filter(pl.len().over("movieId") >= k_core)
        frame = frame.filter(pl.len().over("userId") >= k_core)
        if frame.height == before:
            break
    frame = frame.sort(["userId", "timestamp"], maintain_order=True)
    frame = frame.with_columns(pl.col("movieId").rank("dense").cast(pl.Int32).alias("item"))
    lists = frame.group_by("userId", maintain_order=True).agg("item", "timestamp", "rating")
    folder = Path(out)
    folder.mkdir()
    for number, first in enumerate(range(0, lists.height, 2048)):
        lists[first : first + 2048].write_parquet(folder / f"{number:05d}.parquet", compression="zstd")
    return {"users": lists.height, "events": frame.height}


def shuffle(csv: str, out: str) -> dict[str, Any]:
    """Write the rows of a CSV in random order."""
    import polars as pl

    pl.read_csv(csv).sample(fraction=1.0, shuffle=True, seed=0).write_csv(out)
    return {}


def widen(csv: str, out: str) -> dict[str, Any]:
    """Add a device of 4, a channel of 12 and a price of 20,000 values to the rows of a CSV."""
    import numpy as np
    import polars as pl

    frame = pl.read_csv(csv, schema_overrides={"rating": pl.Float32})
    rng, rows = np.random.default_rng(0), frame.height
    devices, channels = np.array(["phone", "tablet", "desktop", "tv"]), np.array([f"c{n}" for n in range(12)])
    frame.with_columns(
        device=pl.Series(devices[rng.integers(0, 4, rows)]),
        channel=pl.Series(channels[rng.integers(0, 12, rows)]),
        price=pl.Series(rng.integers(50, 20_050, rows) / 100),
    ).write_csv(out)
    return {}


PEERS: dict[str, Callable[..., dict[str, Any]]] = {
    "group": group,
    "job": job,
    "shuffle": shuffle,
    "widen": widen,
}


def main() -> None:
    """Run the peer that is named and print what it cost; the import comes first and does not count."""
    import polars  # noqa: F401

    name, *arguments = [argument for argument in sys.argv[1:] if argument != "--watch"]
    began = time.perf_counter()
    with watched("--watch" in sys.argv) as memory:
        found = PEERS[name](*arguments)
    seen = {"peak_bytes": memory.peak} if memory else {}
    print(json.dumps({"seconds": time.perf_counter() - began, **seen, **found}))


if __name__ == "__main__":
    main()
