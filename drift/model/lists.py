"""What the model recommends, window by window: how sure it is, and whether its lists are other ones than before.

One list of ten a user, before the last target. Coverage is what lists of equally many users hold, since more users
always hold more.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from scipy.special import gammaln

from drift.config import DriftConfig, Severity
from drift.model.names import MODEL, K
from drift.stats.resampling import at_least, drop_test, holm
from ss4rec.evaluation.metrics import hit_rate

COVERAGE = "coverage"
LISTS = (COVERAGE, "list_popularity", "novelty", "miscalibration")
WORDS = {
    COVERAGE: "share of the catalogue that is recommended to equally many users",
    "list_popularity": "popularity of what is recommended",
    "novelty": "novelty of what is recommended, in bits",
    "miscalibration": "distance of the lists' genres from the users' own, in bits",
}
COVERAGE_PERMUTATIONS = 400
MIN_CHANGE = 0.10
"""Relative change of a figure from which it is `drift`."""


def beliefs(table: pa.Table, vocabulary: int, users: int) -> dict[str, Any]:
    """Return how sure the model is, and what its lists are like.

    Args:
        table: targets of one window.
        vocabulary: items of the model.
        users: number of users whose lists make up the coverage.
    """
    table = with_lists(table)
    if not table.num_rows:
        return dict.fromkeys(("top10_mass", "calibration_gap", "entropy", *LISTS))
    found: dict[str, Any] = {name: _mean(table[name]) for name in ("top10_mass", "entropy", *LISTS[1:])}
    hits = float(hit_rate(table[MODEL].to_numpy(), K))
    found["calibration_gap"] = None if found["top10_mass"] is None else found["top10_mass"] - hits
    return found | {COVERAGE: coverage(_items(table), users, vocabulary)}


def with_lists(table: pa.Table) -> pa.Table:
    """Return the rows that have a list: the last target of each user."""
    return table.filter(pc.is_valid(table["top10"]))


def coverage(items_NK: NDArray[np.integer[Any]], users: int, vocabulary: int) -> float:
    """Return the share of the catalogue in the lists of `users` users, in the mean over all draws of so many."""
    total, drawn = len(items_NK), min(users, len(items_NK))
    lists_X = np.bincount(items_NK.ravel())
    lists_X = lists_X[lists_X > 0]
    rest_X = total - lists_X
    # An item in k of n lists is in none of m with the chance C(n - k, m) / C(n, m).
    log_X = (
        gammaln(rest_X + 1)
        - gammaln(np.maximum(rest_X - drawn, 0) + 1)
        - gammaln(total + 1)
        + gammaln(total - drawn + 1)
    )
    missed_X = np.where(rest_X >= drawn, np.exp(log_X), 0.0)
    return float((1 - missed_X).sum() / vocabulary)


def list_tests(
    ref: pa.Table, cur: pa.Table, users: int, vocabulary: int, config: DriftConfig, rng: np.random.Generator
) -> dict[str, Any]:
    """Return the two-sided p that the lists of two windows differ, and what the figures were before."""
    ref, cur = with_lists(ref), with_lists(cur)
    found: dict[str, Any] = {
        f"{name}.before": value for name, value in beliefs(ref, vocabulary, users).items() if name in LISTS
    }
    for name in LISTS[1:]:
        sides = [table[name].drop_null().to_numpy() for table in (ref, cur)]
        found[f"{name}.p"] = None
        if min(map(len, sides)) >= 2:
            p = drop_test(sides[0], sides[1], config.permutations, rng)
            found[f"{name}.p"] = min(1.0, 2 * min(p, 1 - p + 1 / (1 + config.permutations)))
    enough = min(ref.num_rows, cur.num_rows) >= 2
    found[f"{COVERAGE}.p"] = _coverage_p(_items(ref), _items(cur), users, vocabulary, rng) if enough else None
    return found


def _coverage_p(
    ref_NK: NDArray[np.integer[Any]],
    cur_MK: NDArray[np.integer[Any]],
    users: int,
    vocabulary: int,
    rng: np.random.Generator,
) -> float:
    """Return the p of a difference of coverage, by permutation of whole lists."""
    pooled = np.concatenate([ref_NK, cur_MK])

    def gap(order: NDArray[np.int64]) -> float:
        sides = pooled[order[: len(ref_NK)]], pooled[order[len(ref_NK) :]]
        first, second = (coverage(side, users, vocabulary) for side in sides)
        return abs(first - second)

    null = np.array([gap(rng.permutation(len(pooled))) for _ in range(COVERAGE_PERMUTATIONS)])
    return float(at_least(np.array([gap(np.arange(len(pooled)))]), null[:, None] + 1e-12)[0])


def without_tests() -> dict[str, Any]:
    """Return the fields of `list_tests` for the reference itself."""
    return {f"{name}.{end}": None for name in LISTS for end in ("p", "before")}


def judge_lists(records: Sequence[dict[str, Any]], config: DriftConfig) -> None:
    """Adjust the p of each figure for the windows and the figures, and rule on each window."""
    for name in LISTS:
        p_W1 = np.array([[np.nan if r[f"{name}.p"] is None else r[f"{name}.p"]] for r in records], float)
        adjusted_W = np.minimum(1.0, len(LISTS) * holm(p_W1, config.planned_windows)[:, 0])
        for record, p in zip(records, adjusted_W.tolist(), strict=True):
            record[f"{name}.p_adj"] = None if np.isnan(p) else p
    for record in records:
        record["lists.severity"] = _severity(record, config)


def changed(record: dict[str, Any], config: DriftConfig) -> list[str]:
    """Return the figures whose change is significant, the largest first."""
    found = [n for n in LISTS if record[f"{n}.p_adj"] is not None and record[f"{n}.p_adj"] <= config.alpha]
    return sorted(found, key=lambda name: -relative_change(record, name))


def relative_change(record: dict[str, Any], name: str) -> float:
    """Return the size of a figure's change in parts of what it was."""
    before = record[f"{name}.before"]
    return float(abs(record[name] - before) / max(abs(before), 1e-12))


def _severity(record: dict[str, Any], config: DriftConfig) -> Severity:
    if all(record[f"{name}.p"] is None for name in LISTS):
        return "none"
    if record["n_users"] < config.min_users:
        return "undecided"
    found = changed(record, config)
    if not found:
        return "none"
    return "drift" if relative_change(record, found[0]) >= MIN_CHANGE else "noted"


def _items(table: pa.Table) -> NDArray[np.integer[Any]]:
    """Return the lists, `[users, K]`."""
    lists = table["top10"].combine_chunks()
    return np.asarray(lists.flatten().to_numpy().reshape(len(lists), -1))


def _mean(column: pa.ChunkedArray) -> float | None:
    return None if column.null_count == len(column) else float(pc.mean(column).as_py())
