"""Evaluation of a run in this process, without Ray."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import torch

from ss4rec.config import RunConfig
from ss4rec.data.batches.source import LocalSource
from ss4rec.data.batches.windows import Split
from ss4rec.data.prepared.folder import PreparedFolder
from ss4rec.evaluation.evaluator import EvalResult, rank_users, summarise
from ss4rec.evaluation.scorers import ModelScorer
from ss4rec.model.ss4rec import SequenceModel
from ss4rec.runs.folder import RunFolder
from ss4rec.runs.load import load_model


def evaluate_alone(
    run_dir: Path, data: PreparedFolder | Path, device: torch.device, split: Split = "test"
) -> EvalResult:
    """Rank every user's held-out item with a run's best checkpoint, in this process without Ray."""
    model, config = load_model(run_dir, str(device))
    return summarise(rank_alone(model, config, run_dir, data, split), config.evaluation.ks)


def rank_alone(
    model: SequenceModel, config: RunConfig, run_dir: Path, data: PreparedFolder | Path, split: Split = "test"
) -> pa.Table:
    """Return the ranks of every user's held-out item by weights of a run, a table as from `rank_users`."""
    gap_s = RunFolder(run_dir).record().median_gap_s
    source = LocalSource(data, config.data, batch_size=config.train.batch_size, seed=config.train.seed)
    batches = source.eval_batches(split, config.evaluation.batch_users)
    return rank_users(ModelScorer(model, gap_s, config.data.target_time), batches)
