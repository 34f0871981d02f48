"""The run folder: what a training run leaves behind, and how it is opened again.

RUN/config.json       the resolved configuration
RUN/protocol.json     the protocol in it: what trains, what chooses, what tests
RUN/record.json       what ran: versions, backends, device, data manifest, configuration fingerprint
RUN/items.parquet     the vocabulary: items that train
RUN/metrics.jsonl     one line per status, epoch and validation
RUN/checkpoints/      see ss4rec.runs.checkpoint
RUN/result.json       test metrics
RUN/earlier.json      fingerprints of the configuration before `train.epochs` was raised, if it was
RUN/ancestry.json     of a warm start: the runs that its first weights come from, see ss4rec.train.warm
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from ss4rec.config import RunConfig, override, parse_config
from ss4rec.data.prepared.tables import write_table
from ss4rec.errors import ConfigError, DataError
from ss4rec.io.atomic import write_json, write_whole
from ss4rec.io.untrusted import parse_json, read_json
from ss4rec.protocol.plan import Plan, plan_of_run
from ss4rec.runs.record import Ancestor, RunRecord, is_same_data

if TYPE_CHECKING:
    from ss4rec.data.prepared.folder import PreparedFolder

CONFIG_FILE, PROTOCOL_FILE, RECORD_FILE, ITEMS_FILE, METRICS_FILE, RESULT_FILE = (
    "config.json",
    "protocol.json",
    "record.json",
    "items.parquet",
    "metrics.jsonl",
    "result.json",
)


EARLIER_FILE, ANCESTRY_FILE = "earlier.json", "ancestry.json"
CHOOSE_FOLDER = "choose"
"""Run folder, in a run's, of the training that finds the number of epochs (`protocol.refit`)."""


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

    def start(self, config: RunConfig, data: PreparedFolder, plan: Plan | None = None) -> None:
        """Create the folder, or check that the run in it is the same one; `plan` if it has been made.

        Raises:
            ConfigError: if the folder holds a run of another configuration or other data. More `train.epochs` than
                before continue the run.
        """
        if self.exists:
            self._require_same(config, data)
            return
        plan = plan or plan_of_run(config, data)
        if plan.items_I is None:
            write_whole(self.path / ITEMS_FILE, (data.path / ITEMS_FILE).read_bytes())
        else:
            write_table(plan.items(data), self.path / ITEMS_FILE)
        write_json(self.path / PROTOCOL_FILE, config.protocol.model_dump(mode="json"))
        write_json(self.path / CONFIG_FILE, config.model_dump(mode="json"))

    def _require_same(self, config: RunConfig, data: PreparedFolder) -> None:
        """Refuse to go on with another configuration or other data; more epochs are no other configuration."""
        before = self.config()
        if self._is_longer(before, config):
            earlier = [*self.earlier_fingerprints(), before.fingerprint()]
            write_json(self.path / EARLIER_FILE, earlier)
            write_json(self.path / CONFIG_FILE, config.model_dump(mode="json"))
        elif before.fingerprint() != config.fingerprint():
            changed = ", ".join(_differences(before.model_dump(mode="json"), config.model_dump(mode="json")))
            raise ConfigError(
                f"the run {self.path.name} exists with another configuration ({changed}); "
                "choose another --name, or repeat its options to continue it"
            )
        if (self.path / RECORD_FILE).exists() and not is_same_data(self.record(), data.manifest):
            raise ConfigError(
                f"the run {self.path.name} was trained on other data ({self.record().data_name}); choose another --name"
            )

    @staticmethod
    def _is_longer(before: RunConfig, config: RunConfig) -> bool:
        """Return whether `config` is `before` with more epochs and nothing else that decides the result."""
        longer = override(before, {"train.epochs": config.train.epochs})
        return config.train.epochs > before.train.epochs and longer.fingerprint() == config.fingerprint()

    def earlier_fingerprints(self) -> list[str]:
        """Return the fingerprints that this run had before its `train.epochs` was raised, oldest first."""
        path = self.path / EARLIER_FILE
        return list(_read_json(path)) if path.exists() else []

    def ancestry(self) -> tuple[Ancestor, ...]:
        """Return the runs that a warm start goes back to, the oldest first; empty for a run that began from nothing."""
        path = self.path / ANCESTRY_FILE
        try:
            return tuple(Ancestor.model_validate(row) for row in (_read_json(path) if path.exists() else []))
        except ValidationError as error:
            raise DataError(f"{path} is no ancestry of this version: {error}") from None

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
        text = "".join(line + "\n" for line in kept)
        write_whole(self.path / METRICS_FILE, text.encode(), durable=True)


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
