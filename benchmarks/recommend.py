"""From a prepared folder to Parquet files of the best items of every user, by the real job on Ray.

`python -m benchmarks.recommend` draws 200,948 users with 20 to 200 events over 84,432 items, writes them as a prepared
folder, makes a run of the paper's model with random weights (speed does not depend on them), starts Ray, and times
`recommend_run` with top 100: actors, model, reading, encoding, exact ranking, Parquet, manifest. With two GPUs it does
the same on both and writes their ratio: that of lists a second once the models are loaded, and beside it that of the
whole jobs, whose actors take the same time to start. Figures are medians; each run's row tells when the parts of each
actor's start had ended (process and Ray's own imports, ours, CUDA, model, kernels, first file), how many files each
actor made and when it ended, and how many compiled kernels Triton had kept before. It writes `recommend-<YYYYMMDD>.json`, after each count of workers.

`--data FOLDER` takes a prepared folder instead, such as ML-1M, with `--preset` or `--run`. `--smoke` does the same with
tiny sizes.
"""

from __future__ import annotations

import itertools
import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import click
import numpy as np
import pyarrow as pa
import torch

from benchmarks.record import headline, write_record
from ss4rec.cluster.connect import cluster
from ss4rec.config import RunConfig, override
from ss4rec.data.prepared.build import Sequences, fill_folder
from ss4rec.data.prepared.folder import PreparedFolder
from ss4rec.data.prepared.manifest import Filters, SourceRecord
from ss4rec.data.sources.rows import Catalogue
from ss4rec.io.atomic import write_json
from ss4rec.model.ss4rec import make_model
from ss4rec.presets import preset
from ss4rec.recommendations.job import recommend_run
from ss4rec.recommendations.options import RecommendOptions
from ss4rec.recommendations.output import RecommendManifest
from ss4rec.recommendations.ray_recommend import GroupNote, on_ray
from ss4rec.runs import checkpoint
from ss4rec.runs.folder import RECORD_FILE, RunFolder
from ss4rec.runs.record import RunRecord

GOAL_200K_S, GOAL_TWO_GPUS, GOAL_ML_1M_S = 15.0, 1.8, 60.0


@click.command(help=__doc__)
@click.option("--data", type=click.Path(path_type=Path), help="A prepared folder instead of drawn users.")
@click.option("--run", "run_dir", type=click.Path(path_type=Path), help="A trained run on --data.")
@click.option(
    "--preset",
    "names",
    multiple=True,
    default=["paper"],
    show_default=True,
    help="Of the model where there is no --run; each gets rows of its own.",
)
@click.option("--users", default=200_948, show_default=True)
@click.option("--items", default=84_432, show_default=True)
@click.option(
    "--length", default=200, show_default=True, help="Longest history; lengths are uniform from 20."
)
@click.option("--k", default=100, show_default=True)
@click.option(
    "--workers", default=0, help="Actors; default: one, on CPUs two, and with two GPUs one and then two."
)
@click.option("--times", default=3, show_default=True, help="The median of so many counts.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("benchmarks/results"), show_default=True)
@click.option("--smoke", is_flag=True, help="Tiny sizes; the record is called recommend-smoke.")
def main(
    data: Path | None,
    run_dir: Path | None,
    names: tuple[str, ...],
    users: int,
    items: int,
    length: int,
    k: int,
    workers: int,
    times: int,
    out: Path,
    smoke: bool,
) -> None:
    """Time the job."""
    if smoke:
        users, items, length, k, times = 5000, 300, 24, 10, 1
    gpus = torch.cuda.device_count()
    wanted = [workers] if workers else [1, 2] if gpus > 1 else [1] if gpus else [2]
    with tempfile.TemporaryDirectory(prefix="ss4rec-recommend-") as temporary:
        base = Path(temporary)
        began = time.perf_counter()
        folder = (
            PreparedFolder.open(data.resolve()) if data else draw_folder(base / "data", users, items, length)
        )
        runs = [untrained_run(base / name, folder, preset(name)) for name in names]
        runs = [run_dir.resolve()] if run_dir else runs
        print(f"data and run after {time.perf_counter() - began:.1f} s", flush=True)
        rows = []
        with cluster("local", dashboard=False):
            for run, count in itertools.product(runs, wanted):
                rows.append(timed(run, folder, base, count, gpus > 0, k, times))
                kind = "recommend-smoke" if smoke else "recommend"
                print(write_record(kind, rows, headlines(rows, folder, gpus), out), flush=True)


def timed(
    run: Path, data: PreparedFolder, base: Path, workers: int, gpu: bool, k: int, times: int
) -> dict[str, Any]:
    """Run the job a few times and return the seconds, and where they went."""
    runs, size = [], {}
    for number in range(times):
        manifest, found = one_run(run, data, base / f"out-{run.name}-{workers}-{number}", workers, gpu, k)
        size = {
            "users": manifest.users,
            "items": data.manifest.items,
            "events": data.manifest.interactions,
            "files": len(manifest.files),
            "written_mib": sum(file.bytes for file in manifest.files) / 2**20,
        }
        runs.append(found)
        print(f"{workers} workers, run {number + 1}: {json.dumps(found)}", flush=True)
    return {
        "what": f"prepared folder to Parquet, top {k}, unseen items, {workers} workers",
        "seconds": statistics.median(found["seconds"] for found in runs),
        "files_per_s_then": statistics.median(found["files_per_s_then"] for found in runs),
        "model": run.name,
        "workers": workers,
        "gpu": gpu,
        **size,
        "runs": runs,
    }


def one_run(
    run: Path, data: PreparedFolder, out: Path, workers: int, gpu: bool, k: int
) -> tuple[RecommendManifest, dict[str, Any]]:
    """Run the job once and return its manifest, its seconds, and when each part of each actor's start had ended."""
    made: list[float] = []
    notes: list[GroupNote] = []
    kernels = triton_kernels()
    began = time.perf_counter()

    def progress(message: str) -> None:
        if message.endswith("are made"):
            made.append(time.perf_counter() - began)
        if len(made) in (0, 1) or len(made) % 20 == 0:
            print(f"{time.perf_counter() - began:6.2f} s: {message}", flush=True)

    manifest = recommend_run(
        run,
        out,
        data,
        RecommendOptions(k=k),
        device="cuda" if gpu else "cpu",
        runner=on_ray(workers, gpu, tell=notes.append),
        progress=progress,
    )
    seconds = time.perf_counter() - began
    actors = {note.actor: note.start for note in notes if note.start}
    return manifest, {
        "seconds": round(seconds, 3),
        "first_file_s": round(made[0], 3),
        "files_per_s_then": round(steady_rate(made), 2),
        "kernels_in_cache": kernels,
        "actors": [
            {
                "start": start,
                "files": sum(note.files for note in notes if note.actor == actor),
                "ended_s": max(note.ended_s for note in notes if note.actor == actor),
            }
            for actor, start in actors.items()
        ],
    }


def triton_kernels() -> int:
    """Return how many compiled kernels Triton has kept on this machine: with none, a job compiles its own."""
    folder = Path(os.environ.get("TRITON_CACHE_DIR", Path.home() / ".triton" / "cache"))
    return len(list(folder.glob("*/*.cubin")))


def steady_rate(made: list[float]) -> float:
    """Return files a second between the first fifth of the files and the last one: all actors work by then."""
    start = len(made) // 5
    seconds = made[-1] - made[start]
    return (len(made) - 1 - start) / seconds if seconds > 0 else 0.0


def headlines(rows: list[dict[str, Any]], data: PreparedFolder, gpus: int) -> list[dict[str, Any]]:
    """Return the figures that were measured at full size."""
    by_workers = {row["workers"]: row for row in rows if row["model"] == rows[0]["model"]}
    what = (
        f"{data.manifest.users:,} users x {data.manifest.items:,} items, top 100, prepared folder to Parquet"
    )
    found = []
    if gpus and data.manifest.users >= 200_000 and 1 in by_workers:
        one = by_workers[1]
        found.append(headline("recommend.seconds_200k", one["seconds"], "s", GOAL_200K_S, f"{what}, one GPU"))
        if 2 in by_workers:
            two = by_workers[2]
            rate = two["files_per_s_then"] / one["files_per_s_then"]
            whole = one["seconds"] / two["seconds"]
            text = f"{what}, 1 and 2 GPUs, lists a second once the models are loaded"
            found.append(headline("recommend.two_gpu_ratio", rate, "", GOAL_TWO_GPUS, text))
            text = f"{what}, 1 and 2 GPUs, the job with the start of its actors"
            found.append(headline("recommend.two_gpu_ratio_whole_job", whole, "", None, text))
    for row in rows:
        if not gpus and data.manifest.users == 6040 and row["workers"] == 2:
            name = "recommend.seconds_ml_1m_2_cpus" + ("" if row is rows[0] else f"_{row['model']}")
            peer = f"{what}, {row['model']}, 2 CPU cores"
            found.append(headline(name, row["seconds"], "s", GOAL_ML_1M_S, peer))
    return found


def draw_folder(out: Path, users: int, items: int, length: int) -> PreparedFolder:
    """Write histories of 20 to `length` events of random items with gaps from seconds to days."""
    rng = np.random.default_rng(0)
    lengths_U = rng.integers(min(20, length), length + 1, users)
    offsets_U1 = np.concatenate([[0], np.cumsum(lengths_U)])
    events = int(offsets_U1[-1])
    gaps_E = np.exp(rng.random(events) * 12).astype(np.int64)
    until_E = np.cumsum(gaps_E)
    nothing = (pa.nulls(items, pa.string()), pa.nulls(items, pa.list_(pa.string())))
    sequences = Sequences(
        user_ids=pa.array(np.arange(1, users + 1)),
        items=Catalogue(pa.array(np.arange(1, items + 1)), *nothing),
        offsets_U1=offsets_U1,
        items_E=rng.integers(1, items + 1, events).astype(np.int32),
        times_E=1_000_000_000 + until_E - np.repeat(until_E[offsets_U1[:-1]], lengths_U),
        ratings_E=np.full(events, 4.0, np.float32),
    )
    source = SourceRecord(bytes=0, sha256="0" * 64, name="drawn", layout="drawn", rows=events)
    manifest = fill_folder(
        out, sequences, name="drawn", source=source, filters=Filters(k_core=0), rows_dropped={}
    )
    return PreparedFolder(out, manifest)


def untrained_run(path: Path, data: PreparedFolder, config: RunConfig) -> Path:
    """Make a run folder with random weights."""
    config = override(config, {"tracking.wandb": "disabled"})
    torch.manual_seed(0)
    run = RunFolder(path)
    run.start(config, data)
    model = make_model(config.model, data.manifest.items, config.data.target_time)
    record = RunRecord.collect(
        name=path.name, config=config, manifest=data.manifest, model=model, device="none", workers=1
    )
    write_json(path / RECORD_FILE, record.model_dump(mode="json"))
    state = {"epoch": 1, "step": 0, "global_step": 1, "score": 0.0}
    checkpoint.save(run.checkpoints, model=model.state_dict(), training={}, state=state)
    return path


if __name__ == "__main__":
    main()
