"""One training run from configuration to result, on whatever Ray cluster is there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ss4rec.config import RunConfig
from ss4rec.data.prepared.folder import PreparedFolder
from ss4rec.data.salvage import DROPPED, intact_folder
from ss4rec.io.atomic import write_json
from ss4rec.runs.folder import RESULT_FILE, RunFolder
from ss4rec.train.status import log_as, say


def train(
    config: RunConfig,
    data: PreparedFolder | Path,
    run_dir: Path,
    *,
    address: str | None = None,
    skip_bad_shards: bool = False,
) -> dict[str, Any]:
    """Train, evaluate the best epoch on the test items, and return the content of `result.json`.

    Args:
        config: the resolved configuration.
        data: a prepared folder that all nodes can read, or its absolute path.
        run_dir: absolute path of the run folder; an unfinished run in it is continued.
        address: Ray cluster, see `ss4rec.cluster.connect.cluster`.
        skip_bad_shards: train on the shards that are whole, as a prepared folder in `run_dir`, instead of refusing.

    Raises:
        SS4RecError: any expected failure, as one sentence.
    """
    data = usable_data(PreparedFolder.open(data), run_dir, skip_bad_shards)
    folder = RunFolder(run_dir)
    # Ray is imported late: what is wrong with the data is said before it.
    from ss4rec.cluster.connect import cluster
    from ss4rec.cluster.placement import preflight
    from ss4rec.cluster.storage_check import storage_preflight

    with cluster(address):
        from ss4rec.data.batches.source import check_max_workers
        from ss4rec.evaluation.report import evaluate_run
        from ss4rec.train.ray_train import fit

        placement = preflight(config.resources, ray_data=config.data.source == "ray")
        check_max_workers(data, config)
        storage_preflight(str(run_dir.parent))
        folder.start(config, data)
        log_as(run=run_dir.name, worker="driver")
        for line in (placement, *placement.notes):
            say(str(line))
        result: dict[str, Any] = {"run": str(run_dir), "training": fit(config, data, run_dir, placement)}
        if config.evaluation.at_end:
            result["test"] = evaluate_run(run_dir, data, split="test", use_gpu=placement.use_gpu)
    if lost := data.manifest.rows_dropped.get(DROPPED):
        result["left_out"] = {"events_of_damaged_shards": lost, "data": str(data)}
    write_json(run_dir / RESULT_FILE, result)
    return result


def usable_data(data: PreparedFolder, run_dir: Path, skip_bad_shards: bool) -> PreparedFolder:
    """Return the prepared folder to train on, every byte of which was checked.

    Raises:
        DataError: naming the first file that is damaged, unless it is a shard that may be left out.
    """
    if skip_bad_shards:
        data, left_out = intact_folder(data, run_dir / "data")
        if left_out:
            say(f"warning: --skip-bad-shards: {left_out}")
    else:
        data.verify()
    return data
