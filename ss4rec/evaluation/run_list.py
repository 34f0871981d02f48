"""The runs of a storage folder, a line each: what they trained on, how far they came, how good they are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ss4rec.errors import DataError
from ss4rec.evaluation.saved import MODEL, load_evaluation
from ss4rec.runs.folder import RunFolder

METRIC = "NDCG@10"


@dataclass(frozen=True)
class RunLine:
    """A run in short; what it does not have yet is None."""

    name: str
    data: str | None
    created: str | None
    """UTC, ISO 8601."""
    epochs: int
    """Epochs that have ended."""
    valid: float | None
    """Best NDCG@10 on validation."""
    test: float | None
    """NDCG@10 on the test, in the protocol's setting."""


def list_runs(storage: Path) -> list[RunLine]:
    """Return the runs that lie in a folder, the newest first; none where there is no such folder."""
    folders = [RunFolder(path) for path in storage.iterdir()] if storage.is_dir() else []
    lines = [_line(folder) for folder in folders if folder.exists]
    return sorted(lines, key=lambda line: (line.created or "", line.name), reverse=True)


def _line(folder: RunFolder) -> RunLine:
    epochs = [row for row in folder.metrics() if row.get("kind") == "epoch"]
    valid = [row["valid_ndcg@10"] for row in epochs if row.get("valid_ndcg@10") is not None]
    try:
        record = folder.record()
    except DataError:  # it stopped before its record was written, or another version wrote it
        record = None
    return RunLine(
        folder.path.name,
        record.data_name if record else None,
        record.created if record else None,
        len({row["epoch"] for row in epochs}),
        max(valid, default=None),
        _tested(folder.path),
    )


def _tested(run: Path) -> float | None:
    try:
        saved = load_evaluation(run)
    except DataError:  # it was not tested yet
        return None
    return saved.record.results[MODEL].setting(*saved.setting).metrics[METRIC]
