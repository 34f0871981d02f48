"""A run and the baselines evaluated on the same users, as `result.json` keeps it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ss4rec.data.batches.windows import Split
from ss4rec.data.prepared.folder import PreparedFolder
from ss4rec.protocol.settings import Protocol
from ss4rec.runs.folder import RunFolder
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

    `protocol` is how to test, if not as the run's own protocol says.

    Raises:
        DataError, UsageError, ResourceError: as `evaluate_folder`.
    """
    from ss4rec.evaluation.ray_evaluate import evaluate_baselines, evaluate_folder

    model = evaluate_folder(run_dir, data, split=split, workers=workers, gpu=use_gpu, protocol=protocol)
    folder, data = RunFolder.open(run_dir), PreparedFolder.open(data)
    config = under_protocol(folder.config(), protocol)
    plan = run_plan(folder, config, data)
    results = {"model": model} | evaluate_baselines(config, data, split=split, workers=workers, plan=plan)
    return {name: result.model_dump(mode="json") for name, result in results.items()}
