"""Peers of `benchmarks.drift` on the same simulated windows: alibi-detect's detectors, and evidently's default rule.

alibi-detect runs as `drift.alibi` feeds it (one row a user, 500 users a side), and KSDrift also on all rows, as it is
commonly used. evidently is not installed here: its default rule for more than 1,000 rows (Wasserstein distance over the
reference's deviation of at least 0.1) is computed by SciPy.
"""

from __future__ import annotations

import time

import numpy as np
from scipy.stats import wasserstein_distance
from threadpoolctl import threadpool_limits

from benchmarks.drift_controls import layout_plan, still_context
from drift.alibi import run_detector
from drift.cells import Cell
from drift.config import DriftConfig
from drift.simulate import Plant, Simulated, simulate
from drift.windows import window_of
from ss4rec.data.windows import ragged

DETECTORS = ("ks", "cvm", "tabular", "chi2", "mmd", "lsdd", "classifier")


def rows_of(made: Simulated, window: int) -> np.ndarray:
    """Return `[rows, 2]`: stars and log10(1 + gap in seconds) of a window's events."""
    (times_E, offsets), (ratings_E, _) = (ragged(made.shard[name]) for name in ("timestamps", "ratings"))
    gap_E = np.diff(times_E, prepend=0)
    gap_E[offsets[:-1]] = 0
    inside = window_of(times_E, made.windows) == window
    return np.stack([ratings_E[inside], np.log10(1.0 + gap_E[inside])], axis=1).astype(np.float64)


def peer_alarms(task: tuple[Plant, int]) -> dict[str, bool]:
    """Return which peers call the last window drifted from the one before it."""
    from alibi_detect.cd import KSDrift

    plant, seed = task
    with threadpool_limits(1):
        made, last = simulate(plant, seed), plant.windows - 1
        context = still_context(made, layout_plan(made, [last - 1], last - 1, [last]), DriftConfig())
        found = {}
        for name in DETECTORS:
            row = run_detector(context, Cell("reference", last, f"alibi:{name}"))[0]
            found[f"alibi {name}, a row a user"] = row.p <= 0.05
        ref, cur = rows_of(made, last - 1), rows_of(made, last)
        found["alibi ks, all rows"] = bool(KSDrift(ref, p_val=0.05).predict(cur)["data"]["is_drift"])
        distances = [wasserstein_distance(r, c) / r.std() for r, c in zip(ref.T, cur.T, strict=True)]
        found["evidently's default rule, all rows"] = max(distances) >= 0.1
    return found


def tabular_seconds(made: Simulated) -> float:
    """Time alibi-detect's TabularDrift on the rows of two windows: 5 numbers and 3 categories."""
    from alibi_detect.cd import TabularDrift

    items_E, _ = ragged(made.shard["items"])
    times_E, _ = ragged(made.shard["timestamps"])
    window_E = window_of(times_E, made.windows)
    sides = []
    for window in (0, 1):
        items, rows = items_E[window_E == window], rows_of(made, window)
        more = (items % 10, items % 20, items, times_E[window_E == window] % 86_400, items**2, rows[:, 0] - 3)
        sides.append(np.column_stack([*more, rows]).astype(np.float64))
    started = time.perf_counter()
    detector = TabularDrift(sides[0], p_val=0.05, categories_per_feature={0: None, 1: None, 2: None})
    detector.predict(sides[1])
    return time.perf_counter() - started
