"""Model drift: how well a trained model ranks each window's events, with intervals, baselines and what could be found.

The unit is the user: a user's figure is the mean over up to 20 targets, and each user counts once. The reference is
what was held out of training before the cut, or the first window where too few users have that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from scipy import stats

from drift.config import DriftConfig, Severity
from drift.model.lists import beliefs, judge_lists, list_tests, with_lists, without_tests
from drift.model.names import BEFORE_CUT, MODEL, RANKINGS, ROLLING, K
from drift.stats.distances import Array
from drift.stats.mmd import mmd_test
from drift.stats.resampling import drop_test, holm, paired_test
from ss4rec.evaluation.bootstrap import bootstrap_mean
from ss4rec.evaluation.metrics import hit_rate, ndcg, reciprocal_rank

HISTORY_EDGES = (20, 100)
MMD_USERS, MMD_PERMUTATIONS = 500, 400
GROUPS = ("all", "known_items", "known_users")
"""All events; those on items of the vocabulary; those of them by users who had an event by the cut."""
METRICS = (hit_rate, ndcg, reciprocal_rank)
UNDECIDED_FALL = 0.5
"""If nothing was found, and only a relative fall of more than this could have been, the verdict is `undecided`."""
POWER = 0.8
"""Chance with which the smallest fall that is named would have been found."""
HIT = f"all.{hit_rate.name}@{K}"


@dataclass(frozen=True)
class Quality:
    """The model's side of a report."""

    records: list[dict[str, Any]] = field(default_factory=list)
    """One for each window."""
    compared_with: str | None = None
    """What the windows are compared with; None without a run."""
    ranks: pa.Table | None = None
    """A row for each target; users by their stable key."""


@dataclass(frozen=True)
class UserMeans:
    """Targets of one window with the weight that makes each user count once."""

    table: pa.Table
    user_X: NDArray[np.int64]
    weight_X: Array
    """1 over the user's number of targets."""

    @classmethod
    def of(cls, table: pa.Table) -> UserMeans:
        """Number the users."""
        _, user_X, counts = np.unique(table["user"].to_numpy(), return_inverse=True, return_counts=True)
        return cls(table, user_X, 1 / counts[user_X])

    @property
    def users(self) -> int:
        """Number of users."""
        return int(self.user_X.max(initial=-1)) + 1

    def hits(self, ranking: str) -> NDArray[np.float64]:
        """Return each user's HR@10 by one of the rankings."""
        gains_X = hit_rate.gains(self.table[ranking].to_numpy(), K)
        return self.mean_by_user(gains_X)

    def mean_by_user(self, values_X: Array) -> NDArray[np.float64]:
        """Return the mean of a target's value for each user."""
        return np.bincount(self.user_X, values_X * self.weight_X, self.users).astype(np.float64)


def decompose(
    ref_N: Array,
    ref_stratum_N: NDArray[Any],
    cur_M: Array,
    cur_stratum_M: NDArray[Any],
    ref_weight_N: Array | None = None,
    cur_weight_M: Array | None = None,
) -> tuple[float, float]:
    """Split mean(cur) - mean(ref) into a mix and a within-stratum part; they add up exactly (Kitagawa 1955).

    A stratum that one side lacks has no rate there; the other side's stands in, so its whole effect is mix.
    """
    sides = [
        (values, strata_, np.ones(len(values)) if weights is None else weights)
        for values, strata_, weights in (
            (ref_N, ref_stratum_N, ref_weight_N),
            (cur_M, cur_stratum_M, cur_weight_M),
        )
    ]
    mix = within = 0.0
    for stratum in np.union1d(ref_stratum_N, cur_stratum_M):
        share, means = [], []
        for values, strata_, weights in sides:
            inside = strata_ == stratum
            share.append(weights[inside].sum() / weights.sum())
            means.append(float(np.average(values[inside], weights=weights[inside])) if inside.any() else None)
        ref_rate = means[0] if means[0] is not None else means[1]
        cur_rate = means[1] if means[1] is not None else means[0]
        assert ref_rate is not None
        assert cur_rate is not None
        mix += (share[1] - share[0]) * (ref_rate + cur_rate) / 2
        within += (cur_rate - ref_rate) * (share[0] + share[1]) / 2
    return float(mix), float(within)


def strata(ranks: pa.Table) -> NDArray[np.int64]:
    """Return the stratum of each target: unseen item, known user, band of history length."""
    band = np.searchsorted(HISTORY_EDGES, ranks["history"].to_numpy())
    flags = [ranks[name].to_numpy(zero_copy_only=False).astype(np.int64) for name in ("unseen", "known")]
    return np.asarray(flags[0] * 100 + flags[1] * 10 + band)


def summarise(
    ranks: pa.Table,
    windows: Sequence[tuple[int, str]],
    config: DriftConfig,
    vocabulary: int,
    retrained: pa.Table | None = None,
) -> tuple[list[dict[str, Any]], str]:
    """Return one record for each window, and what they are compared with.

    p are one-sided, by permutation of users, and adjusted for the windows (Holm).

    Args:
        ranks: what `drift.model.rank` returned for all windows, held-out events before the cut included.
        windows: number and name of each window, in order of time.
        config: limits.
        vocabulary: items of the model.
        retrained: ranks of the same targets by models that were trained later (but before each window).
    """
    ranks = ranks.sort_by([("window", "ascending"), ("user", "ascending"), ("event_s", "ascending")])
    parts = {window: _of(ranks, window) for window in [BEFORE_CUT, *(window for window, _ in windows)]}
    kept = [(window, name) for window, name in windows if parts[window].users >= 2]
    if not kept:
        return [], "nothing: no user of any window could be ranked for"
    held_out = parts[BEFORE_CUT].users >= config.min_users
    reference = parts[BEFORE_CUT] if held_out else parts[kept[0][0]]
    compared = (
        f"{reference.users:,} users' last events before the cut, which training did not see"
        if held_out
        else f"the first window, {kept[0][1]}: only {parts[BEFORE_CUT].users:,} users have a held-out event before "
        f"the cut, {config.min_users:,} are asked for"
    )
    list_users = min(with_lists(side.table).num_rows for side in (reference, *(parts[w] for w, _ in kept)))
    records = [
        _record(
            parts[window],
            None if parts[window] is reference else reference,
            window,
            name,
            config,
            vocabulary,
            retrained,
            list_users,
        )
        for window, name in kept
    ]
    judge_lists(records, config)
    base = float(reference.hits(MODEL).mean())
    for end in ("", "regret.", "hidden_"):
        adjusted = holm(np.array([[record[f"{end}p"]] for record in records]), config.planned_windows)
        for record, p_adj in zip(records, adjusted[:, 0].tolist(), strict=True):
            record[f"{end}p_adj"] = p_adj
    count = max(len(records), config.planned_windows)
    for record in records:
        record["reference"] = base
        record["smallest_fall"] = _smallest_fall(record, reference, parts, kept, base, config.alpha / count)
        record["severity"] = quality_severity(record, reference.users, config)
        record["regret.severity"] = regret_severity(record, config)
    return records, compared


def _of(ranks: pa.Table, window: int) -> UserMeans:
    return UserMeans.of(ranks.filter(pc.equal(ranks["window"], window)))


def _record(
    part: UserMeans,
    reference: UserMeans | None,
    window: int,
    name: str,
    config: DriftConfig,
    vocabulary: int,
    retrained: pa.Table | None,
    list_users: int,
) -> dict[str, Any]:
    """Return the figures of one window; `reference` None: it is the reference itself."""
    rng = np.random.default_rng([config.seed, window, 7])
    record: dict[str, Any] = {"window": name, "n_users": part.users, "targets": part.table.num_rows}
    for group, mask_X in _groups(part.table).items():
        record |= _metrics(group, part, mask_X, config, rng)
    shuffled = part.table.filter(pc.is_finite(part.table["shuffled"]))
    for ranking in RANKINGS[1:]:
        side = UserMeans.of(shuffled) if ranking == "shuffled" else part
        record[f"{ranking}.HR@{K}"] = float(side.hits(ranking).mean()) if side.users else None
    record |= _regret(part, config, rng) | _retrained(part, retrained, window, config, rng)
    record |= beliefs(part.table, vocabulary, list_users)
    if reference is None:
        blank = {"mix": 0.0, "within": 0.0, "drop": 0.0, "p": float("nan"), "hidden_mmd2": 0.0}
        return record | blank | {"hidden_p": float("nan"), **without_tests()}
    base_N, hits_N = reference.hits(MODEL), part.hits(MODEL)
    sides = [side.table for side in (reference, part)]
    gains = [hit_rate.gains(side[MODEL].to_numpy(), K) for side in sides]
    record["mix"], record["within"] = decompose(
        gains[0], strata(sides[0]), gains[1], strata(sides[1]), reference.weight_X, part.weight_X
    )
    record["drop"] = float(1 - hits_N.mean() / base_N.mean()) if base_N.mean() else 0.0
    record["p"] = drop_test(base_N, hits_N, config.permutations, rng)
    record["hidden_mmd2"], record["hidden_p"] = _hidden_test(sides[0], sides[1], rng)
    return record | list_tests(sides[0], sides[1], list_users, vocabulary, config, rng)


def _smallest_fall(
    record: dict[str, Any],
    reference: UserMeans,
    parts: dict[int, UserMeans],
    kept: Sequence[tuple[int, str]],
    base: float,
    alpha: float,
) -> float | None:
    """Return the smallest relative fall that a test at level `alpha` finds with a chance of `POWER` (normal theory)."""
    part = next(parts[window] for window, name in kept if name == record["window"])
    sides = [side.hits(MODEL) for side in (reference, part)]
    if part is reference or base <= 0 or min(map(len, sides)) < 2:
        return None
    error = np.sqrt(sum(side.var(ddof=1) / len(side) for side in sides))
    return float((stats.norm.ppf(1 - alpha) + stats.norm.ppf(POWER)) * error / base)


def _regret(part: UserMeans, config: DriftConfig, rng: np.random.Generator) -> dict[str, Any]:
    """Return how much better last year's popularity is than the model on the same targets, user by user."""
    behind_N = part.hits(ROLLING) - part.hits(MODEL)
    low, high = bootstrap_mean(behind_N, rng, samples=config.bootstrap, level=config.level)
    return {
        "regret": float(behind_N.mean()),
        "regret.low": low,
        "regret.high": high,
        "regret.p": paired_test(behind_N, config.permutations, rng),
    }


def _retrained(
    part: UserMeans, retrained: pa.Table | None, window: int, config: DriftConfig, rng: np.random.Generator
) -> dict[str, Any]:
    """Return what retrained models gain over the frozen one on the same targets, paired by user."""
    names = (f"retrained.HR@{K}", "retrained.gain", "retrained.low", "retrained.high", "retrained.p")
    none: dict[str, Any] = {**dict.fromkeys(names), "retrained.users": 0}
    if retrained is None:
        return none
    theirs = retrained.filter(pc.equal(retrained["window"], window)).select(["user", "event_s", MODEL])
    # Two events of a user in one second are one target here: their ranks are averaged on both sides.
    keys = ["user", "event_s"]
    sides = []
    for table in (part.table, theirs):
        hits = pa.array(hit_rate.gains(table[MODEL].to_numpy(), K))
        named = pa.table({"user": table["user"], "event_s": table["event_s"], "hit": hits})
        sides.append(named.group_by(keys).aggregate([("hit", "mean")]))
    both = sides[0].join(sides[1], keys, join_type="inner", right_suffix="_theirs")
    if not both.num_rows:
        return none
    means = both.group_by("user").aggregate([("hit_mean", "mean"), ("hit_mean_theirs", "mean")])
    means = means.sort_by("user")
    ours_N, theirs_N = (means[name].to_numpy() for name in ("hit_mean_mean", "hit_mean_theirs_mean"))
    gain_N = theirs_N - ours_N
    low, high = bootstrap_mean(gain_N, rng, samples=config.bootstrap, level=config.level)
    p = paired_test(gain_N, config.permutations, rng)
    return dict(zip(names, (float(theirs_N.mean()), float(gain_N.mean()), low, high, p), strict=True)) | {
        "retrained.users": len(gain_N)
    }


def _hidden_test(ref: pa.Table, cur: pa.Table, rng: np.random.Generator) -> tuple[float, float]:
    """Return MMD^2 of the last hidden states, one per user, and its p."""
    sides = [hidden_states(table)[:MMD_USERS] for table in (ref, cur)]
    if min(map(len, sides)) < 10:
        return 0.0, float("nan")
    return mmd_test(sides[0], sides[1], MMD_PERMUTATIONS, rng)


def hidden_states(table: pa.Table) -> Array:
    """Return the hidden states of a table's users, `[users, D]`."""
    states = table["hidden"].drop_null()
    return np.stack(states.to_pylist()) if len(states) else np.zeros((0, 1))


def quality_severity(record: dict[str, Any], n_ref: int, config: DriftConfig) -> Severity:
    """Return the verdict of a window: a drop that is significant, and large against the reference."""
    if min(record["n_users"], n_ref) < config.min_users:
        return "undecided"
    if not record["p_adj"] <= config.alpha:
        could = record.get("smallest_fall")
        return "undecided" if could is not None and could > UNDECIDED_FALL else "none"
    if record["drop"] < config.quality_drop:
        return "noted"
    return "severe" if record["drop"] >= config.quality_severe else "drift"


def regret_severity(record: dict[str, Any], config: DriftConfig) -> Severity:
    """Return whether rolling popularity ranks better than the model, and by how much of its own quality."""
    if record["n_users"] < config.min_users:
        return "undecided"
    if not record["regret.p_adj"] <= config.alpha:
        return "none"
    share = record["regret"] / max(record[f"{ROLLING}.HR@{K}"], 1e-12)
    if share < config.quality_drop:
        return "noted"
    return "severe" if share >= config.quality_severe else "drift"


def _groups(table: pa.Table) -> dict[str, NDArray[np.bool_]]:
    seen, known = (
        table[name].to_numpy(zero_copy_only=False) != flip
        for name, flip in (("unseen", True), ("known", False))
    )
    return dict(zip(GROUPS, (np.ones(table.num_rows, bool), seen, known & seen), strict=True))


def _metrics(
    group: str, part: UserMeans, mask_X: NDArray[np.bool_], config: DriftConfig, rng: np.random.Generator
) -> dict[str, float | None]:
    """Return mean over users and interval of each metric; None where the group is empty."""
    side = UserMeans.of(part.table.filter(pa.array(mask_X)))
    found: dict[str, float | None] = {f"{group}.users": side.users}
    for metric in METRICS:
        name = f"{group}.{metric.name}@{K}"
        found |= dict.fromkeys((name, f"{name}.low", f"{name}.high"))
        if not side.users:
            continue
        values_N = side.mean_by_user(metric.gains(side.table[MODEL].to_numpy(), K))
        low, high = bootstrap_mean(
            values_N, rng, samples=config.bootstrap, level=config.level, merge_equal=False
        )
        found |= {name: float(values_N.mean()), f"{name}.low": low, f"{name}.high": high}
    return found
