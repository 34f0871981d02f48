"""Rim: full ranking on a Ray cluster, shards streamed by Ray Data through a pool of actors that hold the scorer.

A row that leaves an actor is one user's ranks, so nothing of size users x items ever moves.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy

from ss4rec.config import RunConfig
from ss4rec.data.batch import collate_eval
from ss4rec.data.manifest import Manifest, sha256_of
from ss4rec.data.shards import ITEMS_NAME
from ss4rec.data.windows import Split, eval_sequences
from ss4rec.errors import DataError, ResourceError
from ss4rec.evaluation.evaluator import EvalResult, rank_users, require_each_user_once, summarise
from ss4rec.evaluation.popularity import MostPopular, RecentlyPopular, TrainingEvents
from ss4rec.evaluation.scorers import ModelScorer, Scorer
from ss4rec.runs import ITEMS_FILE, RunFolder, load_model


def evaluate_folder(
    run_dir: Path, data_dir: Path, *, split: Split = "test", workers: int = 1, gpu: bool = False
) -> EvalResult:
    """Rank every user's held-out item with the best checkpoint of a run.

    Args:
        run_dir: run folder, on storage that all nodes see.
        data_dir: prepared folder with the run's vocabulary, on storage that all nodes see.
        split: which held-out event.
        workers: actors; each loads the model once and takes one CPU, or one GPU with `gpu`.
        gpu: whether the model runs on GPUs.

    Raises:
        DataError: if the data has another vocabulary than the run, or users are missing from the result.
        ResourceError: if the cluster cannot hold the actors beside Ray Data's own reading.
    """
    folder, manifest = RunFolder.open(run_dir), Manifest.load(data_dir)
    if sha256_of(run_dir / ITEMS_FILE) != manifest.files[ITEMS_NAME].sha256:
        raise DataError(
            f"{data_dir} ({manifest.name}) has other items than the run {run_dir.name} was trained on; "
            "give the prepared folder that the run was trained on"
        )
    median_gap_s = folder.record().median_gap_s

    def make_scorer() -> Scorer:
        model, config = load_model(run_dir, "cuda" if gpu else "cpu")
        return ModelScorer(model, median_gap_s, config.data.target_time)

    return _evaluate(make_scorer, folder.config(), data_dir, manifest, split, workers, gpu)


def evaluate_baselines(
    config: RunConfig, data_dir: Path, *, split: Split = "test", workers: int = 1
) -> dict[str, EvalResult]:
    """Rank every user's held-out item by popularity, of all time and of the last 30 days; by name of the baseline.

    Raises:
        DataError, ResourceError: as `evaluate_folder`.
    """
    manifest = Manifest.load(data_dir)
    events = TrainingEvents.read(manifest.shard_paths(data_dir), manifest.items)
    counts_V, shared_events = events.counts(), ray.put(events)
    makers: dict[str, Callable[[], Scorer]] = {
        "most popular": lambda: MostPopular(counts_V),
        "popular in 30 days": lambda: RecentlyPopular(ray.get(shared_events)),
    }
    return {
        name: _evaluate(make, config, data_dir, manifest, split, workers, gpu=False)
        for name, make in makers.items()
    }


class _Ranker:
    """One actor: holds a scorer and turns rows of shards into rows of ranks."""

    def __init__(self, make_scorer: Callable[[], Scorer], config: RunConfig, split: Split) -> None:
        self.scorer = make_scorer()
        self.data = config.data
        self.split = split

    def __call__(self, shard: pa.Table) -> pa.Table:
        """Rank some users; columns as in `rank_users`."""
        sequences = eval_sequences(
            shard, split=self.split, max_len=self.data.max_len, target_time=self.data.target_time
        )
        return rank_users(self.scorer, [collate_eval(sequences)])


def _evaluate(
    make_scorer: Callable[[], Scorer],
    config: RunConfig,
    data_dir: Path,
    manifest: Manifest,
    split: Split,
    workers: int,
    gpu: bool,
) -> EvalResult:
    """Stream all shards through `workers` actors and reduce their rows."""
    _require_room(workers, gpu)
    manifest.quick_check(data_dir)
    shards = ray.data.read_parquet([str(path.absolute()) for path in manifest.shard_paths(data_dir)])
    rows = shards.select_columns(["user", "items", "timestamps"]).map_batches(
        _Ranker,
        fn_constructor_args=(make_scorer, config, split),
        batch_size=config.evaluation.batch_users,
        batch_format="pyarrow",
        compute=ActorPoolStrategy(size=workers),
        num_cpus=0 if gpu else 1,
        num_gpus=1 if gpu else 0,
    )
    ranks = pa.concat_tables(ray.get(rows.to_arrow_refs()))
    require_each_user_once(ranks["user"].to_numpy(), manifest.users)
    return summarise(ranks.sort_by("user"), config.evaluation.ks)


def _require_room(workers: int, gpu: bool) -> None:
    """Refuse a pool that leaves no CPU to read shards: Ray Data would wait for ever without a word."""
    cluster = ray.cluster_resources()
    cpus, gpus = cluster.get("CPU", 0), cluster.get("GPU", 0)
    if gpu and gpus < workers:
        raise ResourceError(
            f"{workers} evaluation workers need a GPU each, the cluster has {gpus:g}; lower workers"
        )
    if not gpu and cpus < workers + 1:
        raise ResourceError(
            f"{workers} evaluation workers and reading need {workers + 1} CPUs, the cluster has {cpus:g}; lower workers"
        )
