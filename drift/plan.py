"""Which windows are reference, calibration and future, and whether data and run keep their contract."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from drift.calendar import DAY_S, SECONDS, Window, calendar, full_windows, lookback
from drift.config import DriftConfig
from ss4rec.data.prepared.folder import PreparedFolder
from ss4rec.data.prepared.manifest import Manifest
from ss4rec.data.prepared.tables import ITEMS_NAME, read_items
from ss4rec.data.split import PAST, RECORD_NAME, SplitRecord
from ss4rec.errors import ContractError, UsageError
from ss4rec.io.atomic import sha256_of

CALIBRATION_WINDOWS, REFERENCE_WINDOWS = 20, 4
MAX_FUTURE = 2000
"""More windows than this are refused: no number of permutations could decide in any of them."""


@dataclass(frozen=True)
class Plan:
    """Indices into the calendar `windows`, each list rising."""

    windows: list[Window]
    cut_s: int
    reference: list[int]
    calibration: list[int]
    """Past windows for thresholds; holds the reference."""
    future: list[int]
    year_before: list[int] = field(default_factory=list)
    """The time before the reference: its users set the reference's popularity percentiles."""
    lookback: int = 4
    """Windows before one that say what was popular then (`drift.calendar.lookback`)."""

    first_s: int | None = None
    """First second of the data, None if it is not known."""

    @property
    def known_s(self) -> int | None:
        """How long the data went on before the reference, in seconds."""
        return None if self.first_s is None else self.windows[self.reference[0]].start_s - self.first_s

    @property
    def wanted(self) -> list[int]:
        """Every window whose histograms are made."""
        return sorted({*self.year_before, *self.reference, *self.calibration, *self.future})


def make_plan(config: DriftConfig, manifest: Manifest, cut_s: int) -> Plan:
    """Lay out the windows.

    Raises:
        UsageError: if no full window lies on one side of the cut, or a named window is not in the past.
    """
    first_s, last_s = manifest.first_time_s, manifest.last_time_s
    back = lookback(config.window)
    if config.window in SECONDS and config.reference is None:
        # Years of hours are of no use before the cut.
        enough = CALIBRATION_WINDOWS + back + 1
        first_s = max(first_s, cut_s + 1 - enough * SECONDS[config.window])
    windows = calendar(config.window, first_s, last_s, cut_s + 1 if config.anchor == "cut" else None)
    names = {window.name: number for number, window in enumerate(windows)}
    past = full_windows(windows, first_s, cut_s)
    slack_s = 0 if config.window in SECONDS else DAY_S
    future = [
        w for w in full_windows(windows, cut_s + 1, last_s, slack_s) if windows[w].end_s > cut_s + DAY_S
    ]
    if not past or not future:
        raise UsageError(
            f"{len(past)} full {config.window}s before and {len(future)} after the cut; both sides need one: "
            "choose a shorter window or another cut"
        )
    if len(future) > MAX_FUTURE:
        raise UsageError(
            f"{len(future):,} {config.window}s after the cut are more than {MAX_FUTURE:,}: choose a longer window"
        )

    def between(ends: tuple[str, str], field: str) -> list[int]:
        wrong = [name for name in ends if names.get(name) not in past]
        if wrong:
            raise UsageError(
                f"{field}: {wrong[0]} is no full {config.window} before the cut; there are "
                f"{windows[past[0]].name} to {windows[past[-1]].name}"
            )
        return [number for number in past if names[ends[0]] <= number <= names[ends[1]]]

    reference = between(config.reference, "reference") if config.reference else past[-REFERENCE_WINDOWS:]
    before = [number for number in past if number <= reference[-1]][-CALIBRATION_WINDOWS:]
    calibration = between(config.calibration, "calibration") if config.calibration else before
    year_before = list(range(max(0, reference[0] - back), reference[0]))
    return Plan(windows, cut_s, reference, calibration, future, year_before, back, manifest.first_time_s)


def check_contract(data: Path, split: SplitRecord, run: Path | None) -> None:
    """Check that the past ends at the cut and that the run was trained on exactly this past.

    What decides is what the run could see: items, histories and filters of the past. The source file may have grown
    since, as long as nothing was added to the past.

    Raises:
        ContractError: naming what differs.
    """
    past = PreparedFolder.open(data / PAST).manifest
    if past.last_time_s > split.cut_s:
        raise ContractError(
            f"{data / PAST} has an event at {past.last_time_s}, after the cut {split.cut_s}; split again"
        )
    if past.filters.cut_s != split.cut_s:
        raise ContractError(
            f"{data / PAST} was cut at {past.filters.cut_s}, {data / RECORD_NAME} says {split.cut_s}; split again"
        )
    if run is not None:
        _check_run(run, past, data, split)


def _check_run(run: Path, past: Manifest, data: Path, split: SplitRecord) -> None:
    """Check that the run has ended and was trained on exactly this past; raises as `check_contract`."""

    from ss4rec.runs.folder import ITEMS_FILE, RESULT_FILE, RunFolder
    from ss4rec.runs.record import is_same_data

    folder = RunFolder.open(run)
    record = folder.record()
    if not (run / RESULT_FILE).is_file():
        raise ContractError(
            f"run {run.name} has not finished its training (it has no {RESULT_FILE}), so its quality says nothing; "
            f"finish it with ss4rec train --data {data / PAST} --name {run.name}"
        )
    if record.cut_s != split.cut_s:
        raise ContractError(
            f"run {run.name} was trained on data cut at {record.cut_s}, {data} is cut at {split.cut_s}; "
            f"give the run that was trained on {data / PAST}"
        )
    same_items = sha256_of(run / ITEMS_FILE) == past.files[ITEMS_NAME].sha256
    # Where features are read, items that never trained are numbered last, and such as have none are left out.
    reads_features = record.columns.items is not None
    same_items |= reads_features and _are_among(read_items(run), read_items(data / PAST))
    if not same_items:
        raise ContractError(
            f"run {run.name} knows {record.num_items:,} items of {record.data_name}, {data / PAST} has "
            f"{past.items:,} others; give the run that was trained on {past.name}"
        )
    if not is_same_data(record, past):
        raise ContractError(
            f"run {run.name} was trained on another cut of {record.data_name}; train it on {data / PAST}"
        )


def _are_among(items: pa.Table, others: pa.Table) -> bool:
    """Return whether all items of one table are in the other."""
    ids, known = (table["source_id"].cast(pa.string()) for table in (items, others))
    return bool(pc.all(pc.is_in(ids, value_set=known.combine_chunks())).as_py())
