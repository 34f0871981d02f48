"""One worker: builds its loop from the configuration, for any host: Ray Train, a Tune trial, or this process alone."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ss4rec.config import RunConfig
from ss4rec.data.batches.source import LocalSource, SequenceSource
from ss4rec.data.prepared.folder import PreparedFolder
from ss4rec.errors import ConfigError
from ss4rec.evaluation.popularity import TrainingEvents
from ss4rec.evaluation.training import training_parts
from ss4rec.io.atomic import write_json
from ss4rec.protocol.plan import Plan, plan_of_run
from ss4rec.runs.folder import RECORD_FILE, RunFolder
from ss4rec.runs.lease import Writer, hold
from ss4rec.runs.record import RunRecord, manifest_fingerprint
from ss4rec.train.fresh import fresh_model
from ss4rec.train.group import Workers
from ss4rec.train.hooks import Hooks
from ss4rec.train.item_rows import choose_rows
from ss4rec.train.loop import TrainLoop
from ss4rec.train.objective import Objective
from ss4rec.train.outcome import Outcome
from ss4rec.train.status import log_as, say
from ss4rec.train.step import choose_graphs
from ss4rec.train.tracking import Finish, tracked
from ss4rec.train.validation import Validation
from ss4rec.train.warm import begin_warm


def build_loop(
    config: RunConfig,
    run_dir: Path,
    *,
    workers: Workers,
    source: SequenceSource,
    attempt: str | None = None,
    hooks: Hooks | None = None,
) -> TrainLoop:
    """Build model and loop for this worker; `run()` or `epochs()` of the result trains.

    Args:
        config: the resolved configuration.
        run_dir: a run folder that `RunFolder.start` has made.
        workers: this process's place in the group.
        source: this worker's batches.
        attempt: what `ss4rec.runs.lease.hold` yielded; None: the caller sees to it that nobody else writes `run_dir`.
        hooks: see `TrainLoop`; with an `attempt` the lease decides whether this worker may write.

    Raises:
        LeaseError: if another attempt holds the run folder.
    """
    log_as(run=run_dir.name, worker=workers.rank)
    hooks = hooks or Hooks()
    if attempt and workers.is_main:
        hooks = replace(hooks, may_write=Writer(run_dir, attempt).check)
    set_up_torch(config, workers.device)
    manifest, folder = source.folder.manifest, RunFolder(run_dir)
    objective = _objective(config, source).to(workers.device)
    model = objective.model
    graphs = choose_graphs(config, objective, workers.device)
    if config.train.compile:
        objective.compile()
    if workers.is_main:
        steps = {"loss": objective.backend, "steps": "CUDA graphs" if graphs else "eager"}
        if choose_rows(config, model):
            steps["items"] = "touched rows"
        record = RunRecord.collect(
            name=run_dir.name,
            config=config,
            manifest=manifest,
            model=model,
            device=torch.cuda.get_device_name(workers.device) if workers.device.type == "cuda" else "CPU",
            workers=workers.world,
            backends=model.backends | steps,
            plan=source.plan,
            ancestry=folder.ancestry(),
        )
        _say_versions(folder, record)
        write_json(run_dir / RECORD_FILE, record.model_dump())
        say(_headline(record))
    return TrainLoop(
        config,
        objective,
        source,
        workers,
        folder,
        Validation(model, source, workers, config.evaluation),
        hooks=hooks,
        identity={"fingerprint": config.fingerprint(), "data_sha256": manifest_fingerprint(manifest)},
        graphs=graphs,
    )


def _objective(config: RunConfig, source: SequenceSource) -> Objective:
    """Return model and loss with fresh weights, the same on all workers, on the host.

    Raises:
        ConfigError: if the model reads what the data do not have.
    """
    data, plan = source.folder, source.plan
    model = fresh_model(config, data, plan)
    if "profile" not in config.model.inputs and not model.columns.users:
        source.leave_out_profiles()
    elif data.manifest.profile_values is None:
        raise ConfigError(
            f"model.inputs has profile and {data.manifest.name} says nothing about users (no profiles.parquet); "
            "leave it out or prepare data that do"
        )
    return Objective(model, config.loss, _popularity(config, data, plan))


@contextmanager
def loop_alone(
    config: RunConfig,
    data_dir: PreparedFolder | Path,
    run_dir: Path,
    device: torch.device,
    hooks: Hooks | None = None,
) -> Iterator[TrainLoop]:
    """Hold a run that trains in this process without Ray, as a Tune trial of one worker does, and build its loop.

    Raises:
        LeaseError: if another process trains in `run_dir`.
    """
    with _held_alone(config, data_dir, run_dir, device, hooks) as (loop, _):
        yield loop


@contextmanager
def _held_alone(
    config: RunConfig,
    data_dir: PreparedFolder | Path,
    run_dir: Path,
    device: torch.device,
    hooks: Hooks | None,
) -> Iterator[tuple[TrainLoop, Finish]]:
    """Yield the loop, and the function that takes test results for the trackers."""
    data = PreparedFolder.open(data_dir)
    plan = plan_of_run(config, data)
    RunFolder(run_dir).start(config, data, plan)
    source = LocalSource.of(config, data, plan)
    with hold(run_dir, say=say) as attempt, tracked(RunFolder(run_dir), config) as tell_test:
        begin_warm(RunFolder(run_dir), config, data)
        workers = Workers(0, 1, device)
        yield (
            build_loop(config, run_dir, workers=workers, source=source, attempt=attempt, hooks=hooks),
            tell_test,
        )


def train_alone(
    config: RunConfig,
    data_dir: PreparedFolder | Path,
    run_dir: Path,
    device: torch.device,
    hooks: Hooks | None = None,
    test: Callable[[], dict[str, Any]] = dict,
) -> Outcome:
    """Train in this process without Ray, from the last checkpoint (or the start) to the end.

    `test` is called after that, and trackers are told what it returns.

    Raises:
        LeaseError: if another process trains in `run_dir`.
    """
    with _held_alone(config, data_dir, run_dir, device, hooks) as (loop, tell_test):
        outcome = loop.run()
        tell_test(test())
    return outcome


def _popularity(config: RunConfig, data: PreparedFolder, plan: Plan) -> torch.Tensor | None:
    """Count the training events of each item where the loss draws negatives by popularity, `[V]`."""
    if config.loss.kind != "sampled_softmax" or config.loss.negative_sampling == "uniform":
        return None
    parts = list(training_parts(data.shard_paths, data.manifest.items, plan))
    return torch.from_numpy(TrainingEvents.of(parts, plan.num_items).counts())


def set_up_torch(config: RunConfig, device: torch.device) -> None:
    """Choose precision and determinism for this process."""
    if device.type == "cuda":
        if device.index is not None:
            torch.cuda.set_device(device)
        torch.backends.cuda.matmul.allow_tf32 = config.train.precision == "bf16"
    if config.train.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)


def _say_versions(folder: RunFolder, record: RunRecord) -> None:
    """Say which packages changed since the run was begun: results may then differ in the last digits or more."""
    if not (folder.path / RECORD_FILE).exists():
        return
    before = folder.record().versions
    changed = [
        f"{name} {before.get(name)} -> {record.versions.get(name)}"
        for name in sorted(before.keys() | record.versions.keys())
        if before.get(name) != record.versions.get(name)
    ]
    if changed:
        say(f"warning: this run was begun with other versions: {', '.join(changed)}")


def _headline(record: RunRecord) -> str:
    backends = ", ".join(f"{part}: {name}" for part, name in record.backends.items())
    return (
        f"{record.name}: {record.num_parameters:,} parameters on {record.workers} x {record.device} ({backends}); "
        f"{record.data_name}: {record.num_users:,} users, {record.num_items:,} items, "
        f"{record.num_interactions:,} interactions; configuration {record.fingerprint}"
    )
