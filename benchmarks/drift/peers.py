"""Peers of `benchmarks.drift` on the same simulated windows: alibi-detect's detectors, and evidently's default rule.

alibi-detect runs as `drift.cells.alibi` feeds it (one row a user, 500 users a side), and KSDrift also on all rows, as it is
commonly used. evidently is no dependency: its default rule for more than 1,000 rows (Wasserstein distance over the
reference's deviation of at least 0.1, for stars and log gaps) is computed by SciPy. `--evidently PYTHON` names an
interpreter of an environment that has it; then evidently itself is timed, and its scores are compared with that rule.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from scipy.stats import wasserstein_distance

from benchmarks.drift.controls import layout_plan, still_context
from benchmarks.drift.simulate import Plant, Simulated, simulate
from drift.calendar import window_of
from drift.cells.alibi import run_detector
from drift.cells.types import Cell
from drift.config import DriftConfig
from ss4rec.data.batches.windows import ragged

DETECTORS = ("ks", "cvm", "tabular", "chi2", "mmd", "lsdd", "classifier")
KS_ROWS, EVIDENTLY = "alibi ks, all rows", "evidently's default rule, all rows"
COLUMNS = ("stars", "log_gap")


def rows_of(made: Simulated, windows: list[int]) -> np.ndarray:
    """Return `[rows, 2]`: stars and log10(1 + gap in seconds) of the events of some windows."""
    (times_E, offsets), (ratings_E, _) = (ragged(made.shard[name]) for name in ("timestamps", "ratings"))
    gap_E = np.diff(times_E, prepend=0)
    gap_E[offsets[:-1]] = 0
    inside = np.isin(window_of(times_E, made.windows), windows)
    return np.stack([ratings_E[inside], np.log10(1.0 + gap_E[inside])], axis=1).astype(np.float64)


def row_alarms(ref: np.ndarray, cur: np.ndarray) -> dict[str, bool]:
    """Return what the two tools say when they are fed with rows."""
    from alibi_detect.cd import KSDrift

    return {
        KS_ROWS: bool(KSDrift(ref, p_val=0.05).predict(cur)["data"]["is_drift"]),
        EVIDENTLY: max(evidently_scores(ref, cur)) >= 0.1,
    }


def evidently_scores(ref: np.ndarray, cur: np.ndarray) -> list[float]:
    """Return evidently's default score of each column: Wasserstein distance over the reference's deviation."""
    return [float(wasserstein_distance(r, c) / max(r.std(), 1e-3)) for r, c in zip(ref.T, cur.T, strict=True)]


def peer_alarms(plant: Plant, seed: int) -> dict[str, bool]:
    """Return which peers call the last window drifted from the one before it."""
    made, last = simulate(plant, seed), plant.windows - 1
    context = still_context(made, layout_plan(made, [last - 1], last - 1, [last]), DriftConfig())
    found = {}
    for name in DETECTORS:
        row = run_detector(context, Cell("reference", last, f"alibi:{name}"))[0]
        found[f"alibi {name}, a row a user"] = row.p <= 0.05
    return found | row_alarms(rows_of(made, [last - 1]), rows_of(made, [last]))


def timeline_alarms(made: Simulated, reference: list[int], future: list[int]) -> dict[str, int]:
    """Return how many windows of a timeline each tool flags when it is fed with rows."""
    ref = rows_of(made, reference)
    found = [row_alarms(ref, rows_of(made, [window])) for window in future]
    return {name: sum(alarms[name] for alarms in found) for name in (KS_ROWS, EVIDENTLY)}


def eight_columns(made: Simulated) -> list[np.ndarray]:
    """Return the rows of two windows: 3 categories (10, 20 and all items), then 5 numbers."""
    items_E, _ = ragged(made.shard["items"])
    times_E, _ = ragged(made.shard["timestamps"])
    window_E = window_of(times_E, made.windows)
    sides = []
    for window in (0, 1):
        items, rows = items_E[window_E == window], rows_of(made, [window])
        more = (items % 10, items % 20, items, times_E[window_E == window] % 86_400, items**2, rows[:, 0] - 3)
        sides.append(np.column_stack([*more, rows]).astype(np.float64))
    return sides


def tabular_seconds(sides: list[np.ndarray]) -> float:
    """Time alibi-detect's TabularDrift."""
    from alibi_detect.cd import TabularDrift

    started = time.perf_counter()
    detector = TabularDrift(sides[0], p_val=0.05, categories_per_feature={0: None, 1: None, 2: None})
    detector.predict(sides[1])
    return time.perf_counter() - started


def run_evidently(python: str, sides: dict[str, list[np.ndarray]], categories: int) -> dict[str, Any]:
    """Run evidently's DataDriftPreset in its own environment on pairs of tables.

    Args:
        python: interpreter that has evidently.
        sides: reference and current rows by name.
        categories: how many of the first columns are categories.

    Returns:
        By name: `seconds` (of the report alone) and `scores` by column.
    """
    with tempfile.TemporaryDirectory() as folder:
        for name, pair in sides.items():
            for side, rows in zip(("ref", "cur"), pair, strict=True):
                columns = {f"c{number}": column for number, column in enumerate(rows.T)}
                pq.write_table(pa.table(columns), Path(folder) / f"{name}-{side}.parquet")
        script = Path(__file__).with_name("evidently_peer.py")
        command = [python, str(script), folder, str(categories), *sides]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def same_as_evidently(python: str, plant: Plant, seeds: range) -> dict[str, Any]:
    """Compare the rule of `evidently_scores` with evidently itself on simulated windows."""
    pairs, last = {}, plant.windows - 1
    for seed in seeds:
        made = simulate(plant, seed)
        pairs[f"w{seed}"] = [rows_of(made, [last - 1]), rows_of(made, [last])]
    theirs = run_evidently(python, pairs, 0)
    gaps = [
        abs(theirs[name]["scores"][f"c{column}"] - score)
        for name, pair in pairs.items()
        for column, score in enumerate(evidently_scores(*pair))
    ]
    return {"windows": len(pairs), "largest_difference": max(gaps), "version": theirs["version"]}
