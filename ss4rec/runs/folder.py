"""The run folder: what a training run leaves behind, and how it is opened again.

RUN/config.json       the resolved configuration
RUN/protocol.json     the protocol in it: what trains, what chooses, what tests
RUN/record.json       what ran: versions, backends, device, data manifest, configuration fingerprint
RUN/items.parquet     the vocabulary: items that train
RUN/metrics.jsonl     one line per status, epoch and validation
RUN/checkpoints/      see ss4rec.runs.checkpoint
RUN/result.json       test metrics
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
import shutil
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from pydantic import BaseModel, ConfigDict, FiniteFloat, NonNegativeInt, PositiveInt, ValidationError
from torch import Tensor

from ss4rec.config import RunConfig, parse_config
from ss4rec.data.prepared.tables import write_table
from ss4rec.errors import CheckpointError, ConfigError, DataError
from ss4rec.io.untrusted import flush, parse_json, read_json
from ss4rec.protocol.plan import Plan, make_plan
from ss4rec.protocol.settings import Protocol
from ss4rec.runs import checkpoint
from ss4rec.runs.provenance import git_commit, installed_versions

if TYPE_CHECKING:
    from ss4rec.data.prepared.manifest import Manifest
    from ss4rec.model.ss4rec import SequenceModel

CONFIG_FILE, PROTOCOL_FILE, RECORD_FILE, ITEMS_FILE, METRICS_FILE, RESULT_FILE = (
    "config.json",
    "protocol.json",
    "record.json",
    "items.parquet",
    "metrics.jsonl",
    "result.json",
)


class RunRecord(BaseModel):
    """What ran, on what data, with what code: enough to say why two runs differ."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    created: str
    """UTC, ISO 8601."""
    fingerprint: str
    """`RunConfig.fingerprint()`."""
    data_name: str
    data_sha256: str
    """Checksum of the data's manifest."""
    cut_s: int | None = None
    """Last second that the data may hold, if it was cut in time; `ss4rec drift` checks its own cut against it."""
    num_users: PositiveInt
    num_items: PositiveInt
    num_interactions: PositiveInt
    median_gap_s: FiniteFloat
    """Median gap between training events: stands in for the gap to a target whose time is not known."""
    profile_values: tuple[str, ...] | None = None
    """`Manifest.profile_values`, so that profiles can be given when the run serves."""
    protocol: Protocol = Protocol()
    """What trained, what chose, what tests; leave-one-out in records that do not say."""
    division: dict[str, int] = {}
    """`Plan.facts`: rows, users and items of each part."""
    num_parameters: NonNegativeInt
    backends: dict[str, str]
    """The implementation that each part of the model used."""
    device: str
    workers: int
    versions: dict[str, str]
    python: str
    commit: str | None
    """Git commit of the code, where it runs from a checkout."""

    @classmethod
    def collect(
        cls,
        *,
        name: str,
        config: RunConfig,
        manifest: Manifest,
        model: SequenceModel,
        device: str,
        workers: int,
        backends: dict[str, str] | None = None,
        plan: Plan | None = None,
    ) -> RunRecord:
        """Gather the facts of this process; `backends` are the model's own where it has no loss and no steps.

        `plan` is what the run's protocol means for the data; None: leave-one-out of all of them.
        """
        return cls(
            name=name,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            fingerprint=config.fingerprint(),
            data_name=manifest.name,
            data_sha256=data_fingerprint(manifest),
            cut_s=plan.cut_s if plan and plan.cut_s is not None else manifest.filters.cut_s,
            num_users=manifest.users,
            num_items=plan.num_items if plan else manifest.items,
            num_interactions=manifest.interactions,
            median_gap_s=plan.median_gap_s if plan else manifest.median_gap_s,
            protocol=config.protocol,
            division=plan.facts if plan else {},
            profile_values=manifest.profile_values,
            num_parameters=sum(parameter.numel() for parameter in model.parameters()),
            backends=backends or model.backends,
            device=device,
            workers=workers,
            versions=installed_versions(),
            python=platform.python_version(),
            commit=git_commit(),
        )


class RunFolder:
    """Paths and files of one run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoints = path / "checkpoints"

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """Open an existing run.

        Raises:
            DataError: if `path` is no run folder.
        """
        folder = cls(Path(path))
        if not (folder.path / CONFIG_FILE).is_file():
            raise DataError(
                f"{path} is not a run folder (it has no {CONFIG_FILE}); give the folder that training printed"
            )
        return folder

    @property
    def exists(self) -> bool:
        """Whether a run was started here."""
        return (self.path / CONFIG_FILE).exists()

    def config(self) -> RunConfig:
        """Read the resolved configuration."""
        return parse_config(_read_json(self.path / CONFIG_FILE))

    def record(self) -> RunRecord:
        """Read the run record."""
        try:
            return RunRecord.model_validate(_read_json(self.path / RECORD_FILE))
        except ValidationError as error:
            raise DataError(
                f"{self.path / RECORD_FILE} is not a run record of this version: {error}"
            ) from None

    def start(self, config: RunConfig, manifest: Manifest, data_dir: Path) -> None:
        """Create the folder, or check that the run in it is the same one.

        Raises:
            ConfigError: if the folder holds a run of another configuration or other data.
        """
        if self.exists:
            self._require_same(config, manifest)
            return
        plan = make_plan(config.protocol, data_dir)
        self.path.mkdir(parents=True, exist_ok=True)
        if plan.items_I is None:
            shutil.copyfile(data_dir / ITEMS_FILE, self.path / ITEMS_FILE)
        else:
            write_table(plan.items(data_dir), self.path / ITEMS_FILE)
        write_json(self.path / PROTOCOL_FILE, config.protocol.model_dump(mode="json"))
        write_json(self.path / CONFIG_FILE, config.model_dump(mode="json"))

    def _require_same(self, config: RunConfig, manifest: Manifest) -> None:
        before = self.config()
        if before.fingerprint() != config.fingerprint():
            changed = ", ".join(_differences(before.model_dump(mode="json"), config.model_dump(mode="json")))
            raise ConfigError(
                f"the run {self.path.name} exists with another configuration ({changed}); "
                "choose another --name, or repeat its options to continue it"
            )
        if (self.path / RECORD_FILE).exists() and self.record().data_sha256 != data_fingerprint(manifest):
            raise ConfigError(
                f"the run {self.path.name} was trained on other data ({self.record().data_name}); choose another --name"
            )

    def append_metrics(self, row: dict[str, Any]) -> None:
        """Append one line to `metrics.jsonl`; figures that are not finite are written as null, which JSON knows."""
        plain = {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in row.items()
        }
        with (self.path / METRICS_FILE).open("a") as file:
            file.write(json.dumps(plain) + "\n")

    def metrics(self) -> list[dict[str, Any]]:
        """Read `metrics.jsonl`; a last line that a crash cut short is left out."""
        path = self.path / METRICS_FILE
        rows: list[dict[str, Any]] = []
        for line in path.read_bytes().splitlines() if path.exists() else []:
            try:
                row = parse_json(line)
            except ValueError:
                break
            if not isinstance(row, dict) or not isinstance(row.get("global_step"), int):
                break
            rows.append(row)
        return rows

    def rewind_metrics(self, global_step: int) -> None:
        """Drop lines after `global_step`: a resumed run writes them again."""
        kept = [json.dumps(row) for row in self.metrics() if row["global_step"] <= global_step]
        _write_text(self.path / METRICS_FILE, "".join(line + "\n" for line in kept))


def load_model(run_dir: Path, device: str = "cpu") -> tuple[SequenceModel, RunConfig]:
    """Load the best checkpoint of a run as a model in evaluation mode.

    Raises:
        DataError: if `run_dir` is no run folder.
        CheckpointError: if no checkpoint is intact or fits the run's configuration.
    """
    from ss4rec.model.ss4rec import make_model

    folder = RunFolder.open(Path(run_dir))
    config, record = folder.config(), folder.record()
    saved = checkpoint.best(folder.checkpoints)
    _require_size(saved, config, record)
    model = make_model(config.model, record.num_items)
    load_weights(model, saved)
    return model.to(device).eval(), config


def load_weights(model: SequenceModel, saved: checkpoint.Checkpoint) -> None:
    """Copy a checkpoint's weights into `model`.

    Raises:
        CheckpointError: if names or shapes do not agree, or a weight is not finite.
    """
    load_tensors(model, saved.model_tensors(), saved.path)


def load_tensors(model: SequenceModel, tensors: Mapping[str, Tensor], source: Path) -> None:
    """Copy `tensors`, which come from the checkpoint `source`, into `model`; raises as `load_weights`."""
    for name, tensor in tensors.items():
        if not tensor.is_floating_point() or not bool(torch.isfinite(tensor.float()).all()):
            raise CheckpointError(
                f"checkpoint {source}: {name} is not finite numbers ({tensor.dtype}); use an earlier one"
            )
    try:
        model.load_state_dict(dict(tensors))
    except RuntimeError as error:
        raise CheckpointError(f"checkpoint {source} does not fit this model: {error}") from None


def _require_size(saved: checkpoint.Checkpoint, config: RunConfig, record: RunRecord) -> None:
    """Refuse a configuration that would take more memory than the weights on disk, before it is taken.

    Only those can be large that a file backs, so a folder from a stranger cannot make a model of 10^12 items.
    """
    from ss4rec.model.ss4rec import make_model

    found, expected = saved.model_shapes(), (record.num_items + 1, config.model.dim)
    first = "embedding.weight" if config.model.members == 1 else "parts.0.embedding.weight"
    if found.get(first) != expected or config.model.blocks * config.model.members > len(found):
        raise CheckpointError(
            f"checkpoint {saved.path} has item embeddings {found.get(first)}, and the run's record and "
            f"configuration describe {expected} in {config.model.members} x {config.model.blocks} blocks; "
            "the folder is mixed up"
        )
    with torch.device("meta"):  # shapes without memory
        wanted = {
            name: tuple(t.shape)
            for name, t in make_model(config.model, record.num_items).state_dict().items()
        }
    wrong = sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))
    if wrong:
        raise CheckpointError(
            f"checkpoint {saved.path} does not fit this model: {', '.join(wrong[:5])} is missing or has another shape"
        )


def data_fingerprint(manifest: Manifest) -> str:
    """Return the SHA-256 of everything a manifest says, the checksum of each shard included."""
    return hashlib.sha256(manifest.model_dump_json(exclude_none=True).encode()).hexdigest()


def write_json(path: Path, value: Any) -> None:
    """Write readable JSON, whole or not at all."""
    _write_text(path, json.dumps(value, indent=2, sort_keys=True) + "\n")


def _write_text(path: Path, text: str) -> None:
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.write_text(text)
    flush(draft)
    draft.replace(path)


def _read_json(path: Path) -> Any:
    try:
        return read_json(path)
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}") from None


def _differences(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[str]:
    """Return `field: old -> new` for every leaf that differs."""
    found: list[str] = []
    for key in old:
        if isinstance(old[key], dict):
            found += _differences(old[key], new[key], f"{prefix}{key}.")
        elif old[key] != new[key]:
            found.append(f"{prefix}{key}: {old[key]} -> {new[key]}")
    return found
