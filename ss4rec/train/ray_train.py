"""Hosts the training loop in Ray Train's workers, one or many, CPU (gloo) or GPU (nccl), with the same code.

Ray restarts workers and brings them together; everything that must survive is in our own run folder. Each attempt
gets a throw-away Ray Train folder, so that no snapshot of Ray's can disagree with our checkpoints: the workers
continue from the newest intact checkpoint of the run.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ray
import ray.train
import torch
from ray.train import FailureConfig, LoggingConfig, ScalingConfig, UserCallback
from ray.train.torch import TorchConfig, TorchTrainer, get_device

from ss4rec import errors
from ss4rec.cluster import ray_private
from ss4rec.cluster.connect import quiet_ray
from ss4rec.cluster.placement import Placement
from ss4rec.cluster.pool import dataset_name
from ss4rec.config import RunConfig, parse_config
from ss4rec.data.batches.ray_source import RaySource
from ss4rec.data.batches.replay import replay_of
from ss4rec.data.batches.source import LocalSource, SequenceSource
from ss4rec.data.prepared.folder import PreparedFolder
from ss4rec.interrupt import finish_first
from ss4rec.protocol.plan import plan_of_run
from ss4rec.runs.folder import RunFolder
from ss4rec.runs.lease import hold
from ss4rec.train.group import Workers
from ss4rec.train.hooks import Hooks
from ss4rec.train.notice import NoticeFile, forget, stop_in_order
from ss4rec.train.ray_gauges import gauges
from ss4rec.train.ray_recovery import (
    FailureLine,
    final_errors,
    raise_failure,
    retry_controller,
    say_recovered,
)
from ss4rec.train.status import say
from ss4rec.train.warm import begin_warm
from ss4rec.train.worker import build_loop


def fit(
    config: RunConfig,
    data: PreparedFolder,
    run_dir: Path,
    placement: Placement,
    callbacks: Sequence[UserCallback] = (),
) -> dict[str, Any]:
    """Train on the connected Ray cluster and return the loop's outcome as plain data.

    Args:
        config: the resolved configuration.
        data: the prepared folder.
        run_dir: a run folder that `RunFolder.start` has made.
        placement: from `ss4rec.cluster.placement.preflight`.
        callbacks: told of every report.

    Raises:
        SS4RecError: what a worker raised, unchanged; a user's error is not retried.
        LeaseError: if another attempt trains in `run_dir`.
    """
    with hold(run_dir, say=say) as attempt:
        forget(run_dir)
        begin_warm(RunFolder(run_dir), config, data)
        with finish_first(lambda: stop_in_order([run_dir])):
            return _fit(config, data, run_dir, placement, attempt, callbacks)


def _fit(
    config: RunConfig,
    data: PreparedFolder,
    run_dir: Path,
    placement: Placement,
    attempt: str,
    callbacks: Sequence[UserCallback],
) -> dict[str, Any]:
    """Fit as the one attempt that holds the run folder."""
    _sweep(run_dir)  # of attempts whose driver was killed
    scratch, failure = run_dir / ".ray", run_dir / f"failure-{attempt}.json"
    most = config.resources.max_failures

    def controller() -> Any:
        shutil.rmtree(scratch, ignore_errors=True)
        trainer = TorchTrainer(
            _work,
            train_loop_config={
                "config": config.model_dump(mode="json"),
                "data": data,
                "run_dir": str(run_dir),
                "data_cpus": placement.data_cpus,
                "data_with_workers": placement.data_with_workers,
                "attempt": attempt,
                "elastic": placement.max_workers,
            },
            torch_config=TorchConfig(timeout_s=int(config.resources.timeout_s)),
            scaling_config=_scaling(config, placement),
            run_config=ray.train.RunConfig(
                name=f"{dataset_name(run_dir.name)}-{attempt}",
                storage_path=str(scratch),
                failure_config=FailureConfig(max_failures=most),
                logging_config=LoggingConfig(log_level="WARNING"),
                callbacks=[FailureLine(most, failure), *callbacks],
            ),
        )
        ray_private.leave_signals_alone(trainer)
        return trainer.fit().return_value

    try:
        outcome: dict[str, Any] = retry_controller(controller, most, failure)
    except ray.train.ControllerError as error:
        raise errors.SS4RecError(
            f"Ray could not run the training: {error}. The same command continues from the last checkpoint"
        ) from error
    except ray.train.TrainingFailedError as error:
        raise errors.SS4RecError(
            f"training failed more than resources.max_failures={config.resources.max_failures} times, last: {error}. "
            "The same command continues from the last checkpoint"
        ) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    try:
        raise_failure(failure)
    finally:
        _sweep(run_dir)
    return outcome


def _scaling(config: RunConfig, placement: Placement) -> ScalingConfig:
    """Return the workers as Ray Train takes them; a range lets it change their number while it trains."""
    most = placement.max_workers
    return ScalingConfig(
        num_workers=(placement.workers, most) if most else placement.workers,
        use_gpu=placement.use_gpu,
        resources_per_worker=placement.worker_resources,
        elastic_resize_monitor_interval_s=config.resources.resize_every_s,
    )


def _sweep(run_dir: Path) -> None:
    """Remove files of failures, drafts of them that a killed worker left, and marks of their time."""
    for pattern in ("failure-*.json", ".failure-*", ".failed-*"):
        for left in run_dir.glob(pattern):
            left.unlink(missing_ok=True)


def _work(settings: dict[str, Any]) -> dict[str, Any] | None:
    """Train on one worker; a final error is written down and ends the run without a retry."""
    run_dir, attempt = Path(settings["run_dir"]), settings["attempt"]
    failure = run_dir / f"failure-{attempt}.json"
    if failure.exists():  # another worker met an error that a restart would only repeat
        return None
    context = ray.train.get_context()
    workers = Workers(context.get_world_rank(), context.get_world_size(), get_device())
    if settings["elastic"] and workers.is_main:
        say(f"elastic: training with {workers.world} of {settings['elastic']} worker(s)")
    with final_errors(failure, alone=workers.world == 1):
        config, data = parse_config(settings["config"]), PreparedFolder.open(settings["data"])
        source = _source(config, data, workers, settings["data_cpus"], settings["data_with_workers"])
        return _train(config, run_dir, workers, source, attempt)
    return None


def _train(
    config: RunConfig, run_dir: Path, workers: Workers, source: SequenceSource, attempt: str
) -> dict[str, Any]:
    """Run this worker's share of the training."""
    quiet_ray()
    if workers.device.type == "cpu":
        local_workers = ray.train.get_context().get_local_world_size()
        # Ray sets one thread per reserved CPU; data tasks are short, so a worker may use its share of all cores.
        threads = config.resources.threads_per_worker or (os.cpu_count() or 1) // local_workers
        torch.set_num_threads(max(1, threads))
    from_scheduler = NoticeFile(run_dir)
    hooks = Hooks(
        report=ray.train.report,
        watch=gauges(run_dir.name, workers.rank),
        first_step=lambda: say_recovered(run_dir / f"failure-{attempt}.json"),
        notice=lambda: _preemption() or from_scheduler(),
    )
    loop = build_loop(config, run_dir, workers=workers, source=source, attempt=attempt, hooks=hooks)
    return loop.run().as_dict()


def _preemption() -> str:
    """Return whether Ray drains a node of this run, in words.

    Read from the worker's own memory, where Ray's watcher puts it: `ray.train.get_preemption_info` waits for all
    workers.
    """
    info = ray_private.preemption()
    if info is None:
        return ""
    left = f" in {info.deadline_ms / 1000 - time.time():.0f} s" if info.deadline_ms else ""
    return f"Ray takes back the node of worker(s) {info.preempted_ranks}{left}"


def _source(
    config: RunConfig, data: PreparedFolder, workers: Workers, data_cpus: float, with_worker: bool
) -> SequenceSource:
    """Return this worker's batches; `with_worker`: it has reserved its share of `data_cpus` on its own node."""
    place: dict[str, Any] = {"rank": workers.rank, "world": workers.world}
    place["plan"] = plan = plan_of_run(config, data)
    place["replay"] = replay_of(config, data, plan)
    sizes = {"batch_size": config.train.batch_size, "seed": config.train.seed}
    if config.data.source == "local":
        return LocalSource(data, config.data, **sizes, **place)
    return RaySource(
        data,
        config.data,
        **sizes,
        **place,
        cpu_limit=data_cpus,
        reserve=not (with_worker or config.resources.elastic),
        node_id=ray.get_runtime_context().get_node_id() if with_worker else None,
    )
