"""Evaluation of a run in this process, without Ray."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import torch

from ss4rec.config import RunConfig
from ss4rec.data.batches.source import LocalSource
from ss4rec.data.batches.windows import Split
from ss4rec.data.prepared.folder import PreparedFolder
from ss4rec.evaluation.baselines import baselines
from ss4rec.evaluation.evaluator import EvalResult, rank_users, summarise
from ss4rec.evaluation.scorers import ModelScorer, Scorer
from ss4rec.model.ss4rec import SequenceModel
from ss4rec.protocol.settings import Protocol
from ss4rec.runs.folder import RunFolder
from ss4rec.runs.load import load_model
from ss4rec.runs.under_protocol import run_plan, under_protocol


def evaluate_alone(
    run_dir: Path, data: PreparedFolder | Path, device: torch.device, split: Split = "test"
) -> EvalResult:
    """Rank every user's targets with a run's best checkpoint, in this process without Ray."""
    model, config = load_model(run_dir, str(device))
    ranks = rank_alone(model, config, run_dir, data, split)
    return summarise(ranks, config.evaluation.ks, protocol=config.protocol, trained=model.num_trained)


def rank_alone(
    model: SequenceModel, config: RunConfig, run_dir: Path, data: PreparedFolder | Path, split: Split = "test"
) -> pa.Table:
    """Return the ranks of every user's targets by weights of a run, a table as from `rank_users`."""
    gap_s = RunFolder(run_dir).record().median_gap_s
    source = LocalSource.of(config, data)
    batches = source.eval_batches(split, config.evaluation.batch_users)
    scorer = ModelScorer(model, gap_s, config.data.target_time, source.plan.asked_from_s(split))
    return rank_users(scorer, batches)


def evaluate_with_baselines(
    run_dir: Path,
    data: PreparedFolder | Path,
    device: torch.device,
    split: Split = "test",
    protocol: Protocol | None = None,
) -> dict[str, EvalResult]:
    """Rank with a run's best checkpoint (`model`) and with each baseline, in this process without Ray.

    Args:
        run_dir: the run folder.
        data: the prepared folder that it was trained on.
        device: where the model runs.
        split: which held-out events.
        protocol: how to test, if not as the run's own protocol says.

    Raises:
        DataError: if the data has other items than the run.
        UsageError: if the run may have learned what the protocol tests.
    """
    model, config = load_model(run_dir, str(device))
    data, folder, config = PreparedFolder.open(data), RunFolder(run_dir), under_protocol(config, protocol)
    plan = run_plan(folder, config, data)
    gap_s, asked_from_s = folder.record().median_gap_s, plan.asked_from_s(split)
    scorers: dict[str, Scorer] = {
        "model": ModelScorer(model, gap_s, config.data.target_time, asked_from_s),
        **baselines(data, plan),
    }
    source = LocalSource.of(config, data, plan)
    results = {}
    for name, scorer in scorers.items():
        ranks = rank_users(scorer, source.eval_batches(split, config.evaluation.batch_users))
        results[name] = summarise(ranks, config.evaluation.ks, protocol=config.protocol, trained=plan.trained)
    return results
