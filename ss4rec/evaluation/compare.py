"""Runs side by side: which recipe is better, for whom, and whether it is luck."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ss4rec.errors import UsageError
from ss4rec.evaluation.evaluator import PerUser, Seen, TargetTime
from ss4rec.evaluation.saved import MODEL, SavedEvaluation, load_evaluation
from ss4rec.evaluation.segments import MIN_USERS, metric_gains, segmentations
from ss4rec.evaluation.significance import ALPHA, Difference, compare_gains, holm
from ss4rec.runs.folder import RunFolder

FloatArray = npt.NDArray[np.float64]
K = 10
PROTOCOL_FIELDS = ("name", "seen", "target_time")
"""Fields of a protocol in which runs may differ: the first says nothing, the others are chosen for the comparison."""


@dataclass(frozen=True)
class Recipe:
    """Runs of one configuration that differ in their seed alone."""

    name: str
    runs: tuple[SavedEvaluation, ...]
    scorer: str = MODEL
    """Who ranked: the model, or a baseline by name."""

    def gains(self, metric: str, setting: tuple[Seen, TargetTime]) -> FloatArray:
        """Return the gain of each ranked event by each run, `[S, N]`."""
        return np.stack([metric_gains(metric, run.ranks_of(self.scorer, setting)) for run in self.runs])


@dataclass(frozen=True)
class Row:
    """One comparison of two recipes."""

    first: str
    second: str
    metric: str
    difference: Difference
    p_adjusted: float = 1.0
    segmentation: str = ""
    """Empty: all users."""
    segment: str = ""

    @property
    def is_found(self) -> bool:
        """Whether the difference is more than luck."""
        return self.p_adjusted <= ALPHA

    @property
    def too_small(self) -> bool:
        """Whether there are too few users to conclude anything."""
        return self.difference.users < MIN_USERS


@dataclass(frozen=True)
class Comparison:
    """Everything that is known about some recipes on the same users."""

    recipes: tuple[Recipe, ...]
    setting: tuple[Seen, TargetTime]
    metrics: tuple[str, ...]
    notes: tuple[str, ...]
    """What differs between the runs and does not forbid to compare them."""
    rows: tuple[Row, ...] = ()
    """All users: every pair by every metric, adjusted together."""
    segments: tuple[Row, ...] = ()
    """By segment, the first metric; adjusted together, those that are too small left out."""
    seed: int = field(default=0, repr=False)

    @cached_property
    def reference(self) -> SavedEvaluation:
        """Return the evaluation whose users, items and segments stand for all."""
        return self.recipes[0].runs[0]


def compare_runs(
    paths: Sequence[Path],
    *,
    name: str = "test",
    setting: tuple[Seen, TargetTime] | None = None,
    metrics: Sequence[str] | None = None,
    all_pairs: bool = False,
    seed: int = 0,
) -> Comparison:
    """Compare runs, paired by user. One run alone is compared with its best baseline.

    Args:
        paths: run folders; those that differ in `train.seed` alone are one recipe. If all do, runs are compared.
        name: which evaluation of theirs (`test`, `valid`, or one by another protocol).
        setting: whether seen items stay and the target's time is known; None: as the first run's protocol says.
        metrics: names as `NDCG@10`, the most important one first.
        all_pairs: compare every pair of recipes, not only each with the first.
        seed: seed of permutations and bootstrap.

    Raises:
        DataError: if a run has no such evaluation.
        UsageError: if runs were ranked on different users, items or protocols, saying what differs; for an unknown
            metric.
    """
    metrics = tuple(metrics or (f"NDCG@{K}", f"HR@{K}", f"MRR@{K}"))
    runs = [load_evaluation(Path(path), name) for path in paths]
    if len({run.run.resolve() for run in runs}) < len(runs):
        raise UsageError("a run is given twice; give different runs")
    notes = [note for run in runs[1:] for note in require_comparable(runs[0], run)]
    setting = setting or runs[0].setting
    recipes = group_by_seed(runs) if len(runs) > 1 else _with_best_baseline(runs[0], setting, metrics[0])
    if len(recipes) < 2:
        recipes = [Recipe(run.run.name, (run,)) for run in runs]
        notes.append(
            "the runs are of one recipe and differ in their seed alone: each is compared with the first"
        )
    found = Comparison(tuple(recipes), setting, metrics, tuple(dict.fromkeys(notes)), seed=seed)
    pairs = list(combinations(recipes, 2)) if all_pairs else [(recipes[0], other) for other in recipes[1:]]
    try:
        return replace(found, rows=_over_all(found, pairs), segments=_by_segment(found, pairs))
    except ValueError as error:
        raise UsageError(str(error)) from None


def require_comparable(first: SavedEvaluation, other: SavedEvaluation) -> list[str]:
    """Check that two runs ranked the same events of the same users among the same items; return what differs otherwise.

    Raises:
        UsageError: saying what differs.
    """
    names = f"{first.run.name} and {other.run.name}"
    own, theirs = (
        run.record.protocol.model_dump(mode="json", exclude=set(PROTOCOL_FIELDS)) for run in (first, other)
    )
    differ = {field: (own[field], theirs[field]) for field in own if own[field] != theirs[field]}
    training = first.record.protocol.training()
    tests = {field: values for field, values in differ.items() if field not in training}
    if first.record.split != other.record.split or tests:
        what = "; ".join(f"{field} is {a} and {b}" for field, (a, b) in tests.items())
        raise UsageError(
            f"{names} were ranked by different protocols: {what or 'test and validation events'}"
        )
    if not first.items["source_id"].equals(other.items["source_id"]):
        raise UsageError(
            f"{names} rank different items ({first.items.num_rows:,} and {other.items.num_rows:,}); train both on the "
            "same prepared folder"
        )
    columns = ["user", "target", "target_time"]
    if not first.targets.select(columns).equals(other.targets.select(columns)):
        users = [len(np.unique(run.targets["user"].to_numpy())) for run in (first, other)]
        events = [run.targets.num_rows for run in (first, other)]
        same = "the same" if first.record.data_sha256 == other.record.data_sha256 else "not the same"
        raise UsageError(
            f"{names} were ranked on different events: {users[0]:,} and {users[1]:,} users, {events[0]:,} and "
            f"{events[1]:,} events, data {first.record.data_name} and {other.record.data_name} ({same} files); "
            "evaluate both with the same --data and --protocol"
        )
    return [f"{names} differ in protocol.{field}: {a} and {b}" for field, (a, b) in differ.items()]


def group_by_seed(runs: Sequence[SavedEvaluation]) -> list[Recipe]:
    """Put runs together whose configurations differ in nothing but the seed, in the order given."""
    groups: dict[str, list[SavedEvaluation]] = {}
    for run in runs:
        groups.setdefault(_without_seed(RunFolder.open(run.run).config().model_dump(mode="json")), []).append(
            run
        )
    names = _names([[run.run.name for run in group] for group in groups.values()])
    return [Recipe(name, tuple(group)) for name, group in zip(names, groups.values(), strict=True)]


def user_gains(
    recipe: Recipe, metric: str, setting: tuple[Seen, TargetTime], rows: npt.NDArray[np.int64] | None = None
) -> FloatArray:
    """Return the mean gain of each user by each run of a recipe, `[S, U]`, over some of the ranked events."""
    users_N = recipe.runs[0].targets["user"].to_numpy()
    gains_SN = recipe.gains(metric, setting)
    if rows is not None:
        users_N, gains_SN = users_N[rows], gains_SN[:, rows]
    by_user = PerUser(users_N)
    return np.stack([by_user.mean(gains_N) for gains_N in gains_SN])


def words(row: Row) -> str:
    """Say a comparison as one would aloud, as "B finds the next item for 12 more users in 1,000 (95 %: 8 to 16)"."""
    difference, k = row.difference, row.metric.partition("@")[2]
    if not row.is_found:
        return (
            f"No difference between {row.first} and {row.second} that could not be luck ({row.metric} "
            f"{difference.first:.4f} and {difference.second:.4f}, p {_p(row.p_adjusted)})"
        )
    better, worse = (row.second, row.first) if difference.mean > 0 else (row.first, row.second)
    low, high = sorted(
        (difference.low, difference.high) if difference.mean > 0 else (-difference.low, -difference.high)
    )
    size = abs(difference.mean)
    if row.metric.startswith("HR@"):
        return (
            f"{better} finds the next item among its first {k} for {1000 * size:.0f} more users in 1,000 than {worse} "
            f"(95 %: {1000 * low:.0f} to {1000 * high:.0f}; p {_p(row.p_adjusted)})"
        )
    return (
        f"{better} has a higher {row.metric} than {worse}: {max(difference.first, difference.second):.4f} against "
        f"{min(difference.first, difference.second):.4f}, {size:+.4f} (95 %: {low:+.4f} to {high:+.4f}; "
        f"p {_p(row.p_adjusted)})"
    )


def _p(p: float) -> str:
    return f"= {p:.4f}" if p >= 0.001 else "< 0.001"


def _over_all(found: Comparison, pairs: Sequence[tuple[Recipe, Recipe]]) -> tuple[Row, ...]:
    rows = []
    for metric in found.metrics:
        gains = {recipe.name: user_gains(recipe, metric, found.setting) for recipe in found.recipes}
        for first, second in pairs:
            difference = compare_gains(gains[first.name], gains[second.name], found.seed)
            rows.append(Row(first.name, second.name, metric, difference))
    return _adjusted(rows)


def _by_segment(found: Comparison, pairs: Sequence[tuple[Recipe, Recipe]]) -> tuple[Row, ...]:
    """Compare each pair within each group of users that has any."""
    users_N = found.reference.targets["user"].to_numpy()
    gains = {recipe.name: recipe.gains(found.metrics[0], found.setting) for recipe in found.recipes}
    rows = []
    for segmentation in segmentations(found.reference.targets, found.reference.items):
        for code, label in enumerate(segmentation.labels):
            members = segmentation.rows(code)
            if not len(members):
                continue
            by_user = PerUser(users_N[members])
            sides = {
                name: np.stack([by_user.mean(g_N) for g_N in g_SN[:, members]])
                for name, g_SN in gains.items()
            }
            for first, second in pairs:
                difference = compare_gains(sides[first.name], sides[second.name], found.seed)
                rows.append(
                    Row(first.name, second.name, found.metrics[0], difference, 1.0, segmentation.name, label)
                )
    return _adjusted(rows)


def _adjusted(rows: Sequence[Row]) -> tuple[Row, ...]:
    """Adjust p values for all rows that are large enough; the others keep 1."""
    large = [row for row in rows if not row.too_small or not row.segmentation]
    adjusted = iter(holm([row.difference.p for row in large]))
    return tuple(replace(row, p_adjusted=next(adjusted)) if row in large else row for row in rows)


def _with_best_baseline(run: SavedEvaluation, setting: tuple[Seen, TargetTime], metric: str) -> list[Recipe]:
    baselines = [name for name in run.scorers if name != MODEL]
    if not baselines:
        raise UsageError(f"{run.run.name} has no baselines to compare it with; give another run")
    best = max(baselines, key=lambda name: float(metric_gains(metric, run.ranks_of(name, setting)).mean()))
    return [Recipe(best, (run,), best), Recipe(run.run.name, (run,))]


def _without_seed(config: dict[str, Any]) -> str:
    config = {**config, "train": {key: value for key, value in config["train"].items() if key != "seed"}}
    return repr({key: value for key, value in sorted(config.items()) if key not in ("resources", "tracking")})


def _names(groups: Sequence[Sequence[str]]) -> list[str]:
    """Return a short name per recipe: the run's, or what the runs' names have in common."""
    found = []
    for names in groups:
        common = "".join(c[0] for c in _common(names)).rstrip("-_. ") if len(names) > 1 else names[0]
        found.append(common.removesuffix("-seed") or names[0])
    return [name if found.count(name) == 1 else f"{name} ({number})" for number, name in enumerate(found, 1)]


def _common(names: Sequence[str]) -> list[tuple[str, ...]]:
    letters = []
    for column in zip(*names, strict=False):
        if len(set(column)) > 1:
            break
        letters.append(column)
    return letters
