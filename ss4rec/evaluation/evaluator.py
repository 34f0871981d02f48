"""From a scorer and batches of users to ranks, and from ranks to metrics; no Ray, and no matter whence the batches.

Ranks are rows of a table with one row a target, so parts that different workers ranked are merged by concatenation;
`require_all_targets` is the check that none is missing or counted twice. In a mean over users each user counts once,
however many targets there are.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from pydantic import BaseModel, ConfigDict, NonNegativeInt, PositiveInt
from torch import Tensor

from ss4rec.data.batches.batch import EvalBatch
from ss4rec.errors import DataError
from ss4rec.evaluation.bootstrap import bootstrap_mean
from ss4rec.evaluation.lists import ListResult
from ss4rec.evaluation.metrics import METRICS, Metric, auc, hit_rate, ndcg
from ss4rec.evaluation.ranks import target_ranks
from ss4rec.evaluation.recommended import LIST_COLUMNS, ListSpec
from ss4rec.evaluation.scorers import Scorer
from ss4rec.protocol.settings import Protocol

Seen = Literal["kept", "excluded"]
TargetTime = Literal["known", "unknown"]
SETTINGS: tuple[tuple[Seen, TargetTime], ...] = (
    ("kept", "known"),
    ("excluded", "known"),
    ("kept", "unknown"),
    ("excluded", "unknown"),
)
"""Whether seen items stay in the ranking, and whether the scorer may use the target's time."""
_WITH_INTERVAL: tuple[Metric, ...] = (hit_rate, ndcg)
_INTERVAL_K = 10


class SettingResult(BaseModel):
    """Metrics in one of the four settings."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    seen: Seen
    """Whether items of the history stay in the ranking."""
    target_time: TargetTime
    """Whether the scorer may use the time of the target."""
    metrics: dict[str, float]
    """Mean over users of each user's mean over targets, by name as in `NDCG@10`; `AUC` where it is known."""
    by_target: dict[str, float] = {}
    """Mean over all targets, where users have several."""
    cold: dict[str, float] = {}
    """Where there are cold targets: mean over users of each user's mean over these alone."""
    warm: dict[str, float] = {}
    """The same over all other targets."""
    intervals: dict[str, tuple[float, float]]
    """95 % bootstrap interval over users of HR@10 and NDCG@10, where 10 is one of the cut-offs."""


class EvalResult(BaseModel):
    """Metrics of one scorer in all settings."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    protocol: Protocol = Protocol()
    """What was trained on and tested; leave-one-out where none is written."""
    num_users: PositiveInt
    """Users ranked."""
    num_targets: NonNegativeInt = 0
    """Targets ranked; 0 where none is written: one a user."""
    cold_targets: NonNegativeInt = 0
    """Targets whose item never trained; misses, but for those that were ranked by features of their item."""
    cold_ranked: NonNegativeInt = 0
    """Cold targets that were ranked."""
    settings: tuple[SettingResult, ...]
    """In the order of `SETTINGS`."""
    lists: ListResult | None = None
    """Metrics of the recommended lists, in the protocol's own setting; None where no lists were kept."""

    def setting(self, seen: Seen, target_time: TargetTime) -> SettingResult:
        """Return the metrics in one setting."""
        return next(s for s in self.settings if (s.seen, s.target_time) == (seen, target_time))


def rank_column(seen: Seen, target_time: TargetTime) -> str:
    """Return the column of `rank_users`'s table that has the ranks in this setting."""
    return f"rank_{seen}_{target_time}"


def rank_users(scorer: Scorer, batches: Iterable[EvalBatch], lists: ListSpec | None = None) -> pa.Table:
    """Rank every target in `batches`; a stretch of scores of one batch is in memory at a time.

    With `lists` each user's recommended list is kept too.

    Returns:
        One row a target: `user`, `history` (events before it), `target` (item, 0: never trained), `target_time` and
        `last_time` (unix seconds), all int64, `weight` float64 (1 / targets of the user), and four float64 columns
        named by `rank_column`. With `lists` also `recommended.LIST_COLUMNS`.

    Raises:
        NonFiniteError: if a score is NaN.
    """
    columns = [(name, pa.int64()) for name in ("user", "history", "target", "target_time", "last_time")]
    schema = pa.schema(
        [*columns, ("weight", pa.float64()), *((rank_column(*s), pa.float64()) for s in SETTINGS)]
    )
    if lists:
        schema = pa.schema([*schema, *LIST_COLUMNS])
    parts = [pa.table(rank_batch(scorer, batch, lists), schema=schema).to_batches() for batch in batches]
    return pa.Table.from_batches([part for several in parts for part in several], schema=schema)


def rank_batch(
    scorer: Scorer, batch: EvalBatch, lists: ListSpec | None = None
) -> dict[str, npt.NDArray[Any] | pa.Array]:
    """Rank one batch in all settings; columns as in `rank_users`."""
    kept_B, excluded_B, more = _ranks(scorer, batch, lists, target_time_known=True)
    columns: dict[str, Tensor] = {
        "user": batch.users_S,
        "history": batch.histories_S,
        "target": batch.targets_S,
        "target_time": batch.target_times_S,
        "last_time": batch.last_times_S,
        "weight": batch.weights_S,
        "rank_kept_known": kept_B,
        "rank_excluded_known": excluded_B,
    }
    if scorer.uses_target_time:
        kept_B, excluded_B, later = _ranks(scorer, batch, lists, target_time_known=False)
        more = later if lists and not lists.target_time_known else more
    columns |= {"rank_kept_unknown": kept_B, "rank_excluded_unknown": excluded_B}
    return {name: values_B.cpu().numpy() for name, values_B in columns.items()} | more


def require_all_targets(users_N: npt.NDArray[np.int64], targets_U: npt.NDArray[np.int64]) -> None:
    """Check that `users_N`, the users of all ranked targets in any order, has each user as often as he has targets.

    Raises:
        DataError: naming users that are missing, doubled or unknown.
    """
    is_known_N = (users_N >= 0) & (users_N < len(targets_U))
    times_U = np.bincount(users_N[is_known_N], minlength=len(targets_U))
    wrong = {
        "missing": np.flatnonzero(times_U < targets_U),
        "doubled": np.flatnonzero(times_U > targets_U),
        "unknown": users_N[~is_known_N],
    }
    found = [f"{len(users)} {what} (first: {users[0]})" for what, users in wrong.items() if len(users)]
    if found:
        what = f"each of {len(targets_U)} users once" if (targets_U == 1).all() else "each target once"
        raise DataError(
            f"{len(users_N)} rank rows do not hold {what}: {', '.join(found)}; "
            "evaluate again, and prepare the data again if that does not help"
        )


def summarise(
    ranks: pa.Table,
    ks: Sequence[int],
    seed: int = 0,
    protocol: Protocol | None = None,
    num_items: int | None = None,
    lists: ListResult | None = None,
    trained: int | None = None,
) -> EvalResult:
    """Reduce the ranks of all targets to metrics.

    Args:
        ranks: table as from `rank_users`, parts concatenated.
        ks: cut-offs.
        seed: seed of the bootstrap.
        protocol: what was ranked; None: leave-one-out.
        num_items: items that were ranked, for the AUC.
        lists: metrics of the recommended lists, if there are any.
        trained: `Plan.trained`, where items that never trained may be ranked; None: they are not.
    """
    results = []
    target_N = ranks["target"].to_numpy() if "target" in ranks.column_names else None
    unranked_N = np.isinf(ranks[rank_column("kept", "known")].to_numpy())
    cold_N = unranked_N if trained is None or target_N is None else unranked_N | (target_N > trained)
    by_user = PerUser(ranks["user"].to_numpy())
    for seen, target_time in SETTINGS:
        ranks_N = ranks[rank_column(seen, target_time)].to_numpy()
        per_user = {
            f"{metric.name}@{k}": by_user.mean(metric.gains(ranks_N, k)) for metric in METRICS for k in ks
        }
        if num_items and "unseen" in ranks.column_names:
            candidates_N = ranks["unseen"].to_numpy() if seen == "excluded" else num_items
            per_user["AUC"] = by_user.mean(auc(ranks_N, candidates_N))
        by_target = {f"{metric.name}@{k}": metric(ranks_N, k) for metric in METRICS for k in ks}
        intervals = {
            f"{metric.name}@{_INTERVAL_K}": bootstrap_mean(per_user[f"{metric.name}@{_INTERVAL_K}"], seed)
            for metric in _WITH_INTERVAL
            if _INTERVAL_K in ks
        }
        results.append(
            SettingResult(
                seen=seen,
                target_time=target_time,
                metrics={name: float(gains_U.mean()) for name, gains_U in per_user.items()},
                by_target=by_target if by_user.several else {},
                cold=_of_part(by_user, ranks_N, cold_N, ks) if cold_N.any() else {},
                warm=_of_part(by_user, ranks_N, ~cold_N, ks) if cold_N.any() else {},
                intervals=intervals,
            )
        )
    return EvalResult(
        protocol=protocol or Protocol(),
        num_users=by_user.num_users,
        num_targets=ranks.num_rows,
        cold_targets=int(cold_N.sum()),
        cold_ranked=int((cold_N & ~unranked_N).sum()),
        settings=tuple(results),
        lists=lists,
    )


def _of_part(
    by_user: PerUser, ranks_N: npt.NDArray[np.float64], part_N: npt.NDArray[np.bool_], ks: Sequence[int]
) -> dict[str, float]:
    """Return the metrics over some targets, by name; of users who have none of them nothing counts."""
    if not part_N.any():
        return {}
    own = PerUser(by_user.users_U[by_user.place_N[part_N]])
    return {
        f"{metric.name}@{k}": float(own.mean(metric.gains(ranks_N[part_N], k)).mean())
        for metric in METRICS
        for k in ks
    }


class PerUser:
    """Means over each user's targets.

    Args:
        users_N: user of each target.
    """

    def __init__(self, users_N: npt.NDArray[np.int64]) -> None:
        self.users_U, self.place_N, self.counts_U = np.unique(
            users_N, return_inverse=True, return_counts=True
        )
        self.num_users = len(self.users_U)
        self.several = len(users_N) > self.num_users

    def mean(self, values_N: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Return the mean of each user `[U]`; where each has one target, the values in their order."""
        if not self.several:
            return values_N
        return np.bincount(self.place_N, weights=values_N, minlength=self.num_users) / self.counts_U


def _ranks(
    scorer: Scorer, batch: EvalBatch, lists: ListSpec | None, *, target_time_known: bool
) -> tuple[Tensor, Tensor, dict[str, npt.NDArray[Any] | pa.Array]]:
    """Score and rank one batch with the target's time known or not; lists too if this is their setting."""
    with torch.inference_mode():
        scores = scorer.scores(batch, target_time_known=target_time_known)
        wanted = lists and (lists.target_time_known == target_time_known or not scorer.uses_target_time)
        return (
            *target_ranks(scores, batch.targets_S),
            lists.columns(scores, batch) if lists and wanted else {},
        )
