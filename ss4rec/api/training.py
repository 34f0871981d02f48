"""Training, evaluation and recommendations."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import FrameType
from typing import Any, Literal, TypeVar

import torch

from ss4rec.api.data import AnyFolder, local_folder
from ss4rec.api.results import Evaluation, Run
from ss4rec.api.tables import histories, like
from ss4rec.auto.choose import usable_minutes
from ss4rec.auto.resolve import Auto
from ss4rec.config import RunConfig, override
from ss4rec.data.batches.windows import Split
from ss4rec.data.moments import Moment
from ss4rec.data.prepared.folder import PreparedFolder
from ss4rec.errors import ConfigError, UsageError
from ss4rec.evaluation.alone import evaluate_with_baselines
from ss4rec.io.atomic import write_json
from ss4rec.presets import AUTO, preset
from ss4rec.protocol.named import protocol_of
from ss4rec.protocol.settings import Protocol
from ss4rec.recommender import Recommender
from ss4rec.runs.folder import CHOOSE_FOLDER, RESULT_FILE
from ss4rec.train.hooks import Hooks
from ss4rec.train.run import check_before_ray, choosing, refitting, resolved
from ss4rec.train.warm import Parent, warm_config
from ss4rec.train.worker import train_alone

Device = Literal["auto", "cpu", "cuda"]
_TableT = TypeVar("_TableT")
_training = threading.Lock()


def train(
    data: AnyFolder,
    config: RunConfig | str = AUTO,
    *,
    changes: Mapping[str, Any] | None = None,
    protocol: Protocol | str | None = None,
    start_from: Run | str | os.PathLike[str] | None = None,
    minutes: float | None = None,
    name: str | None = None,
    storage: str | os.PathLike[str] = "runs",
    device: Device = "auto",
    workers: int | tuple[int, int] | None = None,
    address: str | None = None,
) -> Run:
    """Train a model, test its best epoch, and return the run; `ss4rec train`.

    Without `workers` and `address` the model is trained in this process, on one device and without Ray. That starts in
    about a second, a debugger can follow it, and it gives the same weights as one worker on Ray. With either of them
    Ray Train does it, as the command does: several workers, several machines, recovery from failures.

    Progress is printed. The same `name` continues a run that was interrupted. Ctrl-C, or interrupting a notebook's
    kernel, writes a checkpoint of the current step before KeyboardInterrupt is raised.

    Args:
        data: the prepared folder.
        config: a configuration, or the name of a preset (`ss4rec.presets`). `auto` looks at the data and the machine,
            chooses, and says what it chose.
        changes: fields to change in it, as in `{"model.dim": 128, "train.epochs": 20}`.
        protocol: which events train, choose the model and test it, or its name (`ss4rec protocol`); by default that of
            the configuration, leave-one-out.
        start_from: warm start: the run, or `registry/NAME`, whose weights this training begins with. Its configuration
            stands in for `auto`, and it takes `train.warm_share` of its epochs or minutes.
        minutes: time for the run; the schedule of the learning rate ends with it.
        name: name of the run; by default preset and data.
        storage: parent of the run folder.
        device: where it is trained without Ray; `auto` takes the GPU if there is one.
        workers: training workers on Ray, or (minimum, maximum) for an elastic run.
        address: Ray cluster, as `--address` of the command; `local` starts one here.

    Raises:
        UsageError: for what can be put right: the configuration, the data, a second training in this process.
        SS4RecError: any other expected failure.
    """
    parent = None if start_from is None else Parent.open(_run_path(start_from))
    chosen = _configured(
        parent.config if parent and config == AUTO else config, changes, workers, protocol, minutes
    )
    folder = local_folder(data)
    if parent is not None and isinstance(chosen, RunConfig):
        given = [*(changes or {}), *(() if minutes is None else ("train.max_minutes",))]
        chosen = warm_config(chosen, parent, PreparedFolder.open(folder), given)
    preset_name = chosen.preset if isinstance(chosen, RunConfig) else AUTO
    warm = "" if parent is None else "-warm"
    run_dir = Path(storage).resolve() / (name or f"{preset_name}-{folder.name}{warm}")
    with _only_training():
        if workers is not None or address is not None:
            from ss4rec.train.run import train as train_on_ray

            train_on_ray(chosen, folder, run_dir, address=address)
        else:
            _train_here(chosen, folder, run_dir, chosen_device(device))
    return Run(run_dir)


def evaluate(
    run: Run | str | os.PathLike[str],
    data: AnyFolder,
    *,
    split: Split = "test",
    protocol: Protocol | str | None = None,
    device: Device = "auto",
    workers: int | None = None,
    address: str | None = None,
) -> Evaluation:
    """Rank all items for every user with a run's best checkpoint, beside baselines; `ss4rec evaluate`.

    Args:
        run: the run, or its folder.
        data: the prepared folder that it was trained on.
        split: which held-out events: `test`, or those that chose the model, `valid`.
        protocol: how to test, if not as the run's own protocol says, or its name.
        device: where the model runs without Ray.
        workers: models that rank at a time, on Ray; None ranks in this process.
        address: Ray cluster, as for `train`.

    Raises:
        DataError: if the data has other items than the run.
        UsageError: if the run may have learned what the protocol tests.
        ResourceError: if the cluster cannot hold the workers.
    """
    folder, path, rules = local_folder(data), Run(run).path, _protocol(protocol)
    if workers is None and address is None:
        return Evaluation(evaluate_with_baselines(path, folder, chosen_device(device), split, rules))
    from ss4rec.cluster.connect import cluster
    from ss4rec.evaluation.report import evaluate_run

    with cluster(address):
        gpu = chosen_device(device).type == "cuda"
        return Evaluation.parse(
            evaluate_run(path, folder, split=split, workers=workers or 1, use_gpu=gpu, protocol=rules)
        )


def recommend(
    run: Run | Recommender | str | os.PathLike[str],
    events: _TableT,
    k: int = 10,
    *,
    columns: Mapping[str, str] | None = None,
    at: Moment | None = None,
    exclude_seen: bool = True,
    ignore_unknown: bool = True,
    device: Device = "cpu",
) -> _TableT:
    """Return the `k` best items for each user of a table of events, as a table of the same kind.

    Args:
        run: the run, its folder, or what `ss4rec.load` returned.
        events: what users did: a pandas or Polars DataFrame, an Arrow table, or a `ray.data.Dataset`, with columns of
            user, item and time (and rating, where the model reads ratings). Users need not have been trained on.
        k: items per user; fewer where fewer are left.
        columns: column of `user`, `item`, `time`, `rating`; common names are recognised without it.
        at: moment for which to recommend; None: for each user the median training gap after the last event.
        exclude_seen: leave out items that the user already has.
        ignore_unknown: leave out events of items that the run does not know, and users who have no others; False
            refuses them.
        device: where the model runs.

    Returns:
        A row per recommendation, users in the order of their first event: the column of the user under its own name,
        `rank` from 1, `item`, `score` (comparable within a user only) and `title` (null where there is none).

    Raises:
        DataError: if a column is missing, or a time is none.
        UsageError: for unknown items with `ignore_unknown=False`, or a moment before a user's last event.
    """
    known = run if isinstance(run, Recommender) else Run(run).load(str(chosen_device(device)))
    users, wanted = histories(events, columns or {}, known, at, ignore_unknown)
    found = known.recommend_many(wanted, k, exclude_seen=exclude_seen, ignore_unknown=ignore_unknown)
    return like(events, users, found)


def _run_path(run: Run | str | os.PathLike[str]) -> Path:
    return run.path if isinstance(run, Run) else Path(run).resolve()


def _protocol(protocol: Protocol | str | None) -> Protocol | None:
    return protocol_of(protocol) if isinstance(protocol, str) else protocol


def _configured(
    config: RunConfig | str,
    changes: Mapping[str, Any] | None,
    workers: int | tuple[int, int] | None,
    protocol: Protocol | str | None,
    minutes: float | None,
) -> RunConfig | Auto:
    """Return the configuration, or `auto`, which needs the data first."""
    fewest, most = workers if isinstance(workers, tuple) else (workers, None)
    fields = dict(changes or {})
    if fewest is not None:
        fields |= {"resources.workers": fewest, "resources.max_workers": most}
    rules = _protocol(protocol)
    if config == AUTO:
        own = {name: value for name, value in fields.items() if not name.startswith("protocol.")}
        asked = RunConfig(preset=AUTO) if rules is None else RunConfig(preset=AUTO, protocol=rules)
        return Auto(override(asked, fields).protocol, own, minutes)
    if minutes is not None:
        fields = {"train.max_minutes": usable_minutes(minutes), "train.fit_minutes": True} | fields
    start = config if isinstance(config, RunConfig) else preset(config)
    start = start if rules is None else start.model_copy(update={"protocol": rules})
    return override(start, fields) if fields else start


def _train_here(asked: RunConfig | Auto, data_dir: Path, run_dir: Path, device: torch.device) -> None:
    """Train and test in this process, and write `result.json` as a training on Ray does."""
    data = PreparedFolder.open(data_dir)
    data.verify()
    check_before_ray(asked, data)
    config = resolved(asked, data, run_dir, lambda wanted: device.type == "cuda")
    if config.resources.max_workers or config.resources.workers > 1:
        raise ConfigError(
            f"resources.workers is {config.resources.workers} here; pass workers= to train on Ray"
        )

    def test() -> dict[str, Any]:
        found = evaluate_with_baselines(run_dir, data, device)
        tested.update({name: one.model_dump(mode="json") for name, one in found.items()})
        return tested

    tested: dict[str, Any] = {}
    at_end = config.evaluation.at_end
    with _checkpoint_on_interrupt() as hooks, _generators_kept():
        if config.protocol.refit:
            chosen = train_alone(choosing(config), data, run_dir / CHOOSE_FOLDER, device, hooks)
            config = refitting(config, chosen.best_epoch)
        outcome = train_alone(config, data, run_dir, device, hooks, test if at_end else dict)
    result: dict[str, Any] = {"run": str(run_dir), "training": outcome.as_dict()}
    result["protocol"] = config.protocol.model_dump(mode="json")
    if at_end:
        result["test"] = tested
    write_json(run_dir / RESULT_FILE, result)


@contextmanager
def _only_training() -> Iterator[None]:
    """Refuse a second training in this process."""
    if not _training.acquire(blocking=False):
        raise UsageError(
            "another training runs in this process, and both would draw from torch's one random state; "
            "wait for it, or train in a process of its own"
        )
    try:
        yield
    finally:
        _training.release()


@contextmanager
def _generators_kept() -> Iterator[None]:
    """Leave the caller's random state and precision as they were."""
    states, cuda = torch.get_rng_state(), torch.cuda.is_initialized()
    devices = torch.cuda.get_rng_state_all() if cuda else []
    tf32, deterministic = (
        torch.backends.cuda.matmul.allow_tf32,
        torch.are_deterministic_algorithms_enabled(),
    )
    try:
        yield
    finally:
        torch.set_rng_state(states)
        if devices:
            torch.cuda.set_rng_state_all(devices)
        torch.backends.cuda.matmul.allow_tf32 = tf32
        torch.use_deterministic_algorithms(deterministic)


@contextmanager
def _checkpoint_on_interrupt() -> Iterator[Hooks]:
    """Yield hooks that answer SIGINT with a checkpoint and then KeyboardInterrupt; a second SIGINT ends at once.

    Only in the main thread, which alone gets signals, and only where nobody else handles them.
    """
    asked = threading.Event()

    def ask(number: int, frame: FrameType | None) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()

    def stop() -> None:
        if asked.is_set():
            raise KeyboardInterrupt("training is interrupted; the same name continues it from this step")

    hooks = Hooks(notice=lambda: "interrupted" if asked.is_set() else "", saved=stop)
    is_ours = threading.current_thread() is threading.main_thread()
    with _handler(ask) if is_ours else nullcontext():
        yield hooks


@contextmanager
def _handler(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Handle SIGINT for the length of the block, unless somebody but Python itself does already."""
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    before = signal.signal(signal.SIGINT, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def chosen_device(device: str) -> torch.device:
    """Return the device that was asked for.

    Raises:
        UsageError: if it is unknown, or a GPU that is not there.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError:
        raise UsageError(f"device {device!r} is unknown; give auto, cpu or cuda") from None
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise UsageError(f"device {device!r}: torch finds no GPU here (`ss4rec doctor` says why); give cpu")
    return chosen
