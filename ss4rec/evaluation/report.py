"""A run and the baselines evaluated on the same users, as `result.json` keeps it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pyarrow as pa

from ss4rec.config import RunConfig
from ss4rec.data.batches.windows import Split
from ss4rec.data.prepared.folder import PreparedFolder
from ss4rec.data.prepared.user_profiles import profile_columns
from ss4rec.evaluation.evaluator import EvalResult, summarise
from ss4rec.evaluation.lists import ItemFacts
from ss4rec.evaluation.recommended import ListSpec, count_item_facts, summarise_lists
from ss4rec.evaluation.run_page import write_run_page
from ss4rec.evaluation.saved import MODEL, EvaluationRecord, save
from ss4rec.evaluation.training import training_parts
from ss4rec.protocol.plan import Plan
from ss4rec.protocol.settings import Protocol
from ss4rec.runs.folder import RunFolder
from ss4rec.runs.record import data_fingerprint
from ss4rec.runs.under_protocol import run_plan, under_protocol


def evaluate_run(
    run_dir: Path,
    data: PreparedFolder | Path,
    *,
    split: Split = "test",
    workers: int = 1,
    use_gpu: bool = False,
    protocol: Protocol | None = None,
) -> dict[str, Any]:
    """Return the `EvalResult` of the run's best checkpoint (`model`) and of each baseline, as plain JSON values.

    Ranks, lists and metrics stay in the run folder (`ss4rec.evaluation.saved`), and its page is written anew.

    `protocol` is how to test, if not as the run's own protocol says.

    Raises:
        DataError, UsageError, ResourceError: as `evaluate_folder`.
    """
    from ss4rec.cluster.pool import free_cpus
    from ss4rec.evaluation.ray_evaluate import rank_baselines, rank_folder

    began = time.monotonic()
    folder, data = RunFolder.open(run_dir), PreparedFolder.open(data)
    config = under_protocol(folder.config(), protocol)
    plan = run_plan(folder, config, data)
    item_facts = count_item_facts(
        plan.items(data), training_parts(data.shard_paths, data.manifest.items, plan)
    )
    lists = ListSpec(item_facts, config.protocol.seen == "excluded", config.protocol.target_time == "known")
    ranks = {
        MODEL: rank_folder(
            run_dir, data, split=split, workers=workers, gpu=use_gpu, protocol=protocol, lists=lists
        )
    }
    # Baselines use no GPU, so the number of GPUs says nothing about how many of them can work side by side.
    baseline_workers = free_cpus() if use_gpu else workers
    ranks |= rank_baselines(config, data, plan, split=split, workers=baseline_workers, lists=lists)
    seconds = round(time.monotonic() - began, 3)
    results = keep_evaluation(run_dir, data, config, plan, item_facts, ranks, split=split, seconds=seconds)
    return {name: result.model_dump(mode="json") for name, result in results.items()}


def keep_evaluation(
    run_dir: Path,
    data: PreparedFolder,
    config: RunConfig,
    plan: Plan,
    item_facts: ItemFacts,
    ranks: dict[str, pa.Table],
    *,
    split: Split,
    seconds: float,
) -> dict[str, EvalResult]:
    """Turn ranks with lists into metrics, and write all of them into the run folder; return the metrics by scorer.

    Args:
        run_dir: the run folder.
        data: prepared folder that was ranked.
        config: the run's configuration, with the protocol that was tested.
        plan: what that protocol means for the data.
        item_facts: from `count_item_facts`.
        ranks: tables from `rank_users` with lists, by scorer, in one order; the model's is `model`.
        split: which events were ranked.
        seconds: time that ranking took.
    """
    results = {
        name: summarise(
            table,
            config.evaluation.ks,
            protocol=config.protocol,
            num_items=plan.num_items,
            trained=plan.trained,
            lists=summarise_lists(table, item_facts),
        )
        for name, table in ranks.items()
    }
    record = EvaluationRecord(
        split=split,
        protocol=config.protocol,
        data_name=data.manifest.name,
        data_sha256=data_fingerprint(data.manifest),
        num_items=plan.num_items,
        seconds=seconds,
        results=results,
    )
    path = save(run_dir, record, ranks, item_facts, profile_columns(data.path, data.manifest))
    write_run_page(run_dir, path.name)
    return results
