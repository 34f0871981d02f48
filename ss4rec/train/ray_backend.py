"""Rim: hosts the training loop in Ray Train's workers, one or many, CPU (gloo) or GPU (nccl), with the same code.

Ray restarts workers and brings them together; everything that must survive is in our own run folder. Each attempt
gets a throw-away Ray Train folder, so that no snapshot of Ray's can disagree with our checkpoints: the workers
continue from the newest intact checkpoint of the run.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
import ray.train
import torch
from ray.train import FailureConfig, LoggingConfig, ScalingConfig, UserCallback
from ray.train.torch import TorchConfig, TorchTrainer, get_device, prepare_model

from ss4rec import errors
from ss4rec.config import RunConfig, parse_config
from ss4rec.data.ray_source import RaySource
from ss4rec.data.source import LocalSource, SequenceSource
from ss4rec.ray_cluster import quiet_ray
from ss4rec.resources import Placement
from ss4rec.runs import RunFolder, write_json
from ss4rec.train.session import worker_loop
from ss4rec.train.workers import Workers

FAILURE_FILE = "failure.json"


def fit(
    config: RunConfig,
    data_dir: Path,
    run_dir: Path,
    placement: Placement,
    callbacks: Sequence[UserCallback] = (),
) -> dict[str, Any]:
    """Train on the connected Ray cluster and return the loop's outcome as plain data.

    Args:
        config: the resolved configuration.
        data_dir: the prepared folder.
        run_dir: a run folder that `RunFolder.start` has made.
        placement: from `ss4rec.resources.preflight`.
        callbacks: told of every report.

    Raises:
        SS4RecError: what a worker raised, unchanged; a user's error is not retried.
    """
    folder = RunFolder(run_dir)
    (run_dir / FAILURE_FILE).unlink(missing_ok=True)
    scratch = run_dir / ".ray"
    trainer = TorchTrainer(
        _work,
        train_loop_config={
            "config": config.model_dump(mode="json"),
            "data_dir": str(data_dir),
            "run_dir": str(run_dir),
            "data_cpus": placement.data_cpus,
        },
        torch_config=TorchConfig(timeout_s=int(config.resources.timeout_s)),
        scaling_config=ScalingConfig(
            num_workers=placement.workers,
            use_gpu=placement.use_gpu,
            resources_per_worker=placement.worker_resources,
        ),
        run_config=ray.train.RunConfig(
            name=f"attempt-{time.time_ns()}",
            storage_path=str(scratch),
            failure_config=FailureConfig(max_failures=config.resources.max_failures),
            logging_config=LoggingConfig(log_level="WARNING"),
            callbacks=list(callbacks),
        ),
    )
    try:
        outcome = trainer.fit().return_value
    except ray.train.TrainingFailedError as error:
        raise errors.SS4RecError(
            f"training failed more than resources.max_failures={config.resources.max_failures} times, last: {error}. "
            "The same command continues from the last checkpoint"
        ) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    _raise_failure(folder)
    return outcome


def _work(settings: dict[str, Any]) -> dict[str, Any] | None:
    """Train on one worker; a final error is written down and ends the run without a retry."""
    run_dir = Path(settings["run_dir"])
    if (run_dir / FAILURE_FILE).exists():  # another worker met an error that a restart would only repeat
        return None
    context = ray.train.get_context()
    workers = Workers(context.get_world_rank(), context.get_world_size(), get_device())
    with _final_errors(run_dir, alone=workers.world == 1):
        config, data_dir = parse_config(settings["config"]), Path(settings["data_dir"])
        return _train(config, data_dir, run_dir, workers, settings["data_cpus"])
    return None


@contextmanager
def _final_errors(run_dir: Path, alone: bool) -> Iterator[None]:
    """Write an error that a restart would repeat into the run folder.

    Raising it would make Ray restart the group. A worker without peers can simply return; with peers
    the group must be torn down (they may wait in a collective), and the restarted workers see the file.
    """
    try:
        yield
    except (errors.SS4RecError, *errors.BUGS) as error:
        write_json(run_dir / FAILURE_FILE, {"type": type(error).__name__, "message": str(error)})
        all_raise_together = alone or isinstance(error, errors.NonFiniteError)
        if not (all_raise_together and isinstance(error, errors.SS4RecError)):
            raise


def _raise_failure(folder: RunFolder) -> None:
    path = folder.path / FAILURE_FILE
    if not path.exists():
        return
    failure = json.loads(path.read_text())
    kind = getattr(errors, failure["type"], errors.SS4RecError)
    raise kind(failure["message"])


def _train(
    config: RunConfig, data_dir: Path, run_dir: Path, workers: Workers, data_cpus: float
) -> dict[str, Any]:
    """Run this worker's share of the training."""
    quiet_ray()
    if workers.device.type == "cpu":
        local_workers = ray.train.get_context().get_local_world_size()
        # Ray sets one thread per reserved CPU; data tasks are short, so a worker may use its share of all cores.
        threads = config.resources.threads_per_worker or (os.cpu_count() or 1) // local_workers
        torch.set_num_threads(max(1, threads))
    loop = worker_loop(
        config,
        data_dir,
        run_dir,
        workers=workers,
        source=_source(config, data_dir, workers, data_cpus),
        parallel=prepare_model,
        report=ray.train.report,
    )
    return loop.run().as_dict()


def _source(config: RunConfig, data_dir: Path, workers: Workers, data_cpus: float) -> SequenceSource:
    place = {"rank": workers.rank, "world": workers.world}
    sizes = {"batch_size": config.train.batch_size, "seed": config.train.seed}
    if config.data.source == "local":
        return LocalSource(data_dir, config.data, **sizes, **place)
    return RaySource(data_dir, config.data, **sizes, **place, cpu_limit=data_cpus)
