"""Rim: full ranking on a Ray cluster, shards dealt by Ray Data to a pool of actors that hold the scorers.

A row that leaves an actor is the ranks of one target, so nothing of size users x items ever moves.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import ray
from ray.data import ActorPoolStrategy

from ss4rec.cluster.pool import dataset_name, require_room
from ss4rec.config import RunConfig, override
from ss4rec.data.batches.reader import eval_rows
from ss4rec.data.batches.windows import Split
from ss4rec.data.prepared.folder import PreparedFolder
from ss4rec.data.prepared.tables import read_shard
from ss4rec.evaluation.baselines import baselines
from ss4rec.evaluation.evaluator import EvalResult, rank_users, require_all_targets, summarise
from ss4rec.evaluation.recommended import ListSpec
from ss4rec.evaluation.scorers import ModelScorer, Scorer
from ss4rec.evaluation.successive import history_batches
from ss4rec.io.kept_memory import keep_freed_memory
from ss4rec.protocol.plan import Plan, plan_of_run
from ss4rec.protocol.settings import Protocol
from ss4rec.runs.folder import RunFolder
from ss4rec.runs.load import load_model
from ss4rec.runs.under_protocol import run_plan, under_protocol

MakeScorers = Callable[[], dict[str, Scorer]]
MATRIX_SCORES = 1 << 22
"""Scores of a baseline in memory at one time: each matrix is gone through many times and should stay in the cache."""


def evaluate_folder(
    run_dir: Path,
    data: PreparedFolder | Path,
    *,
    split: Split = "test",
    workers: int = 1,
    gpu: bool = False,
    protocol: Protocol | None = None,
) -> EvalResult:
    """Rank the targets of every user with the best checkpoint of a run; arguments and errors as of `rank_folder`."""
    ranks = rank_folder(run_dir, data, split=split, workers=workers, gpu=gpu, protocol=protocol)
    config = under_protocol(RunFolder.open(run_dir).config(), protocol)
    trained = plan_of_run(config, data).trained
    return summarise(ranks, config.evaluation.ks, protocol=config.protocol, trained=trained)


def rank_folder(
    run_dir: Path,
    data: PreparedFolder | Path,
    *,
    split: Split = "test",
    workers: int = 1,
    gpu: bool = False,
    protocol: Protocol | None = None,
    lists: ListSpec | None = None,
) -> pa.Table:
    """Return the ranks of every user's targets with the best checkpoint of a run, as from `rank_users`.

    Args:
        run_dir: run folder, on storage that all nodes see.
        data: prepared folder that the run was trained on, on storage that all nodes see.
        split: which targets.
        workers: actors; each loads the model once and takes one CPU, or one GPU with `gpu`.
        gpu: whether the model runs on GPUs.
        protocol: how to test, if not as the run's own protocol says; it must agree with that on what trains.
        lists: which recommended lists to keep, if any.

    Raises:
        DataError: if the data has another vocabulary than the run, or users are missing from the result.
        UsageError: if the run was trained on what this protocol tests.
        ResourceError: if the cluster cannot hold the actors.
    """
    folder, opened = RunFolder.open(run_dir), PreparedFolder.open(data)
    config = under_protocol(folder.config(), protocol)
    plan = run_plan(folder, config, opened)
    median_gap_s = folder.record().median_gap_s
    asked_from_s = plan.asked_from_s(split)

    def make_scorers() -> dict[str, Scorer]:
        model, config = load_model(run_dir, "cuda" if gpu else "cpu")
        return {"model": ModelScorer(model, median_gap_s, config.data.target_time, asked_from_s)}

    return _rank(make_scorers, config, opened, plan, split, workers, gpu, lists)["model"]


def rank_baselines(
    config: RunConfig,
    data: PreparedFolder,
    plan: Plan,
    *,
    split: Split = "test",
    workers: int = 1,
    lists: ListSpec | None = None,
) -> dict[str, pa.Table]:
    """Return the ranks of every user's targets by each baseline, as from `rank_users`; errors as `evaluate_folder`."""
    shared = ray.put(baselines(data, plan))
    batch_users = min(config.evaluation.batch_users, max(1, MATRIX_SCORES // (plan.num_items + 1)))
    config = override(config, {"evaluation.batch_users": batch_users})
    return _rank(lambda: ray.get(shared), config, data, plan, split, workers, False, lists)


class _Ranker:
    """One actor: holds scorers and turns the paths of shards into rows of ranks."""

    def __init__(
        self,
        make_scorers: MakeScorers,
        config: RunConfig,
        plan: Plan,
        split: Split,
        num_items: int,
        profiles_UF: npt.NDArray[Any] | None,
        lists: ListSpec | None,
    ) -> None:
        keep_freed_memory()
        self.scorers = make_scorers()
        self.config = config
        self.plan = plan
        self.split = split
        self.num_items = num_items
        self.profiles_UF = profiles_UF
        self.lists = lists

    def __call__(self, shards: dict[str, npt.NDArray[Any]]) -> pa.Table:
        """Rank the users of some shards with every scorer; columns as in `rank_users`, and `scorer`."""
        parts, batch_targets = [], self.config.evaluation.batch_users
        for path in shards["path"]:
            shard = read_shard(Path(path), self.num_items)
            histories = eval_rows(shard, self.split, self.plan, self.config.data)
            for name, scorer in self.scorers.items():
                batches = history_batches(histories, batch_targets, self.profiles_UF)
                ranks = rank_users(scorer, batches, self.lists)
                parts.append(ranks.append_column("scorer", pa.array([name] * ranks.num_rows, pa.string())))
        return pa.concat_tables(parts)


def _rank(
    make_scorers: MakeScorers,
    config: RunConfig,
    data: PreparedFolder,
    plan: Plan,
    split: Split,
    workers: int,
    gpu: bool,
    lists: ListSpec | None,
) -> dict[str, pa.Table]:
    """Deal all shards to `workers` actors and return their rows, scorer by scorer."""
    require_room(workers, gpu, "evaluation workers")
    data.quick_check()
    # Paths, not rows, are dealt: actors read whole shards, and a damaged one is named.
    paths = [{"path": str(path.absolute())} for path in data.shard_paths]
    rows = ray.data.from_items(paths, override_num_blocks=len(paths)).map_batches(
        _Ranker,
        fn_constructor_args=(make_scorers, config, plan, split, data.manifest.items, data.profiles_UF, lists),
        batch_size=1,
        compute=ActorPoolStrategy(size=min(workers, len(paths))),
        num_cpus=0 if gpu else 1,
        num_gpus=1 if gpu else 0,
    )
    rows.set_name(dataset_name(data.manifest.name, "ranks", split))
    ranks = pa.concat_tables(ray.get(rows.to_arrow_refs())).sort_by(
        [("user", "ascending"), ("history", "ascending")]
    )
    tables = {}
    for name in dict.fromkeys(ranks["scorer"].to_pylist()):
        own = ranks.filter(pc.field("scorer") == name)
        require_all_targets(own["user"].to_numpy(), np.diff(plan.targets(split).offsets_U1))
        tables[name] = own
    return tables
