"""Rim: full ranking on a Ray cluster, shards dealt by Ray Data to a pool of actors that hold the scorers.

A row that leaves an actor is one user's ranks, so nothing of size users x items ever moves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import ray
from ray.data import ActorPoolStrategy

from ss4rec.config import RunConfig
from ss4rec.data.batches.batch import EvalBatch, collate_eval
from ss4rec.data.batches.windows import Split, eval_sequences
from ss4rec.data.prepared.folder import PreparedFolder
from ss4rec.data.prepared.tables import ITEMS_NAME, read_shard
from ss4rec.errors import DataError, ResourceError
from ss4rec.evaluation.evaluator import EvalResult, rank_users, require_each_user_once, summarise
from ss4rec.evaluation.popularity import MostPopular, RecentlyPopular, TrainingEvents
from ss4rec.evaluation.scorers import ModelScorer, Scorer
from ss4rec.io.atomic import sha256_of
from ss4rec.runs.folder import ITEMS_FILE, RunFolder
from ss4rec.runs.load import load_model

MakeScorers = Callable[[], dict[str, Scorer]]


def evaluate_folder(
    run_dir: Path,
    data: PreparedFolder | Path,
    *,
    split: Split = "test",
    workers: int = 1,
    gpu: bool = False,
) -> EvalResult:
    """Rank every user's held-out item with the best checkpoint of a run.

    Args:
        run_dir: run folder, on storage that all nodes see.
        data: prepared folder with the run's vocabulary, on storage that all nodes see.
        split: which held-out event.
        workers: actors; each loads the model once and takes one CPU, or one GPU with `gpu`.
        gpu: whether the model runs on GPUs.

    Raises:
        DataError: if the data has another vocabulary than the run, or users are missing from the result.
        ResourceError: if the cluster cannot hold the actors.
    """
    folder, data = RunFolder.open(run_dir), PreparedFolder.open(data)
    if sha256_of(run_dir / ITEMS_FILE) != data.manifest.files[ITEMS_NAME].sha256:
        raise DataError(
            f"{data} ({data.manifest.name}) has other items than the run {run_dir.name} was trained on; "
            "give the prepared folder that the run was trained on"
        )
    median_gap_s = folder.record().median_gap_s

    def make_scorers() -> dict[str, Scorer]:
        model, config = load_model(run_dir, "cuda" if gpu else "cpu")
        return {"model": ModelScorer(model, median_gap_s, config.data.target_time)}

    return _evaluate(make_scorers, folder.config(), data, split, workers, gpu)["model"]


def evaluate_baselines(
    config: RunConfig, data: PreparedFolder | Path, *, split: Split = "test", workers: int = 1
) -> dict[str, EvalResult]:
    """Rank every user's held-out item by popularity, of all time and of the last 30 days; by name of the baseline.

    Raises:
        DataError, ResourceError: as `evaluate_folder`.
    """
    data = PreparedFolder.open(data)
    events = TrainingEvents.read(data.shard_paths, data.manifest.items)
    counts_V, shared_events = events.counts(), ray.put(events)

    def make_scorers() -> dict[str, Scorer]:
        return {
            "most popular": MostPopular(counts_V),
            "popular in 30 days": RecentlyPopular(ray.get(shared_events)),
        }

    return _evaluate(make_scorers, config, data, split, workers, gpu=False)


class _Ranker:
    """One actor: holds scorers and turns the paths of shards into rows of ranks."""

    def __init__(
        self,
        make_scorers: MakeScorers,
        config: RunConfig,
        split: Split,
        num_items: int,
        profiles_UF: npt.NDArray[Any] | None,
    ) -> None:
        self.scorers = make_scorers()
        self.config = config
        self.split = split
        self.num_items = num_items
        self.profiles_UF = profiles_UF

    def __call__(self, shards: dict[str, npt.NDArray[Any]]) -> pa.Table:
        """Rank the users of some shards with every scorer; columns as in `rank_users`, and `scorer`."""
        data, parts = self.config.data, []
        for path in shards["path"]:
            sequences = eval_sequences(
                read_shard(Path(path), self.num_items),
                split=self.split,
                max_len=data.max_len,
                target_time=data.target_time,
            )
            for name, scorer in self.scorers.items():
                ranks = rank_users(scorer, self._batches(sequences))
                parts.append(ranks.append_column("scorer", pa.array([name] * ranks.num_rows)))
        return pa.concat_tables(parts)

    def _batches(self, sequences: pa.Table) -> Iterator[EvalBatch]:
        """Yield batches of `evaluation.batch_users` users."""
        size = self.config.evaluation.batch_users
        for first in range(0, sequences.num_rows, size):
            yield collate_eval(sequences.slice(first, size), self.profiles_UF)


def _evaluate(
    make_scorers: MakeScorers,
    config: RunConfig,
    data: PreparedFolder,
    split: Split,
    workers: int,
    gpu: bool,
) -> dict[str, EvalResult]:
    """Deal all shards to `workers` actors and reduce their rows, scorer by scorer."""
    _require_room(workers, gpu)
    data.quick_check()
    # Paths, not rows, are dealt: actors read whole shards, and a damaged one is named.
    paths = [{"path": str(path.absolute())} for path in data.shard_paths]
    rows = ray.data.from_items(paths, override_num_blocks=len(paths)).map_batches(
        _Ranker,
        fn_constructor_args=(make_scorers, config, split, data.manifest.items, data.profiles_UF),
        batch_size=1,
        compute=ActorPoolStrategy(size=min(workers, len(paths))),
        num_cpus=0 if gpu else 1,
        num_gpus=1 if gpu else 0,
    )
    ranks = pa.concat_tables(ray.get(rows.to_arrow_refs())).sort_by("user")
    results = {}
    for name in dict.fromkeys(ranks["scorer"].to_pylist()):
        own = ranks.filter(pc.field("scorer") == name)
        require_each_user_once(own["user"].to_numpy(), data.manifest.users)
        results[name] = summarise(own, config.evaluation.ks)
    return results


def _require_room(workers: int, gpu: bool) -> None:
    """Refuse a pool that the cluster cannot hold: Ray Data would wait for ever without a word."""
    kind = "GPU" if gpu else "CPU"
    have = ray.cluster_resources().get(kind, 0)
    if have < workers:
        raise ResourceError(
            f"{workers} evaluation workers need a {kind} each, the cluster has {have:g}; ask for fewer workers"
        )
