"""What a report holds: `report.json` (its JSON Schema lies beside this file), and the tables beside it.

How a program acts on a report, as `ss4rec watch` does, in one pure function of report and state:

    report = Report.load(folder)              # or what `drift.job.run_drift` returned
    report.schema_version                     # 2; a report of another version is refused with a DataError
    report.new_windows                        # windows that this report looked at for the first time
    verdicts = report.verdicts                # one `Verdict` each:
    verdicts.pipeline                         #   a fault of the pipeline: never retrain on it, look at the logging
    verdicts.data                             #   the inputs changed (taste, audience, catalogue), no fault
    verdicts.unseen                           #   share of events on items outside the model's catalogue
    verdicts.model_fall                       #   the model ranks worse than before the cut; None without a run
    verdicts.regret                           #   last year's popularity ranks better than the model; None without a run
    verdicts.lists                            #   the model recommends other things than before; None without a run

Each verdict has `severity` (the worst of all windows), `now` (the last window's), `new` (the worst of `new_windows`),
`since`, `sentence` and `action` (`look`, `retrain`, `wait` or `nothing`). `undecided` is an outcome of its own:
`wait_for` says what would decide. `report.episodes` are runs of alarmed windows with first, peak and last;
`report.changes` are the episodes that belong together under one name, such as "events logged twice".
`report.smallest_fall` is the smallest relative fall of HR@10 that would have been found in the last window.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, ValidationError

from drift.cells.types import Row
from drift.config import Severity
from drift.report.records import CellRecord, EventRecord, QualityRecord, Shaped, WindowRecord
from ss4rec.errors import DataError
from ss4rec.io.untrusted import read_json

SCHEMA_VERSION = 2
CELLS_NAME, QUALITY_NAME, REPORT_NAME = "drift.parquet", "quality.parquet", "report.json"
LICENCE = (
    "alibi-detect 0.13 is licensed under the Business Source License 1.1: non-production use only until four years "
    "after its release. It is optional here; every verdict of this report is computed without it."
)
ChangeKind = Literal["pipeline", "taste", "audience", "catalogue", "behaviour"]
Action = Literal["look", "retrain", "wait", "nothing"]


class Part(BaseModel):
    """A part of the report; unknown fields are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Episode(Part):
    """A run of windows in which one signal is beyond its threshold."""

    signal: str
    comparison: str
    """`reference`: another level than in the reference; `previous`: a jump from one window to the next."""
    first: str
    """First alarmed window."""
    peak: str
    """Window with the largest effect in multiples of its threshold."""
    last: str
    """Last alarmed window."""
    ongoing: bool
    """Whether the last window of the report is one of them."""
    severity: Severity
    effect: float
    """At the peak, in the distance's unit."""
    threshold: float
    """At the peak."""
    p_adj: float
    """At the peak, adjusted for all windows and tests of the report."""
    words: str
    """What changed, in plain units, before and after."""

    @property
    def ratio(self) -> float:
        """Effect at the peak in multiples of its threshold."""
        return self.effect / self.threshold if self.threshold else math.inf


class Change(Part):
    """Episodes that began together, and what they amount to."""

    name: str
    """Such as `events logged twice` or `genres`."""
    kind: ChangeKind
    """`pipeline`: a fault of logging or of the way of the data; the others: the world has changed."""
    first: str
    peak: str
    last: str
    ongoing: bool
    sudden: bool
    """Whether it came from one window to the next."""
    severity: Severity
    ratio: float
    """Largest effect in multiples of its threshold."""
    signals: list[str]
    """The signals that moved with it, the largest first."""
    sentence: str
    """What, how much, since when."""
    action: str
    """What to do."""
    details: list[str]
    """Which genres, films, users or hours make it up."""


class Verdict(Part):
    """The answer to one question."""

    severity: Severity
    """Worst of all windows."""
    now: Severity
    """Of the last window."""
    new: Severity
    """Worst of the windows that are new in this report."""
    since: str | None
    """First window of the latest episode, None without one."""
    sentence: str
    """What, how much, since when."""
    action: Action
    """`look` at the pipeline, `retrain`, `wait` for more data, or `nothing`."""
    wait_for: str = ""
    """Where it is undecided: what would decide."""


class Verdicts(Part):
    """One answer for each question that a person or a program asks."""

    pipeline: Verdict
    data: Verdict
    unseen: Verdict
    model_fall: Verdict | None
    regret: Verdict | None
    lists: Verdict | None = None


class Report(BaseModel):
    """The content of `report.json`; `drift/report/report.schema.json` is its JSON Schema."""

    model_config = ConfigDict(extra="forbid")

    schema_version: int = SCHEMA_VERSION
    headline: str
    verdict: Severity
    """Worst verdict over all windows; what makes the exit code is the worst over `new_windows`."""
    alert: Severity
    """Worst verdict over `new_windows`."""
    verdicts: Verdicts
    cut_s: int
    last_window: str
    new_windows: list[str]
    """Windows that this report looked at for the first time; all of them without `--since-last`."""
    reference: list[str]
    calibration: list[str]
    quality_reference: str | None
    """What the model's windows are compared with; None without a run."""
    smallest_fall: float | None
    """Smallest relative fall of HR@10 that would have been found in the last window in 80 of 100 cases."""
    quality: list[Annotated[dict[str, Any], Shaped(QualityRecord)]]
    """A record for each future window; empty without a run."""
    windows: list[Annotated[dict[str, Any], Shaped(WindowRecord)]]
    """Future windows; turnover is 1 - Jaccard of the 100 items rated most in the window and in the time before it."""
    past_turnover: list[float] | None
    """Smallest and largest turnover of the calibration windows; None if none has a whole year before it."""
    known_events: list[Annotated[dict[str, Any], Shaped(EventRecord)]]
    """From `--events`."""
    changes: list[Change]
    """The largest first."""
    episodes: list[Episode]
    """The largest first."""
    metadata: dict[str, Any] | None
    """Items whose title or genres differ from what the run or the report before knew; None: nothing to compare."""
    cells: list[Annotated[dict[str, Any], Shaped(CellRecord)]]
    levels: dict[str, list[float | None]]
    """By signal: its plain figure (`drift.report.words.level`) in the reference and in each window."""
    event_levels: dict[str, list[float | None]] = {}
    """The same with each event counting once instead of each user: what most of the traffic is like."""
    distributions: dict[str, dict[str, list[float]]]
    """By signal: labels aside, mean histogram per user of the reference and of each window."""
    config: dict[str, Any]
    versions: dict[str, str]
    licence_note: str = LICENCE

    @classmethod
    def load(cls, folder: Path) -> Report:
        """Read `report.json` of a folder.

        Raises:
            DataError: if it is missing, damaged or of another version.
        """
        try:
            raw = read_json(folder / REPORT_NAME)
            if raw.get("schema_version") != SCHEMA_VERSION:
                raise DataError(
                    f"{folder / REPORT_NAME} has version {raw.get('schema_version')}, this program reads "
                    f"{SCHEMA_VERSION}; run `ss4rec drift` again"
                )
            return cls.model_validate(raw)
        except (OSError, ValueError, AttributeError, ValidationError) as error:
            raise DataError(
                f"{folder / REPORT_NAME} is no report ({str(error).splitlines()[0]}); run `ss4rec drift` first"
            ) from None

    @property
    def incomplete(self) -> bool:
        """Whether a cell failed: a report with a hole is no all-clear."""
        return any(cell["status"] == "error" for cell in self.cells)


def cell_records(rows: list[Row]) -> list[dict[str, Any]]:
    """Return rows as JSON values: NaN becomes null, timings are left out so that reports can be compared."""
    records = []
    for row in rows:
        record = {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in row.record().items()}
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
