"""What a report holds: `report.json` (its JSON Schema lies beside this file), and the tables beside it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict

from drift.cells.types import Row
from drift.config import Severity
from drift.report.records import CellRecord, EventRecord, QualityRecord, Shaped, WindowRecord

SCHEMA_VERSION = 1
CELLS_NAME, QUALITY_NAME, REPORT_NAME = "drift.parquet", "quality.parquet", "report.json"
LICENCE = (
    "alibi-detect 0.13 is licensed under the Business Source License 1.1: non-production use only until four years "
    "after its release. It is optional here; every verdict of this report is computed without it."
)


class Report(BaseModel):
    """The content of `report.json`; `drift/report/report.schema.json` is its JSON Schema."""

    model_config = ConfigDict(extra="forbid")

    schema_version: int = SCHEMA_VERSION
    headline: str
    verdict: Severity
    data_verdict: Severity
    model_verdict: Severity | None
    cut_s: int
    reference: list[str]
    calibration: list[str]
    quality: list[Annotated[dict[str, Any], Shaped(QualityRecord)]]
    """A record a future window; empty without a run. The first is the reference of the others."""
    windows: list[Annotated[dict[str, Any], Shaped(WindowRecord)]]
    """Future windows; turnover is 1 - Jaccard of the 100 items rated most in the window and in the year before it."""
    past_turnover: list[float] | None
    """Least and largest turnover of the calibration windows; None if none has a whole year before it."""
    known_events: list[Annotated[dict[str, Any], Shaped(EventRecord)]]
    """From `--events`."""
    since: dict[str, str]
    """First window of the new level, by signal with an alarm."""
    cells: list[Annotated[dict[str, Any], Shaped(CellRecord)]]
    distributions: dict[str, dict[str, list[float]]]
    """By signal: mean histogram of the reference and of the last window."""
    config: dict[str, Any]
    versions: dict[str, str]
    licence_note: str = LICENCE


def cell_records(rows: list[Row], timings: bool = False) -> list[dict[str, Any]]:
    """Return rows as JSON values: NaN becomes null, timings are left out so that reports can be compared."""
    records = []
    for row in rows:
        record = {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in row.record().items()}
        if not timings:
            del record["ms"]
        records.append(record)
    return records


def write_tables(report: Report, rows: list[Row], out: Path) -> None:
    """Write `report.json` and the tables of a report into `out`."""
    (out / REPORT_NAME).write_text(report.model_dump_json(indent=1) + "\n", encoding="utf-8")
    pq.write_table(pa.Table.from_pylist([row.record() for row in rows]), out / CELLS_NAME, compression="zstd")
    (out / QUALITY_NAME).unlink(missing_ok=True)  # of an earlier report with a model
    if report.quality:
        pq.write_table(pa.Table.from_pylist(report.quality), out / QUALITY_NAME, compression="zstd")


def read_rows(path: Path) -> list[Row]:
    """Read `drift.parquet` back."""
    return [Row(**record) for record in pq.read_table(path).to_pylist()]
