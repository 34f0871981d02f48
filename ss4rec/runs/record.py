"""What a run says about itself (`record.json`): versions, backends, device, data, fingerprint of the configuration."""

from __future__ import annotations

import hashlib
import json
import platform
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, FiniteFloat, NonNegativeInt, PositiveInt

from ss4rec.config import RunConfig
from ss4rec.model.columns import DataColumns
from ss4rec.protocol.settings import Protocol
from ss4rec.runs.provenance import git_commit, installed_versions

if TYPE_CHECKING:
    from ss4rec.data.prepared.manifest import Manifest
    from ss4rec.model.ss4rec import SequenceModel
    from ss4rec.protocol.plan import Plan


class Ancestor(BaseModel):
    """A run whose weights another one began with."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    run: str
    """Name of its folder."""
    fingerprint: str
    """Of its configuration."""
    weights_sha256: str
    """Of the weights that were taken over."""
    data_name: str
    data_sha256: str
    trained_until_s: int
    """Last second (unix time) that it had trained on."""
    items_known: NonNegativeInt
    """Items of the new data that kept their rows."""
    items_new: NonNegativeInt
    """New items that got a row from the known items next to them in histories."""
    items_alone: NonNegativeInt
    """New items that are never next to a known one: they got the mean row."""
    items_gone: NonNegativeInt
    """Items that the new data do not train, whose rows were left behind."""
    new_windows: NonNegativeInt
    """Training windows that hold something new."""


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
    """`data_fingerprint`; of runs of earlier versions `manifest_fingerprint`."""
    cut_s: int | None = None
    """Last second that the data may hold, if it was cut in time; `ss4rec drift` checks its own cut against it."""
    num_users: PositiveInt
    num_items: PositiveInt
    num_interactions: PositiveInt
    median_gap_s: FiniteFloat
    """Median gap between training events: stands in for the gap to a target whose time is not known."""
    profile_values: tuple[str, ...] | None = None
    """`Manifest.profile_values`, so that profiles can be given when the run serves."""
    columns: DataColumns = DataColumns()
    """What else the data have that the model reads: features of items, columns about users."""
    protocol: Protocol = Protocol()
    """What trained, what chose, what tests; leave-one-out in records that do not say."""
    division: dict[str, int] = {}
    """`Plan.facts`: rows, users and items of each part."""
    last_time_s: int | None = None
    """Last event of the data (unix time); records of earlier versions do not say."""
    ancestry: tuple[Ancestor, ...] = ()
    """Runs that a warm start goes back to, the oldest first."""
    num_parameters: NonNegativeInt
    backends: dict[str, str]
    """The implementation that each part of the model used."""
    device: str
    workers: int
    versions: dict[str, str]
    python: str
    commit: str | None
    """Git commit of the code, where it runs from a checkout."""

    @property
    def trained_until_s(self) -> int | None:
        """Last second (unix time) of which an event may have trained; None if the record does not say.

        Of leave-one-out it is the last second of the data, though the last two events of a user who is held out have
        not trained.
        """
        if self.protocol.kind == "leave_one_out":
            return self.cut_s if self.last_time_s is None else self.last_time_s
        return self.cut_s if self.protocol.refit else self.division.get("valid_cut_s", self.cut_s)

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
        ancestry: tuple[Ancestor, ...] = (),
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
            last_time_s=manifest.last_time_s,
            ancestry=ancestry,
            profile_values=manifest.profile_values,
            columns=model.columns,
            num_parameters=sum(parameter.numel() for parameter in model.parameters()),
            backends=backends or model.backends,
            device=device,
            workers=workers,
            versions=installed_versions(),
            python=platform.python_version(),
            commit=git_commit(),
        )


def data_fingerprint(manifest: Manifest) -> str:
    """Return the SHA-256 of what a run can see of its data: filters, items, users, profiles and the shards.

    The source file is no part of it: a file that has grown since gives the same past, and that is the same data.
    """
    seen = manifest.model_dump(
        mode="json",
        include={"filters", "shards", "files", "profile_values", "median_gap_s", "context", "targets"},
        exclude_none=True,
    )
    seen["files"].pop("quarantine.parquet", None)
    return hashlib.sha256(json.dumps(seen, sort_keys=True).encode()).hexdigest()


def manifest_fingerprint(manifest: Manifest) -> str:
    """Return the SHA-256 of everything a manifest says, its source included: what checkpoints are marked with."""
    return hashlib.sha256(manifest.model_dump_json(exclude_none=True).encode()).hexdigest()


def is_same_data(record: RunRecord, manifest: Manifest) -> bool:
    """Return whether a run was trained on this data; runs of earlier versions hold `manifest_fingerprint`."""
    return record.data_sha256 in (data_fingerprint(manifest), manifest_fingerprint(manifest))
