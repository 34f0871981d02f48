"""One training run from configuration to result, on whatever Ray cluster is there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ss4rec.auto.resolve import Auto
from ss4rec.config import RunConfig, override
from ss4rec.data.batches.source import check_max_workers, check_trainable
from ss4rec.data.prepared.folder import PreparedFolder
from ss4rec.data.prepared.user_profiles import chosen_columns
from ss4rec.data.salvage import DROPPED, intact_folder
from ss4rec.evaluation.evaluator import EvalResult
from ss4rec.io.atomic import write_json
from ss4rec.runs.folder import CHOOSE_FOLDER, CONFIG_FILE, RESULT_FILE, RunFolder
from ss4rec.train.status import log_as, say, shown
from ss4rec.train.tracking import tracked

if TYPE_CHECKING:
    from ss4rec.cluster.placement import Placement


def train(
    config: RunConfig | Auto,
    data: PreparedFolder | Path,
    run_dir: Path,
    *,
    address: str | None = None,
    skip_bad_shards: bool = False,
) -> dict[str, Any]:
    """Train, evaluate the best epoch on the test items, and return the content of `result.json`.

    With `protocol.refit` two models are trained: one in `run_dir/choose` that finds the best number of epochs, then the
    run's own, as many epochs on all events up to the cut.

    Args:
        config: the resolved configuration, or `auto`, which is resolved when data and cluster are known.
        data: a prepared folder that all nodes can read, or its absolute path.
        run_dir: absolute path of the run folder; an unfinished run in it is continued.
        address: Ray cluster, see `ss4rec.cluster.connect.cluster`.
        skip_bad_shards: train on the shards that are whole, as a prepared folder in `run_dir`, instead of refusing.

    Raises:
        SS4RecError: any expected failure, as one sentence.
    """
    data = usable_data(PreparedFolder.open(data), run_dir, skip_bad_shards)
    # Ray is imported late: what is wrong with the data is said before it.
    from ss4rec.cluster.connect import cluster
    from ss4rec.cluster.placement import preflight

    check_before_ray(config, data)
    with cluster(address):
        from ss4rec.cluster.placement import has_gpu
        from ss4rec.evaluation.report import evaluate_run

        config = resolved(config, data, run_dir, has_gpu)
        placement = preflight(config.resources, ray_data=config.data.source == "ray")
        if config.protocol.refit:
            say("refit: first a training that finds the best number of epochs, in RUN/choose")
            chosen, _ = _fit_one(choosing(config), data, run_dir / CHOOSE_FOLDER, placement)
            config = refitting(config, int(chosen["best_epoch"]))
            say(f"refit: now {config.train.epochs} epochs on all events up to the cut")

        def test() -> dict[str, Any]:
            return evaluate_run(run_dir, data, split="test", use_gpu=placement.use_gpu)

        at_end = test if config.evaluation.at_end else None
        training, tested = _fit_one(config, data, run_dir, placement, at_end)
        result: dict[str, Any] = {"run": str(run_dir), "training": training}
        result["protocol"] = config.protocol.model_dump(mode="json")
        if tested is not None:
            result["test"] = tested
    if lost := data.manifest.rows_dropped.get(DROPPED):
        result["left_out"] = {"events_of_damaged_shards": lost, "data": str(data)}
    write_json(run_dir / RESULT_FILE, result)
    from ss4rec.evaluation.run_page import write_run_page

    say(f"page of the run: {shown(write_run_page(run_dir))}")
    return result


def train_seeds(
    config: RunConfig,
    data: PreparedFolder | Path,
    run_dir: Path,
    seeds: int,
    *,
    address: str | None = None,
    skip_bad_shards: bool = False,
) -> dict[str, Any]:
    """Train one recipe with several seeds; return their results by run folder, and mean and spread of the metrics.

    The runs are `run_dir-seedN`, with `train.seed` counted up from the configuration's own; `ss4rec compare` takes
    them as one recipe. Arguments and errors as for `train`.
    """
    results: dict[str, Any] = {}
    for seed in range(config.train.seed, config.train.seed + seeds):
        own = config.model_copy(update={"train": config.train.model_copy(update={"seed": seed})})
        folder = run_dir.with_name(f"{run_dir.name}-seed{seed}")
        results[str(folder)] = train(own, data, folder, address=address, skip_bad_shards=skip_bad_shards)
    return {"runs": results, "summary": _over_seeds(config, list(results.values()))}


def _over_seeds(config: RunConfig, results: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Return mean and standard deviation over seeds of each metric of the model, in the protocol's own setting."""
    tested = [EvalResult.model_validate(result["test"]["model"]) for result in results if "test" in result]
    if not tested:
        return {}
    protocol = config.protocol
    values = [found.setting(protocol.seen, protocol.target_time).metrics for found in tested]
    return {
        name: {
            "mean": float(np.mean(column)),
            "sd": float(np.std(column, ddof=1)) if len(column) > 1 else 0.0,
        }
        for name in values[0]
        for column in [[found[name] for found in values]]
    }


def check_before_ray(config: RunConfig | Auto, data: PreparedFolder) -> None:
    """Refuse what no cluster can train: short users, more workers than windows, columns that are not there.

    Raises:
        ConfigError: with the numbers, or the columns.
    """
    if isinstance(config, RunConfig):
        chosen_columns(config.model.user_features, data.manifest)
        check_max_workers(data, choosing(config) if config.protocol.refit else config)
    else:
        check_trainable(data, config.protocol)


def resolved(
    config: RunConfig | Auto, data: PreparedFolder, run_dir: Path, has_gpu: Callable[[Any], bool]
) -> RunConfig:
    """Return the configuration of a run: that of its folder where `auto` continues one, else what `auto` chooses.

    `has_gpu` says whether a value of `resources.gpu` means a GPU here.
    """
    if isinstance(config, RunConfig):
        return config
    if (run_dir / CONFIG_FILE).exists():
        found = RunFolder(run_dir).config()
        if found.preset == "auto":
            return override(found, config.changes)
    return config(data, has_gpu(config.changes.get("resources.gpu", "auto")), say)


def _fit_one(
    config: RunConfig,
    data: PreparedFolder,
    run_dir: Path,
    placement: Placement,
    test: Callable[[], dict[str, Any]] | None = None,
) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Train one run on the connected cluster; return the loop's outcome and what `test` returns after it."""
    from ss4rec.cluster.storage_check import storage_preflight
    from ss4rec.train.ray_train import fit

    check_max_workers(data, config)
    storage_preflight(str(run_dir.parent))
    RunFolder(run_dir).start(config, data)
    log_as(run=run_dir.name, worker="driver")
    for line in (placement, *placement.notes):
        say(str(line))
    with tracked(RunFolder(run_dir), config) as tell_test:
        outcome = fit(config, data, run_dir, placement)
        tested = test() if test is not None else None
        tell_test(tested or {})
    return outcome, tested


def choosing(config: RunConfig) -> RunConfig:
    """Return the first half of a protocol with `refit`: validation events do not train."""
    return config.model_copy(update={"protocol": config.protocol.model_copy(update={"refit": False})})


def refitting(config: RunConfig, epochs: int) -> RunConfig:
    """Return the second half: all events up to the cut train for a fixed number of epochs.

    The schedule of the learning rate ends with the last of them. The one validation at the end ranks events that have
    trained; it chooses nothing. A warm start whose first weights were the best (0 epochs) trains for one.
    """
    epochs = max(epochs, 1)
    train = config.train.model_copy(
        update={
            "epochs": epochs,
            "validate_every": epochs,
            "patience": 0,
            "max_minutes": 0.0,
            "warm_share": 1.0,
        }
    )
    return config.model_copy(update={"train": train})


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
