"""Which cells a report has, and how one is computed: by our own test or by a detector of alibi-detect."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

from drift.cells.compare import compare
from drift.cells.types import (
    ALIBI,
    ALL_SIGNALS,
    CONTROL,
    PREVIOUS,
    REFERENCE,
    RETURNING,
    Cell,
    CellContext,
    Row,
)
from drift.plan import Plan

ALIBI_PAST = 4
"""Past windows that say what alibi-detect's statistics are without news."""


def all_cells(plan: Plan, windows: Sequence[int]) -> list[Cell]:
    """Return the cells of these future windows, and the control."""
    kinds = (REFERENCE, RETURNING, PREVIOUS)
    cells = [Cell(kind, window) for kind in kinds for window in windows]
    return [*cells, Cell(CONTROL, plan.reference[0])]


def alibi_cells(context: CellContext, windows: Sequence[int]) -> list[Cell]:
    """Return the cells of alibi-detect: the last windows, each past window against another, and the control."""
    plan, config = context.plan, context.config
    seen = list(windows)[-config.alibi_windows :]
    past = [window for window in plan.calibration if window not in plan.reference][-ALIBI_PAST:]
    todo = [Cell(REFERENCE, window) for window in [*past, *seen]] + [Cell(CONTROL, plan.reference[0])]
    return (
        [replace(cell, detector=f"{ALIBI}{name}") for name in config.alibi for cell in todo] if seen else []
    )


def run_cell(context: CellContext, cell: Cell) -> list[Row]:
    """Compute a cell. Whatever goes wrong becomes a row that says so: silence would read as `no drift`."""
    started = time.perf_counter()
    try:
        if cell.detector.startswith(ALIBI):
            from drift.cells.alibi import run_detector

            rows = run_detector(context, cell)
        else:
            rows = compare(context, cell)
    except Exception as error:
        rows = [Row(context.name(cell.window), cell.comparison, cell.detector, ALL_SIGNALS, status="error")]
        rows[0].error = f"{type(error).__name__}: {error}"[:500]
    for row in rows:
        row.ms = 1000 * (time.perf_counter() - started)
    return rows
