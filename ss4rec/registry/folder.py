"""Versions of one model, the pointer to the one that serves, and the history of that pointer."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, PositiveInt, ValidationError

from ss4rec.errors import DataError, UsageError
from ss4rec.io.atomic import flush, new_folder, write_json
from ss4rec.io.journal import Journal, exclusive
from ss4rec.io.untrusted import read_json
from ss4rec.runs import checkpoint
from ss4rec.runs.folder import (
    ANCESTRY_FILE,
    CHOOSE_FOLDER,
    CONFIG_FILE,
    EARLIER_FILE,
    ITEMS_FILE,
    PROTOCOL_FILE,
    RECORD_FILE,
    RESULT_FILE,
    RunFolder,
)
from ss4rec.train.trackers.base import IDS_FILE

CHAMPION, HISTORY, VERSIONS, VERSION_FILE, _LOCK = (
    "champion",
    "history.jsonl",
    "versions",
    "version.json",
    ".lock",
)
COPIED = (
    CONFIG_FILE,
    PROTOCOL_FILE,
    RECORD_FILE,
    ITEMS_FILE,
    RESULT_FILE,
    EARLIER_FILE,
    ANCESTRY_FILE,
    IDS_FILE,
    f"{CHOOSE_FOLDER}/{CONFIG_FILE}",
)
"""Files of a run that its version keeps, where the run has them, beside the best checkpoint."""


class Version(BaseModel):
    """One version of a model (`version.json` in its folder)."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    version: PositiveInt
    """From 1."""
    run: str
    """The run folder that it was taken from."""
    weights_sha256: str
    """Checksum of the weights."""
    fingerprint: str
    """Fingerprint of the configuration."""
    data_name: str
    """Data that it was trained on."""
    cut_s: int | None
    """Last second that training may have seen, where the data were cut in time."""
    added: str
    """UTC, ISO 8601."""
    note: str = ""
    """What whoever added it says."""


class Pointer(BaseModel):
    """The content of `champion`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: PositiveInt


class ModelRegistry:
    """The versions of one model.

    Args:
        path: `registry/NAME`; it is made when the first version is added.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self.journal = Journal(self.path / HISTORY)

    @classmethod
    def open(cls, path: Path) -> ModelRegistry:
        """Open a model that exists.

        Raises:
            DataError: if there is none.
        """
        if not is_model(path):
            raise DataError(
                f"{path} is no model of a registry (it has no {VERSIONS}/); add a run with `ss4rec registry promote "
                f"{path} --run RUN --reason TEXT`"
            )
        return cls(path)

    def versions(self) -> list[Version]:
        """Return all versions, the oldest first."""
        return [self._read(folder) for folder in sorted((self.path / VERSIONS).glob("[0-9]*"))]

    def folder(self, version: int) -> Path:
        """Return the run folder of a version.

        Raises:
            UsageError: if there is none of that number.
        """
        folder = self.path / VERSIONS / f"{version:04d}"
        if not folder.is_dir():
            there = ", ".join(str(one.version) for one in self.versions()) or "none"
            raise UsageError(f"{self.path} has no version {version}; it has {there}")
        return folder

    def history(self) -> list[dict[str, Any]]:
        """Return what moved the pointer: `at`, `action`, `version`, `before`, `reason` and `evidence`."""
        return self.journal.rows()

    def champion_version(self) -> int | None:
        """Return the number of the version that serves; None before the first promotion.

        Raises:
            DataError: if the pointer is damaged.
        """
        path = self.path / CHAMPION
        if not path.exists():
            return None
        try:
            return Pointer.model_validate(read_json(path)).version
        except (OSError, ValueError, ValidationError) as error:
            raise DataError(
                f"{path} is no pointer ({str(error).splitlines()[0]}); `ss4rec registry promote {self.path} "
                "--version N --reason TEXT` writes it anew"
            ) from None

    def add(self, run: Path, note: str = "") -> Version:
        """Keep a run as a version; a run whose weights are one already is that version.

        Args:
            run: run folder; its best checkpoint is kept.
            note: what to remember of it.

        Raises:
            DataError, CheckpointError: if it is no run, or has no intact checkpoint.
        """
        source = RunFolder.open(run)
        record, best = source.record(), checkpoint.best(source.checkpoints)
        fingerprint = source.config().fingerprint()
        sums = read_json(best.path / checkpoint.SUMS_FILE)
        with self._changing():
            versions = self.versions()
            for known in versions:
                same = (known.weights_sha256, known.fingerprint)
                if same == (sums[checkpoint.MODEL_FILE], fingerprint):
                    return known
            version = Version(
                version=1 + max((one.version for one in versions), default=0),
                run=str(run),
                weights_sha256=sums[checkpoint.MODEL_FILE],
                fingerprint=fingerprint,
                data_name=record.data_name,
                cut_s=record.cut_s,
                added=_now(),
                note=note,
            )
            with new_folder(self.path / VERSIONS / f"{version.version:04d}") as draft:
                _copy(source, best.path, draft)
                write_json(draft / VERSION_FILE, version.model_dump())
            flush(self.path / VERSIONS)
        return version

    def promote(self, version: int, reason: str, evidence: Mapping[str, Any] | None = None) -> bool:
        """Let a version serve; returns whether that is a change.

        Args:
            version: its number.
            reason: why, in a sentence.
            evidence: figures that it was decided by, as plain JSON values.

        Raises:
            UsageError: if there is no such version, or the reason is empty.
        """
        return self._point("promote", version, reason, evidence)

    def rollback(self, reason: str, to: int | None = None) -> int:
        """Go back to the champion before the present one, or to version `to`; returns the version that serves now.

        Raises:
            UsageError: if there is none to go back to.
        """
        before = self.served_before()
        if to is None and not before:
            raise UsageError(
                f"{self.path} has no champion before this one; name a version with --to, or promote one"
            )
        version = before[-1] if to is None else to
        self._point("rollback", version, reason, None)
        return version

    def served_before(self) -> list[int]:
        """Return the versions that a rollback goes back to, the next one last; those rolled back are left out."""
        stack: list[int] = []
        for row in self.history():
            version = int(row["version"])
            if row["action"] == "rollback" and version in stack:
                del stack[len(stack) - stack[::-1].index(version) :]
            elif not stack or stack[-1] != version:
                stack.append(version)
        return stack[:-1]

    def _point(self, action: str, version: int, reason: str, evidence: Mapping[str, Any] | None) -> bool:
        """Write the history first and the pointer after it, so that a crash between the two is mended from history."""
        if not reason.strip():
            raise UsageError(f"{action} needs a reason: who looks at the history later wants to know why")
        folder = self.folder(version)
        checkpoint.best(folder / "checkpoints")  # what cannot be loaded must not serve
        with self._changing():
            before = self.champion_version()
            if before == version:
                return False
            row = {"at": _now(), "action": action, "version": version, "before": before, "reason": reason}
            self.journal.append(row | {"evidence": dict(evidence or {})})
            self._write_pointer(version)
        return True

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """Hold the model, and finish what a killed process has begun."""
        with exclusive(self.path / _LOCK, str(self.path)):
            self.mend()
            yield

    def mend(self) -> None:
        """Remove drafts of versions, and let the pointer follow the history; only for who holds the lock."""
        for draft in (self.path / VERSIONS).glob(".*"):
            shutil.rmtree(draft, ignore_errors=True)
        rows = self.history()
        try:
            points_at = self.champion_version()
        except DataError:
            points_at = None
        if rows and points_at != rows[-1]["version"]:
            self._write_pointer(int(rows[-1]["version"]))

    def _write_pointer(self, version: int) -> None:
        write_json(self.path / CHAMPION, Pointer(version=version).model_dump())
        flush(self.path)

    def _read(self, folder: Path) -> Version:
        try:
            return Version.model_validate(read_json(folder / VERSION_FILE))
        except (OSError, ValueError, ValidationError) as error:
            raise DataError(
                f"{folder / VERSION_FILE} cannot be read ({str(error).splitlines()[0]}); remove the folder {folder}, "
                "and add its run again"
            ) from None


def champion(path: Path | str) -> Path:
    """Return the run folder of the version of `registry/NAME` that serves.

    It is a folder that never changes: a later promotion points at another one, so ask again to follow it.

    Raises:
        DataError: if `path` is no model of a registry, or nothing was promoted yet.
    """
    registry = ModelRegistry.open(Path(path))
    version = registry.champion_version()
    if version is None:
        raise DataError(
            f"{path} has no champion yet; `ss4rec registry promote {path} --version N --reason TEXT` chooses one"
        )
    return registry.folder(version)


def is_model(path: Path | str) -> bool:
    """Whether `path` is `registry/NAME`, a model with versions."""
    return (Path(path) / VERSIONS).is_dir()


def resolve(path: Path | str) -> Path:
    """Return the champion's run folder if `path` is `registry/NAME`, else `path` itself."""
    return champion(path) if is_model(path) else Path(path)


def models(root: Path) -> list[ModelRegistry]:
    """Return the models of a registry by name."""
    found = sorted(folder for folder in root.glob("*") if is_model(folder)) if root.is_dir() else []
    return [ModelRegistry(folder) for folder in found]


def _copy(source: RunFolder, best: Path, out: Path) -> None:
    """Copy what a version keeps; checkpoints, which never change, are linked where the file system can."""
    for name in COPIED:
        if (source.path / name).is_file():
            (out / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(source.path / name, out / name)
    target = out / source.checkpoints.name / best.name
    target.mkdir(parents=True)
    for file in best.iterdir():
        try:
            os.link(file, target / file.name)
        except OSError:
            shutil.copyfile(file, target / file.name)
    for path in (out, *out.rglob("*")):
        flush(path)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
