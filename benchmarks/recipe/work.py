"""What one process of the recipe benchmark does: train `auto`, train a peer, or count baselines."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch

from benchmarks.quality.peers import train_rectools
from benchmarks.recipe.rows import Training
from benchmarks.recipe.table import HABITS
from ss4rec.auto.resolve import Auto
from ss4rec.config import DataConfig, RunConfig
from ss4rec.data.batches.source import LocalSource
from ss4rec.data.prepared.folder import PreparedFolder
from ss4rec.evaluation.alone import rank_alone
from ss4rec.evaluation.baselines import baselines
from ss4rec.evaluation.evaluator import EvalResult, rank_users, summarise
from ss4rec.evaluation.popularity import RecentlyPopular, TrainingEvents
from ss4rec.evaluation.scorers import Scorer
from ss4rec.evaluation.training import training_parts
from ss4rec.protocol.plan import Plan, make_plan
from ss4rec.protocol.settings import Protocol
from ss4rec.runs.folder import RunFolder
from ss4rec.runs.load import load_model
from ss4rec.train.status import say
from ss4rec.train.worker import loop_alone

KS = (10,)
HOURS = (1, 3, 6, 12, 24)
"""Windows of `most popular of the last hours`; the best of them stands in the table."""
CHAIN = ("Markov chain",)
PEERS: dict[str, dict[str, Any]] = {
    "sasrec": {"model": "sasrec", "n_factors": 128, "n_blocks": 2, "n_heads": 2, "dropout_rate": 0.3},
    "esasrec": {
        "model": "esasrec",
        "n_factors": 256,
        "n_blocks": 2,
        "n_heads": 4,
        "dropout_rate": 0.3,
        "loss": "sampled_softmax",
        "n_negatives": 256,
    },
    "hstu": {"model": "hstu", "n_factors": 128, "n_blocks": 2, "n_heads": 2, "dropout_rate": 0.3},
}
"""rectools' models; `esasrec` has LiGR layers and a sampled softmax (arXiv 2508.06450)."""


def tested(row: Training) -> dict[str, Protocol]:
    """Return the protocol of each measure, by its name."""
    protocol = row.protocol
    return {
        measure.name: protocol
        if measure.targets is None
        else protocol.model_copy(update={"targets": measure.targets})
        for measure in row.measures
    }


def train_auto(
    row: Training,
    data: Path,
    run: Path,
    seed: int,
    minutes: float,
    changes: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Choose, train, and only then rank the test.

    Args:
        row: what is trained.
        data: the prepared folder.
        run: the run's folder.
        seed: seed of the run.
        minutes: as `ss4rec train --minutes`.
        changes: fields that are set by hand, for ablations; none in the table.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    plain = {"train.seed": seed, "data.source": "local", "tracking.wandb": "disabled"}
    auto = Auto(row.protocol, plain | dict(changes or {}), minutes)
    config = auto(data, device.type == "cuda", say)
    with loop_alone(config, data, run, device) as loop:
        outcome = loop.run()
    names = ("epoch", "elapsed_s", "train_loss", "valid_ndcg@10", "valid_ndcg@10_unseen", "valid_hr@10")
    epochs = [line for line in RunFolder(run).metrics() if line["kind"] == "epoch" and names[3] in line]
    model, config = load_model(run, str(device))
    tests = {
        name: _shown(rank_alone(model, _with(config, protocol), run, data), protocol)
        for name, protocol in tested(row).items()
    }
    return {
        "config": config.model_dump(mode="json"),
        "outcome": outcome.as_dict(),
        "curve": [[round(line[name], 5) for name in names] for line in epochs],
        "gib": round(torch.cuda.max_memory_reserved() / 2**30, 2) if device.type == "cuda" else None,
        "tests": tests,
    }


def train_peer(row: Training, data: Path, name: str, minutes: float) -> dict[str, Any]:
    """Train a model of rectools for as long, choose its epoch on the same validation, and rank the test."""
    options = dict(PEERS[name])
    found_name = options.pop("model")
    scorer, found = train_rectools(found_name, options, data, 0, 0.9 * minutes, row.protocol)
    tests = {
        label: _shown(_rank(scorer, data, protocol), protocol) for label, protocol in tested(row).items()
    }
    return {"config": PEERS[name], **found, "tests": tests}


def count_baselines(row: Training, data: Path) -> dict[str, Any]:
    """Rank the test by the baselines that stand beside the row: each user's own habits, or a Markov chain."""
    found: dict[str, Any] = {}
    for measure in row.measures:
        protocol = tested(row)[measure.name]
        plan = make_plan(protocol, data)
        wanted = HABITS if measure.against_peers else CHAIN
        scorers = {name: scorer for name, scorer in baselines(data, plan).items() if name in wanted}
        if plan.cut_s is not None and measure.against_peers:
            scorers |= _of_the_last_hours(data, plan)
        found[measure.name] = {
            name: _shown(_rank(scorer, data, protocol), protocol) for name, scorer in scorers.items()
        }
    return {"tests": found}


def _of_the_last_hours(data: Path, plan: Plan) -> dict[str, Scorer]:
    """Return what was popular in the hours before each recommendation, events after the cut included."""
    folder = PreparedFolder.open(data)
    parts = training_parts(folder.shard_paths, folder.manifest.items, plan, later=True)
    events = TrainingEvents.of(list(parts), plan.num_items)
    return {f"popular in {hours} hours, now": RecentlyPopular(events, 3600 * hours) for hours in HOURS}


def _rank(scorer: Scorer, data: Path, protocol: Protocol) -> pa.Table:
    config = RunConfig(protocol=protocol, data=DataConfig(max_len=200, overlap=0, target_time=True))
    return rank_users(scorer, LocalSource.of(config, data).eval_batches("test", 512))


def _with(config: RunConfig, protocol: Protocol) -> RunConfig:
    return config.model_copy(update={"protocol": protocol})


def _shown(ranks: pa.Table, protocol: Protocol) -> dict[str, Any]:
    """Return the metrics in the protocol's own setting."""
    result: EvalResult = summarise(ranks, KS, protocol=protocol)
    own = result.setting(protocol.seen, protocol.target_time)
    return {
        "users": result.num_users,
        "targets": result.num_targets,
        "cold": result.cold_targets,
        **own.model_dump(mode="json"),
    }
