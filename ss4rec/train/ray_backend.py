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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
import ray.train
import torch
from ray.train import FailureConfig, LoggingConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer, get_device, prepare_model

from ss4rec import errors
from ss4rec.config import RunConfig, parse_config
from ss4rec.data.manifest import Manifest
from ss4rec.data.ray_source import RaySource
from ss4rec.data.source import LocalSource, SequenceSource
from ss4rec.model.ss4rec import SS4Rec
from ss4rec.ray_cluster import quiet_ray
from ss4rec.resources import Placement
from ss4rec.runs import RECORD_FILE, RunFolder, RunRecord, data_fingerprint, write_json
from ss4rec.train.loop import TrainLoop, seed_step
from ss4rec.train.objective import Objective
from ss4rec.train.status import say
from ss4rec.train.validation import Validation
from ss4rec.train.workers import Workers

FAILURE_FILE = "failure.json"
_BUGS = (TypeError, ValueError, LookupError, AttributeError, AssertionError, NotImplementedError, ImportError)
"""Errors that a restart repeats; everything else (lost peers, devices, files) may be infrastructure."""


def fit(config: RunConfig, data_dir: Path, run_dir: Path, placement: Placement) -> dict[str, Any]:
    """Train on the connected Ray cluster and return the loop's outcome as plain data.

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
        ),
    )
    try:
        outcome = trainer.fit().return_value
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
        return _train(
            parse_config(settings["config"]), Path(settings["data_dir"]), run_dir, workers, settings
        )
    return None


@contextmanager
def _final_errors(run_dir: Path, alone: bool) -> Iterator[None]:
    """Write an error that a restart would repeat into the run folder.

    Raising it would make Ray restart the group. A worker without peers can simply return; with peers
    the group must be torn down (they may wait in a collective), and the restarted workers see the file.
    """
    try:
        yield
    except (errors.SS4RecError, *_BUGS) as error:
        write_json(run_dir / FAILURE_FILE, {"type": type(error).__name__, "message": str(error)})
        if not isinstance(error, errors.SS4RecError) or not (
            alone or isinstance(error, errors.NonFiniteError)
        ):
            raise


def _raise_failure(folder: RunFolder) -> None:
    path = folder.path / FAILURE_FILE
    if not path.exists():
        return
    failure = json.loads(path.read_text())
    kind = getattr(errors, failure["type"], errors.SS4RecError)
    raise kind(failure["message"])


def _train(
    config: RunConfig, data_dir: Path, run_dir: Path, workers: Workers, settings: dict[str, Any]
) -> dict[str, Any]:
    """Build source, model and loop for this worker and run it."""
    quiet_ray()
    _set_up_torch(config, workers)
    manifest, folder = Manifest.load(data_dir), RunFolder(run_dir)
    seed_step(config.train.seed, 0, 0)  # the same first weights on all workers
    model = SS4Rec(config.model, manifest.items).to(workers.device)
    objective = prepare_model(Objective(model, config.loss))
    if config.train.compile:
        objective = torch.compile(objective)
    source = _source(config, data_dir, workers, settings["data_cpus"])
    if workers.leads:
        record = RunRecord.collect(
            name=run_dir.name,
            config=config,
            manifest=manifest,
            model=model,
            device=_device_name(workers.device),
            workers=workers.world,
        )
        write_json(run_dir / RECORD_FILE, record.model_dump())
        say(_headline(record))
    loop = TrainLoop(
        config=config,
        model=model,
        objective=objective,
        source=source,
        workers=workers,
        folder=folder,
        validate=Validation(model, source, workers, config.evaluation),
        report=_reporter(),
        identity={"fingerprint": config.fingerprint(), "data_sha256": data_fingerprint(manifest)},
    )
    return loop.run().as_dict()


def _source(config: RunConfig, data_dir: Path, workers: Workers, data_cpus: float) -> SequenceSource:
    place = {"rank": workers.rank, "world": workers.world}
    sizes = {"batch_size": config.train.batch_size, "seed": config.train.seed}
    if config.data.source == "local":
        return LocalSource(data_dir, config.data, **sizes, **place)
    return RaySource(data_dir, config.data, **sizes, **place, cpu_limit=data_cpus)


def _reporter() -> Callable[[dict[str, Any]], None]:
    def report(metrics: dict[str, Any]) -> None:
        ray.train.report(metrics)

    return report


def _set_up_torch(config: RunConfig, workers: Workers) -> None:
    """Choose threads, precision and determinism for this process."""
    if workers.device.type == "cpu":
        local_workers = ray.train.get_context().get_local_world_size()
        # Ray sets one thread per reserved CPU; data tasks are short, so a worker may use its share of all cores.
        torch.set_num_threads(
            config.resources.threads_per_worker or max(1, (os.cpu_count() or 1) // local_workers)
        )
    if config.train.precision == "bf16":
        torch.backends.cuda.matmul.allow_tf32 = True
    if config.train.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"


def _headline(record: RunRecord) -> str:
    backends = ", ".join(f"{part}: {name}" for part, name in record.backends.items())
    return (
        f"{record.name}: {record.num_parameters:,} parameters on {record.workers} x {record.device} ({backends}); "
        f"{record.data_name}: {record.num_users:,} users, {record.num_items:,} items, "
        f"{record.num_interactions:,} interactions; configuration {record.fingerprint}"
    )
