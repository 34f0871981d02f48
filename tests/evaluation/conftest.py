"""Runs that were trained for a moment and evaluated in this process, with everything that an evaluation keeps."""

import pytest
import torch

from ss4rec.config import RunConfig, override
from ss4rec.data.batches.source import LocalSource
from ss4rec.data.prepared.folder import PreparedFolder
from ss4rec.evaluation.baselines import baselines
from ss4rec.evaluation.evaluator import rank_users
from ss4rec.evaluation.recommended import ListSpec, count_item_facts
from ss4rec.evaluation.report import keep_evaluation
from ss4rec.evaluation.scorers import ModelScorer
from ss4rec.evaluation.training import training_parts
from ss4rec.io.atomic import write_json
from ss4rec.runs.folder import RESULT_FILE, RunFolder
from ss4rec.runs.load import load_model
from ss4rec.runs.under_protocol import run_plan
from ss4rec.train.worker import train_alone

SMALL = {
    "model.dim": 8, "model.time_states": 4, "model.relation_states": 4, "model.gap_map": "log", "data.max_len": 20,
    "data.overlap": 2, "data.source": "local", "train.epochs": 2, "train.batch_size": 32, "tracking.wandb": "disabled",
}  # fmt: skip


def make_run(run_dir, data_dir, names=("most popular", "Markov chain"), split="test", **changes):
    """Train and evaluate without Ray; return the run folder."""
    config = override(RunConfig(), SMALL | changes)
    outcome = train_alone(config, data_dir, run_dir, torch.device("cpu"))
    evaluate(run_dir, data_dir, names, split)
    write_json(run_dir / RESULT_FILE, {"run": str(run_dir), "training": vars(outcome)})
    return run_dir


def evaluate(run_dir, data_dir, names=("most popular", "Markov chain"), split="test"):
    folder, data = RunFolder.open(run_dir), PreparedFolder.open(data_dir)
    model, config = load_model(run_dir)
    plan = run_plan(folder, config, data)
    parts = training_parts(data.shard_paths, data.manifest.items, plan)
    lists = ListSpec(count_item_facts(plan.items(data), parts), False, True)
    scorers = {"model": ModelScorer(model, folder.record().median_gap_s, config.data.target_time)}
    scorers |= {name: scorer for name, scorer in baselines(data, plan).items() if name in names}
    source = LocalSource.of(config, data)
    ranks = {
        name: rank_users(scorer, source.eval_batches(split, 64), lists) for name, scorer in scorers.items()
    }
    keep_evaluation(run_dir, data, config, plan, lists.item_facts, ranks, split=split, seconds=1.0)


@pytest.fixture(scope="session")
def evaluated(prepared, tmp_path_factory):
    """One small run, trained and evaluated."""
    return make_run(tmp_path_factory.mktemp("runs") / "small", prepared)
