"""What the data pipeline is compared with, each in a process of its own: prints one JSON object.

python -m benchmarks.data_peers group CSV             Polars: read, sort by (user, time), group into lists
python -m benchmarks.data_peers job CSV OUT           the same, then 5-core, renumbering and zstd Parquet files
python -m benchmarks.data_peers shuffle CSV OUT       writes the rows in random order (no measurement)
python -m benchmarks.data_peers augment ML-1M.zip     every prefix of every user padded to 50 items, as RecBole stores them
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.memory import PeakMemory


def group(csv: str) -> dict[str, Any]:
    """Read, sort and group; the reference of the issue."""
    import polars as pl

    frame = pl.read_csv(csv, schema_overrides={"rating": pl.Float32})
    frame = frame.sort(["userId", "timestamp"], maintain_order=True)
    lists = frame.group_by("userId", maintain_order=True).agg("movieId", "timestamp", "rating")
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


def augment(archive: str, most: int = 50) -> dict[str, Any]:
    """Load ML-1M, 5-core, and store every training prefix as a padded row of `most` int64 items and times.

    This is RecBole's data augmentation for sequential models (`SequentialDataset.data_augmentation`), in NumPy.
    """
    from ss4rec.data.prepare import _kept_rows, order
    from ss4rec.data.sources import Archive, read_source

    rows = read_source(Archive(Path(archive)))
    sequences = order(rows, _kept_rows(rows, 5)[0])
    targets = []
    for start, stop in zip(sequences.offsets_U1, sequences.offsets_U1[1:], strict=False):
        targets += [(start, end) for end in range(start + 1, stop - 2)]
    items = np.zeros((len(targets), most), np.int64)
    times = np.zeros((len(targets), most), np.float32)
    for row, (start, end) in enumerate(targets):
        first = max(start, end - most)
        items[row, : end - first] = sequences.items_E[first:end]
        times[row, : end - first] = sequences.times_E[first:end]
    return {"targets": len(targets), "bytes_per_epoch": items.nbytes + times.nbytes + 3 * 8 * len(targets)}


def main() -> None:
    """Run the peer that is named and print what it cost; imports come first and do not count."""
    if sys.argv[1] != "augment":
        import polars  # noqa: F401
    else:
        import ss4rec.data.prepare  # noqa: F401
    began = time.perf_counter()
    with PeakMemory() as memory:
        found = {"group": group, "job": job, "shuffle": shuffle, "augment": augment}[sys.argv[1]](
            *sys.argv[2:]
        )
    print(json.dumps({"seconds": time.perf_counter() - began, "peak_bytes": memory.peak, **found}))


if __name__ == "__main__":
    main()
