"""A run and the baselines evaluated on the same users, as `result.json` keeps it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ss4rec.data.batches.windows import Split
from ss4rec.data.prepared.folder import PreparedFolder
from ss4rec.runs.folder import RunFolder


def evaluate_run(
    run_dir: Path,
    data: PreparedFolder | Path,
    *,
    split: Split = "test",
    workers: int = 1,
    use_gpu: bool = False,
) -> dict[str, Any]:
    """Return the `EvalResult` of the run's best checkpoint (`model`) and of each baseline, as plain JSON values.

    Raises:
        DataError, ResourceError: as `evaluate_folder`.
    """
    from ss4rec.evaluation.ray_evaluate import evaluate_baselines, evaluate_folder

    data = PreparedFolder.open(data)
    results = {"model": evaluate_folder(run_dir, data, split=split, workers=workers, gpu=use_gpu)}
    results |= evaluate_baselines(RunFolder.open(run_dir).config(), data, split=split, workers=workers)
    return {name: result.model_dump(mode="json") for name, result in results.items()}
