"""Data at scale: generated ratings, preparation on Ray against Polars, shuffled input, four nodes, RecBole's way.

    pip install -c constraints.txt -e '.[bench]'
    python -m benchmarks.data [--work FOLDER] [--like ml-32m] [--users N] [--ml-1m ZIP --recbole PYTHON]
                              [--ratings FOLDER] [--repeat 1] [--only sorted]

Needs about 6 GB of disk. Ray is started first and left idle; its memory then is what "above an idle Ray" refers to. Each
peer runs in a process of its own. Memory is the proportional set size of all processes, sampled four times a second;
files in the kernel's cache do not count. A sample stops the process that it looks at for a while, so seconds are
from turns that nothing samples, Polars' too, and memory is from one turn more. `load` in a row is the machine's load when the row was done: above the number
of cores, others took part of the time, so `cpu_s` is given too where it can be. With `--repeat` Polars and the
preparation take turns and the best of each counts; in the first turn Ray's workers start and import, which no peer's time
holds. `--ratings` takes a folder that `ss4rec data synth --format csv` made, and leaves the generation out. `--recbole` is
the interpreter of an environment with RecBole (`benchmarks/data_recbole.py` says how to make it). `--only sorted` leaves
out everything but the ratings in the order of users, without and with three more columns, and the first batch.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import ray
from ray.cluster_utils import Cluster
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from benchmarks.memory import PeakMemory, tree_bytes, watched
from benchmarks.record import headline, write_record
from ss4rec.config import DataConfig
from ss4rec.data.batches.ray_source import RaySource
from ss4rec.data.batches.source import LocalSource
from ss4rec.data.export_recbole import export_recbole
from ss4rec.data.prepare.chunks import Chunk
from ss4rec.data.prepare.engine import prepare
from ss4rec.data.prepare.ray_map import ray_map
from ss4rec.data.sources import TableOptions
from ss4rec.data.synth.generate import synth
from ss4rec.data.synth.settings import LIKE

GIB = 1 << 30
ROWS: list[dict[str, Any]] = []


def add(name: str, **values: Any) -> dict[str, Any]:
    """Keep and print one row."""
    row = {
        "name": name,
        **{key: round(value, 3) if isinstance(value, float) else value for key, value in values.items()},
        "load": round(os.getloadavg()[0], 1),
    }
    ROWS.append(row)
    print(json.dumps(row), flush=True)
    return row


def peer(*arguments: str, watch: bool = False) -> dict[str, Any]:
    """Run one peer of `benchmarks.data.peers` and keep its row; with `watch` its memory is sampled."""
    more = ["--watch"] if watch else []
    return timed(f"peer {arguments[0]}", [sys.executable, "-m", "benchmarks.data.peers", *arguments, *more])


def timed(name: str, command: list[str], **options: Any) -> dict[str, Any]:
    """Run a command whose last line is a JSON object with what it cost, and keep its row."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed: {done.stderr.strip().splitlines()[-1]}")
    found = json.loads(done.stdout.splitlines()[-1])
    if "peak_bytes" in found:
        found["peak_gib"] = found.pop("peak_bytes") / GIB
    return add(name, **found)


def recbole(python: str, work: Path) -> dict[str, Any]:
    """Let RecBole load the ML-1M that `own_epoch` prepared, augment it, and read one epoch."""
    export_recbole(work / "ml-1m", work / "atomic/ml-1m")
    command = [python, "-m", "benchmarks.data.recbole", str(work / "atomic"), "ml-1m"]
    # In a folder of its own, since it writes logs where it runs.
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    return timed("peer recbole: load ml-1m and one epoch", command, cwd=work, env=environment)


def make(source: Path, like: str, users: int | None) -> dict[str, Any]:
    """Generate the ratings, as `ss4rec data synth --like .. --format csv` does."""
    model = LIKE[like]
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    began, own = time.perf_counter(), time.process_time()
    with PeakMemory() as memory:
        summary = synth(
            source,
            users=users or model.users,
            items=model.items,
            mean_len=model.mean_len,
            fmt="csv",
            settings=model.settings,
        )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = time.process_time() - own + after.ru_utime + after.ru_stime - used.ru_utime - used.ru_stime
    return add(
        "synth",
        seconds=time.perf_counter() - began,
        cpu_s=cpu_s,
        ratings=summary["counts"]["ratings"],
        peak_gib=memory.peak / GIB,
    )


def etl(
    source: Path,
    out: Path,
    name: str,
    idle: int,
    columns: TableOptions | None = None,
    *,
    watch: bool = False,
) -> dict[str, Any]:
    """Prepare on the running Ray, which took `idle` bytes before anything ran on it; with `watch` memory is sampled."""
    shutil.rmtree(out, ignore_errors=True)
    marks: list[tuple[float, str]] = []
    began = time.perf_counter()
    with watched(watch) as memory:
        manifest = prepare(
            source,
            out,
            columns=columns,
            mapper=ray_map,
            progress=lambda text: marks.append((round(time.perf_counter() - began, 2), text.split()[0])),
        )
    seen = {"peak_gib_above_idle": (memory.peak - idle) / GIB, "idle_gib": idle / GIB} if memory else {}
    return add(
        name,
        seconds=time.perf_counter() - began,
        **seen,
        interactions=manifest.interactions,
        shards=len(manifest.shards),
        phases=marks,
    )


def etl_with_columns(source: Path, work: Path, idle: int, repeat: int) -> tuple[float, float]:
    """Prepare the same rows with three columns about events: kinds of few and of many values, and a price.

    Returns:
        Seconds, and seconds of Polars reading, sorting and grouping the same file, the best of `repeat` each.
    """
    wide = work / "wide"
    wide.mkdir()
    csv = str(wide / "ratings.csv")
    peer("widen", str(source / "ratings.csv"), csv)
    shutil.copy(source / "movies.csv", wide)
    options = TableOptions(context=("device", "channel", "price"))
    own, plain = [], []
    for _ in range(repeat):
        plain.append(peer("group", csv)["seconds"])
        own.append(
            etl(wide / "ratings.csv", work / "wide-out", "etl, three columns", idle, options)["seconds"]
        )
    etl(wide / "ratings.csv", work / "wide-out", "etl, three columns, watched", idle, options, watch=True)
    return min(own), min(plain)


def first_batch(folder: Path) -> float:
    """Return the seconds to the first batch on the running Ray, and keep those to the first that tasks have read.

    The first group of shards is read in this process, while the tasks of the others start.
    """
    began = time.perf_counter()
    source = RaySource(folder, DataConfig(), batch_size=64, seed=0)
    with closing(source.train_batches(0, 0, 1)) as batches:
        next(batches)
        row = add("first batch through a running Ray", seconds=time.perf_counter() - began)
        here = next(source.order.remaining(0, 0, 1)).windows
        if here < source.order.num_windows:
            for _ in range(-(-here // 64)):
                next(batches)
            add("first batch that tasks have read", seconds=time.perf_counter() - began, after_windows=here)
    return float(row["seconds"])


def own_epoch(archive: Path, work: Path) -> dict[str, Any]:
    """Prepare ML-1M and read one epoch of batches: what stands against RecBole's loading and augmentation."""
    began = time.perf_counter()
    with PeakMemory() as memory:
        prepare(archive, work / "ml-1m")
        source = LocalSource(work / "ml-1m", DataConfig(), batch_size=64, seed=0)
        moved, targets = 0, 0
        for *_, batch in source.train_batches(0, 0, 1):
            tensors = (batch.items_T, batch.targets_T, batch.gaps_T, batch.offsets_S1)
            moved += sum(tensor.nbytes for tensor in tensors)
            targets += int((batch.targets_T > 0).sum())
    return add(
        "own ml-1m: prepare and one epoch",
        seconds=time.perf_counter() - began,
        peak_gib=memory.peak / GIB,
        bytes_per_epoch=moved,
        targets=targets,
    )


def four_nodes(source: Path, expected: Path, out: Path) -> None:
    """Prepare on four raylets of one CPU each and compare with the folder of one node."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    for _ in range(3):
        cluster.add_node(num_cpus=1)
    ray.init(address=cluster.address, log_to_driver=False)
    ids = [node["NodeID"] for node in ray.nodes()]
    bytes_N = [0] * len(ids)

    def dealt(function: Any, items: Any) -> Any:
        """Give every fourth item to each node, so that each reads a quarter of the rows."""
        waiting = []
        for number, item in enumerate(items):
            place = number % len(ids)
            bytes_N[place] += item.stop - item.start if isinstance(item, Chunk) else 0
            pinned = NodeAffinitySchedulingStrategy(ids[place], soft=False)
            waiting.append(_call.options(scheduling_strategy=pinned).remote(function, item))
        yield from map(ray.get, waiting)

    began = time.perf_counter()
    manifest = prepare(source, out, mapper=dealt, block_bytes=1 << 18)
    names = ["manifest.json", *manifest.files, *(shard.name for shard in manifest.shards)]
    same = all((expected / name).read_bytes() == (out / name).read_bytes() for name in names)
    add(
        "four nodes",
        seconds=time.perf_counter() - began,
        bytes_of_nodes=bytes_N,
        same_bytes_as_one_node=same,
    )
    ray.shutdown()
    cluster.shutdown()


@ray.remote(num_cpus=1)
def _call(function: Any, item: Any) -> Any:
    return function(item)


def main() -> None:
    """Measure everything and write the record."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--work", type=Path)
    parser.add_argument("--like", default="ml-32m", choices=sorted(LIKE))
    parser.add_argument("--users", type=int)
    parser.add_argument("--ml-1m", type=Path)
    parser.add_argument("--recbole", help="interpreter of an environment with RecBole")
    parser.add_argument("--ratings", type=Path)
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--only", choices=["sorted"])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="ss4rec-bench-", dir=options.work))
    try:
        measure(work, options)
    finally:
        ray.shutdown()
        shutil.rmtree(work, ignore_errors=True)


def measure(work: Path, options: argparse.Namespace) -> None:
    """Run all parts in `work`."""
    source = options.ratings or work / "in"
    csv = str(source / "ratings.csv")
    synthetic = None if options.ratings else make(source, options.like, options.users)
    plain, full, runs = [], peer("job", csv, str(work / "polars")), []
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    time.sleep(5)  # until Ray is idle
    idle = tree_bytes(os.getpid())
    for _ in range(options.repeat):
        plain.append(peer("group", csv)["seconds"])
        runs.append(etl(source, work / "out", "etl", idle))
    peer("group", csv, watch=True)
    peak = etl(source, work / "out", "etl, watched", idle, watch=True)["peak_gib_above_idle"]
    first_s = first_batch(work / "out")
    wide_s, wide_plain_s = etl_with_columns(source, work, idle, options.repeat)
    reference = "Polars, one process: read, sort by (user, time), group"
    best = min(run["seconds"] for run in runs)
    same_job = f"{reference}; 5-core, renumbering, zstd Parquet files"
    same_file = f"{reference}, same file"
    headlines = [
        headline("data.etl_ratio_to_polars", best / min(plain), "x", 1.5, reference),
        headline("data.etl_ratio_to_polars_same_job", best / full["seconds"], "x", 0.45, same_job),
        headline("data.etl_peak_gib", peak, "GiB above an idle Ray", 1.0),
        headline("data.etl_features_ratio_to_polars", wide_s / wide_plain_s, "x", 2.0, same_file),
        headline("data.first_batch_s", first_s, "s", 3.0),
    ]
    if synthetic:
        headlines.append(headline("data.synth_32m_seconds", synthetic["seconds"], "s", 120.0))
    if options.only is None:
        headlines += others(source, work, idle, options)
    print(json.dumps(headlines, indent=1))
    name = "data" if options.only is None else f"data-{options.only}"
    print(f"record: {write_record(name, ROWS, headlines, options.out)}")


def others(source: Path, work: Path, idle: int, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure rows in random order, RecBole's way, and four nodes; ends the running Ray."""
    (work / "mixed").mkdir()
    peer("shuffle", str(source / "ratings.csv"), str(work / "mixed/ratings.csv"))
    shutil.copy(source / "movies.csv", work / "mixed")
    mixed_plain, mixed = [], []
    for _ in range(options.repeat):
        mixed_plain.append(peer("group", str(work / "mixed/ratings.csv"))["seconds"])
        mixed.append(etl(work / "mixed", work / "mixed-out", "etl, shuffled", idle)["seconds"])
    etl(work / "mixed", work / "mixed-out", "etl, shuffled, watched", idle, watch=True)
    ray.shutdown()
    same_file = "Polars, one process: read, sort by (user, time), group, same file"
    found = [
        headline("data.etl_shuffled_ratio_to_polars", min(mixed) / min(mixed_plain), "x", 4.0, same_file)
    ]
    if options.ml_1m:
        own = own_epoch(options.ml_1m, work)
        if options.recbole:
            ratio = own["seconds"] / recbole(options.recbole, work)["seconds"]
            what = "RecBole 1.2.1: load atomic files, 5-core, augment prefixes, one epoch of batches"
            found.append(headline("data.ml_1m_ratio_to_recbole", ratio, "x", 1.0, what))
    small = LIKE["small"]
    synth(work / "small", users=6000, items=3000, mean_len=165, fmt="csv", settings=small.settings)
    prepare(work / "small", work / "one")
    four_nodes(work / "small", work / "one", work / "four")
    return found


if __name__ == "__main__":
    main()
